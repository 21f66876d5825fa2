"""Training runs in processes of their own (`run_training.py`), without the seconds that importing takes.

They are forks of two processes that have imported everything. Strings have other hashes in one than in the other, as
in any two processes of a user, so a run of one that is repeated or resumed by the other must not depend on them.
"""

import functools
import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = str(Path(__file__).parent / "run_training.py")


@functools.cache
def _forking_process(hashes: int) -> subprocess.Popen[str]:
    """Return a process that has imported everything; it ends when its input is closed, with this one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(hashes)}
    command = [sys.executable, WORKER, "--fork"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def run_forked(
    output_dir: Path, settings: dict[str, Any], *arguments: str, hashes: int = 1, num_processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Train in a fork, or in two that are told their places as `accelerate launch` would tell them.

    Args:
        output_dir: Where the run saves; what it prints is beside it.
        settings: Of the training.
        arguments: Options of `run_training.py`.
        hashes: Which of the two processes is forked, 1 or 2; both are if `num_processes` is 2.
        num_processes: 1 or 2.
    """
    output = output_dir.with_name(f"{output_dir.name}.txt")
    output.write_bytes(b"")
    given = [str(output_dir), json.dumps(settings), *arguments]
    servers = [_forking_process(hashes)] if num_processes == 1 else [_forking_process(number) for number in (1, 2)]
    for server, environment in zip(servers, _environments(num_processes), strict=True):
        assert server.stdin is not None
        server.stdin.write(json.dumps([str(output), given, environment]) + "\n")
        server.stdin.flush()
    codes = [_answer_of(server) for server in servers]
    return subprocess.CompletedProcess(given, next(filter(None, codes), 0), stderr=output.read_text())


def _answer_of(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    ready, _, _ = select.select([server.stdout], [], [], 600)
    assert ready, "a run did not end in 600 s"
    return int(server.stdout.readline())


def _environments(num_processes: int) -> list[dict[str, str]]:
    if num_processes == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {
        "ACCELERATE_USE_CPU": "1",
        "ACCELERATE_MIXED_PRECISION": "no",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
    }
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]
