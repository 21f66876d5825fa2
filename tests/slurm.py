"""A real Slurm cluster of this one machine: munged, slurmctld and slurmd, in a folder of their own."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
_PATH = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
_SECONDS = 60


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


@contextlib.contextmanager
def cluster(folder: Path, num_cpus: int) -> Iterator[dict[str, str]]:
    """Bring a cluster up; yield the environment in which its commands find it, and take it down again."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    environment = os.environ | {"PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    (folder / "slurm.conf").write_text(_configuration(folder, num_cpus))
    places = {name: str(folder / f"munge.{name}") for name in ("socket", "pid", "log", "seed")}
    munged = ["munged", "--foreground", "--force", "--key-file", str(key), "--socket", places["socket"]]
    munged += ["--pid-file", places["pid"], "--log-file", places["log"], "--seed-file", places["seed"]]
    with contextlib.ExitStack() as stack:
        for command in (munged, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "here"]):
            log = stack.enter_context(open(folder / f"{command[0]}.out", "wb"))
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            stack.callback(_end, process)
            if command is munged:
                _wait(lambda: Path(places["socket"]).exists(), folder)
        _wait(lambda: "idle" in _answer(["sinfo", "--noheader", "--format=%T"], environment), folder)
        yield environment


def submit(arguments: list[str], environment: dict[str, str]) -> str:
    """Submit a job; return its number."""
    return subprocess.run(
        ["sbatch", "--parsable", *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def states(job: str, environment: dict[str, str]) -> dict[str, str]:
    """Return ``{task: state}`` of those tasks of a job that have not ended."""
    lines = _answer(["squeue", "--noheader", "--array", "--jobs", job, "--format=%K %T"], environment).splitlines()
    return dict(line.split() for line in lines)


def _configuration(folder: Path, num_cpus: int) -> str:
    host = socket.gethostname().split(".")[0]
    ports = [_free_port(), _free_port()]
    return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={pwd.getpwuid(os.getuid()).pw_name}
SlurmdUser={pwd.getpwuid(os.getuid()).pw_name}
AuthType=auth/munge
AuthInfo=socket={folder / "munge.socket"}
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder / "state"}
SlurmdSpoolDir={folder / "spool"}
SlurmctldPidFile={folder / "slurmctld.pid"}
SlurmdPidFile={folder / "slurmd.pid"}
SlurmctldLogFile={folder / "slurmctld.log"}
SlurmdLogFile={folder / "slurmd.log"}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=here NodeHostname={host} NodeAddr=127.0.0.1 CPUs={num_cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _answer(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True).stdout


def _wait(is_so: object, folder: Path) -> None:
    assert callable(is_so)
    until = time.monotonic() + _SECONDS
    while not is_so():
        said = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(folder.glob("*.out")))
        assert time.monotonic() < until, f"the cluster did not come up:\n{said}"
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
