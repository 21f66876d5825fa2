"""How a test talks to the Hub: from a process of its own, since the client reads its settings when it is imported.

    result = run_client(server, "import huggingface_hub as h; print(h.whoami()['name'])", mode="xet")
    assert result.stdout == "user\n"

Starting Python and importing takes seconds; for many cases there is a process that stays:

    with hub_worker("lfs") as worker:
        worker.server.create_repo("user/mug", {"README.md": b"..."})
        assert "README.md" in worker.run("result = huggingface_hub.list_repo_files('user/mug')").value
        worker.reset()  # the next case finds an empty Hub

Importing diffusers there takes seconds again; `shared_worker` is the one that has done so before, for another module.

All let the client retry without its waits (`prelude`).
"""

import atexit
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .server import WRITE_TOKEN, HubServer
from .store import Mode

TESTS_DIR = Path(__file__).resolve().parent.parent
_NOT_INHERITED = ("HF_", "HUGGING", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "TRANSFORMERS_", "DIFFUSERS_", "XDG_")


@dataclass(frozen=True)
class Result:
    """What became of the code.

    Args:
        stdout: What it printed.
        stderr: What it printed there, with the client's log and warnings and any traceback.
        returncode: 0 if it ended well.
        seconds: Time it took; of `run_client`, with the start of Python.
        error_type: Name of the exception's type; only from a worker, as all below.
        error: The exception's message.
        value: What the code assigned to `result`.
        waits: Seconds that the client wanted to wait before each retry.
    """

    stdout: str
    stderr: str
    returncode: int
    seconds: float
    error_type: str | None = None
    error: str | None = None
    value: Any = None
    waits: tuple[float, ...] = ()

    def check(self) -> Self:
        """Fail with what was printed unless the code ended well."""
        if self.returncode:
            raise AssertionError(f"the client ended with {self.returncode}:\n{self.stdout}\n{self.stderr}")
        return self


def client_environment(server: HubServer, home: Path, *, mode: Mode, token: str | None) -> dict[str, str]:
    """Return the environment of a client: nothing of the machine's own settings, nothing of a real Hub.

    Only ``lfs`` turns xet off: with it, an upload makes one commit and does not retry it.
    """
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(_NOT_INHERITED)}
    settings = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": str(int(mode == "lfs")),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_XET_TELEMETRY_ENABLED": "0",
        "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "50ms",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS_DIR), *filter(None, [kept.get("PYTHONPATH")])]),
    }
    return kept | settings | ({} if token is None else {"HF_TOKEN": token})


def run_client(
    server: HubServer,
    code_or_script: str | Path,
    *,
    mode: Mode,
    token: str | None = WRITE_TOKEN,
    timeout: float = 60.0,
    arguments: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> Result:
    """Run code, or a script with `arguments`, in a process that takes the server for the Hub.

    Raises:
        subprocess.TimeoutExpired: It took longer than `timeout` seconds.
    """
    server.mode = mode
    with tempfile.TemporaryDirectory(prefix="hub_client_") as folder:
        script = code_or_script if isinstance(code_or_script, Path) else Path(folder, "snippet.py")
        if isinstance(code_or_script, str):
            script.write_text(code_or_script, encoding="utf-8")
        variables = client_environment(server, Path(folder), mode=mode, token=token) | (environment or {})
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "hub.worker", str(script), *arguments],
            env=variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    return Result(done.stdout, done.stderr, done.returncode, time.monotonic() - start)


class _Process:
    """A server, and its client process once there is something to do."""

    def __init__(self, mode: Mode) -> None:
        self.server = HubServer(mode)
        self.server.__enter__()
        self.forget = False
        self._folder = tempfile.TemporaryDirectory(prefix="hub_worker_")
        self.folder = Path(self._folder.name)
        self._process: subprocess.Popen[str] | None = None

    def close(self) -> None:
        self.kill()
        self.server.__exit__(None, None, None)
        self._folder.cleanup()

    def exchange(self, order: str, timeout: float) -> dict[str, Any] | None:
        """Send an order and return the answer, None if none came in time."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(order + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        line = process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        status = process.wait(5.0) if ready else None  # the pipe may be closed a little before the process is gone
        self.kill()
        if ready:
            raise RuntimeError(f"the client's process died with {status}")
        return None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            variables = client_environment(self.server, self.folder, mode=self.server.mode, token=None)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hub.worker"],
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self._process

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class HubWorker:
    """A server, and a client process that runs one snippet after another.

    Every snippet starts with fresh names: `huggingface_hub`, what `setup` defines, and `waits`.
    """

    def __init__(self, process: _Process, setup: str) -> None:
        self.server = process.server
        self._process, self._setup = process, setup

    def reset(self) -> None:
        """Empty the server, and let the client forget it before the next snippet."""
        self.server.reset()
        self._process.forget = True

    def run(self, code: str, *, token: str | None = WRITE_TOKEN, timeout: float = 60.0) -> Result:
        """Run a snippet; what it raises is told by the result.

        Raises:
            TimeoutError: It took longer than `timeout` seconds; the next snippet gets a new process.
        """
        folder, start = self._process.folder, time.monotonic()
        order = {
            "code": f"import huggingface_hub\n{self._setup}\n{code}",
            "token": token,
            "reset": self._process.forget,
            "output_dir": str(folder),
        }
        for name in ("stdout", "stderr"):
            (folder / name).write_text("")
        answer = self._process.exchange(json.dumps(order), timeout)
        self._process.forget = False
        stdout, stderr = ((folder / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        if answer is None:
            raise TimeoutError(f"the client did not end in {timeout} s; it had printed:\n{stdout}\n{stderr}")
        seconds, failed = time.monotonic() - start, answer["error_type"] is not None
        waits = tuple(answer.pop("waits"))
        return Result(stdout, stderr, int(failed), seconds, **answer, waits=waits)


@contextmanager
def hub_worker(mode: Mode, *, setup: str = "") -> Iterator[HubWorker]:
    """Yield a server and, from its first snippet on, a client that stays."""
    process = _Process(mode)
    try:
        yield HubWorker(process, setup)
    finally:
        process.close()


def shared_worker(mode: Mode, *, setup: str = "") -> HubWorker:
    """Return the worker that all modules share, with an empty server, and with the module's own `setup`.

    What a snippet imported, or changed in what it imported, stays.
    """
    worker = HubWorker(_shared_process(mode), setup)
    worker.reset()
    return worker


@functools.cache
def _shared_process(mode: Mode) -> _Process:
    process = _Process(mode)
    atexit.register(process.close)
    return process
