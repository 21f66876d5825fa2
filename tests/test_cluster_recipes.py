"""The recipes in examples/cluster: run for real where that is possible here, else checked against the programs."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slurm
from conftest import ROOT, build_tiny_pipeline
from hub.client import client_environment
from hub.faults import Fault
from hub.server import WRITE_TOKEN, HubServer
from run_catalogue import draw_catalogue, library_files

from diffusers_supreme_init import verify_library

RECIPES = ROOT / "examples" / "cluster"
SKYPILOT = "skypilot==0.14.1"
README = (RECIPES / "README.md").read_text()


def typed(beginning: str) -> list[str]:
    """Return the words of a command in the README, from how it begins."""
    (command,) = re.findall(rf"`({beginning} ?[^`]*)`", README)
    return shlex.split(command)


PROGRAMS = os.environ | {
    "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "1",
    "HF_HUB_OFFLINE": "1",
}
QUICK = ("--max_train_steps", "2", "--validation_samples", "2")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, bytes], dict[str, str]]:
    """Return list, library and model as a recipe takes them, the undisturbed library, and an environment."""
    base = tmp_path_factory.mktemp("recipe")
    toys = draw_catalogue(base / "toys", range(12))
    build_tiny_pipeline().save_pretrained(base / "model")
    plain = ["supreme-init", "train", "--concepts", str(toys), "--output_dir", str(base / "plain")]
    subprocess.run([*plain, "--model", str(base / "model"), *QUICK], check=True, env=PROGRAMS, capture_output=True)
    return [str(toys), str(base / "library"), str(base / "model")], library_files(base / "plain"), PROGRAMS


@pytest.mark.slow
def test_accelerate_launch_gives_the_same_library(recipe: Any, tmp_path: Path) -> None:
    (toys, _, model), undisturbed, environment = recipe
    command = [
        str(ROOT / "examples" / "cluster" / "accelerate.sh"),
        "2",
        toys,
        str(tmp_path / "library"),
        model,
        *QUICK,
    ]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=600)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in (tmp_path / "library").glob("ledger-*")} == {
        "ledger-0-of-2.jsonl",
        "ledger-1-of-2.jsonl",
    }
    assert library_files(tmp_path / "library") == undisturbed


@pytest.mark.long
@pytest.mark.parametrize("num_machines", [1, 2])
def test_a_concept_that_fails_ends_no_process_of_accelerate_launch(num_machines: int, tmp_path: Path) -> None:
    """Of two processes, on one machine or on two, which are told their places as the script says."""
    toys, library = draw_catalogue(tmp_path / "toys", range(8)), tmp_path / "library"
    build_tiny_pipeline().save_pretrained(tmp_path / "model")
    (toys / "3.png").unlink()
    command = [str(RECIPES / "accelerate.sh"), "2", str(toys), str(library), str(tmp_path / "model"), *QUICK]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MAIN_PROCESS_IP": "127.0.0.1", "MAIN_PROCESS_PORT": str(free.getsockname()[1])}
    places = [{"NUM_MACHINES": "2", "MACHINE_RANK": str(rank), **address} for rank in range(2)]
    machines = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=PROGRAMS | place)
        for place in (places if num_machines == 2 else [{}])
    ]
    said = [machine.communicate(timeout=600)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0] * num_machines, said
    assert "1 failed" in "".join(said)
    assert "".join(said).count("Look at ") == 2  # what each process says at its end
    assert {path.name for path in library.glob("ledger-*")} == {f"ledger-{part}-of-2.jsonl" for part in range(2)}
    index = json.loads((library / "training.json").read_bytes())
    assert index["folders"] == [f"toy-{seed}" for seed in range(8) if seed != 3]
    assert verify_library(library) == []


@pytest.mark.slow
def test_a_slurm_array_with_a_killed_task_gives_the_same_library(recipe: Any, tmp_path: Path) -> None:
    if missing := slurm.missing_programs():
        assert os.environ.get("CI") != "true", (
            f"expected Slurm (apt install slurmctld slurmd munge), lacking {missing}"
        )
        pytest.skip(f"Slurm is not installed: {', '.join(missing)}")
    (toys, library, model), undisturbed, environment = recipe
    (tmp_path / "cluster").mkdir()
    script = str(ROOT / "examples" / "cluster" / "slurm.sh")
    with slurm.cluster(tmp_path / "cluster", 2) as found:
        environment = environment | {name: found[name] for name in ("PATH", "SLURM_CONF")}
        environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
        submitted = ["--array=0-3", "--chdir", str(tmp_path), script, toys, library, model, *QUICK]
        job = slurm.submit(submitted, environment)
        ledger = Path(library) / "ledger-2-of-4.jsonl"
        wait(lambda: ledger.exists() and ledger.stat().st_size > 0)
        subprocess.run(["scancel", "--signal=KILL", "--full", f"{job}_2"], check=True, env=environment)
        wait(lambda: not slurm.states(job, environment))
        assert len(library_files(Path(library))) < len(undisturbed), "the task had ended before it was killed"
        again = slurm.submit(submitted, environment)
        wait(lambda: not slurm.states(again, environment))
        logs = "\n".join(path.read_text() for path in sorted(tmp_path.glob(f"catalogue-{again}_*.log")))
    assert library_files(Path(library)) == undisturbed, logs
    assert verify_library(library) == []


def wait(is_so: Callable[[], bool], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def part(index: int, recipe: Any, server: HubServer, folder: Path, **more: str) -> subprocess.Popen[str]:
    """Start `hub_part.py` on a machine that knows nothing, for one of two parts."""
    (toys, _, model), _, environment = recipe
    home = folder / "home"
    home.mkdir(parents=True)
    variables = client_environment(server, home, mode="lfs", token=WRITE_TOKEN) | {"PATH": environment["PATH"], **more}
    command = [sys.executable, str(RECIPES / "hub_part.py"), f"{toys}/metadata.jsonl", "user/library", model]
    return subprocess.Popen(
        [*command, "2", str(index), *QUICK],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_parts_on_machines_that_forget_everything_make_one_library(recipe: Any, tmp_path: Path) -> None:
    _, undisturbed, _ = recipe
    with HubServer("lfs") as server:
        killed = part(0, recipe, server, tmp_path / "killed")
        wait(lambda: server.has_repo("user/library") and "training.json" in server.files("user/library"))
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        done = set(json.loads(server.files("user/library")["training.json"].data)["folders"])
        for name, index in (("again", 0), ("other", 1)):
            process = part(index, recipe, server, tmp_path / name)
            said, _ = process.communicate()
            assert process.returncode == 0, said
            if name == "again":
                trained = [int(number) for number in re.findall(r"^(\d+) trained", said, re.MULTILINE)]
                assert 0 < sum(trained) < 12 - len(done)  # what was on the Hub was not trained again
        files = {name: blob.data for name, blob in server.files("user/library").items()}
    assert {name: files[name] for name in undisturbed if name.endswith("embeds.safetensors")} == {
        name: data for name, data in undisturbed.items() if name.endswith("embeds.safetensors")
    }
    index = json.loads(files["training.json"])
    assert len(index["folders"]) == 12


@pytest.mark.long
def test_what_is_trained_anew_replaces_what_is_on_the_hub_and_nothing_else(recipe: Any, tmp_path: Path) -> None:
    """A part that began before another one pushed pushes after it; its own first push is refused."""
    (toys, *others), before, environment = recipe
    listed = shutil.copytree(toys, tmp_path / "toys")
    for number, picture in enumerate(sorted(listed.glob("*.png"))):
        shutil.copy(sorted(Path(toys).glob("*.png"))[number - 1], picture)
    changed = ([str(listed), *others], before, environment)
    with HubServer("lfs") as server:
        server.create_repo("user/library", {n: d for n, d in before.items() if n not in ("index.html", "summary.csv")})
        early = part(0, changed, server, tmp_path / "early", PIECES="2")
        wait(lambda: any((tmp_path / "early" / "library").glob("ledger-*")))
        os.killpg(early.pid, signal.SIGSTOP)
        late = part(1, changed, server, tmp_path / "late", PIECES="2")
        said, _ = late.communicate()
        assert late.returncode == 0, said
        server.add_fault(Fault("POST", r".*/commit/.*", 403))
        os.killpg(early.pid, signal.SIGCONT)
        said, _ = early.communicate()
        assert early.returncode == 0, said
        assert "cannot push to 'user/library'" in said
        files = {name: blob.data for name, blob in server.files("user/library").items()}
    rows = [name for name in before if name.endswith("embeds.safetensors")]
    assert len(rows) == 12
    assert not [name for name in rows if files[name] == before[name]]


# programs that cannot run here: their own readers of commands


def test_hugging_face_jobs_take_the_command(tmp_path: Path) -> None:
    """`--dry-run` prints what would be submitted, without a network."""
    words = typed("hf jobs uv run")
    program = str(Path(sys.executable).parent / "hf")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "NO_COLOR": "1"}
    command = [program, *words[1:4], "--dry-run", *words[4:]]
    ended = subprocess.run(command, cwd=RECIPES, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = re.sub(r"\s+", " ", ended.stdout)
    assert "script hub_part.py args /products/metadata.jsonl user/library MODEL 16 3" in said
    assert "not submitted" in said
    subprocess.run([program, *typed("hf jobs ps")[1:], "--help"], env=environment, check=True, capture_output=True)


READ_TASK = """
import sys, sky
task = sky.Task.from_yaml("skypilot.yaml")
(resources,) = task.resources
assert resources.use_spot and resources.accelerators == {"L4": 1}, resources
print(task.envs["PARTS"], task.run)
"""


@pytest.mark.slow
def test_skypilot_takes_the_task_and_the_commands(tmp_path: Path) -> None:
    """SkyPilot has many dependencies: it gets an environment of its own."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", SKYPILOT], check=True, timeout=900)
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": "", "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    said = subprocess.run(
        [python, "-c", READ_TASK], cwd=RECIPES, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert "16 python /catalogue/hub_part.py /products/metadata.jsonl $REPOSITORY $MODEL $PARTS $PART" in said
    for command in re.findall(r"`(sky [^`]+)`", README):
        program, group, name, *words = shlex.split(command)
        asked = [str(tmp_path / "venv" / "bin" / program), group, name, "--help"]
        help_text = subprocess.run(asked, env=environment, check=True, capture_output=True, text=True).stdout
        assert all(re.search(rf"^ +(-\w, )?{word}\b", help_text, re.MULTILINE) for word in words if word[0] == "-")
