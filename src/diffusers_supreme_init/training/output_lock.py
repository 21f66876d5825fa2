"""One run at a time in an output folder: of two, the last writer would win, and a checkpoint belong to neither."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from ..errors import OutputError

_NAME = ".run.lock"


@contextlib.contextmanager
def only_run_in(output_dir: str | None, accelerator: Accelerator) -> Iterator[None]:
    """Hold a lock on the folder of a run; the system releases it if the process is killed.

    Raises:
        OutputError: Another run holds it; in every process of this one.
    """
    lock = None
    if output_dir is not None and accelerator.is_main_process:
        lock = FileLock(Path(output_dir) / _NAME, timeout=0)
    is_taken = False
    try:
        if lock is not None:
            lock.acquire()
    except Timeout:
        is_taken = True
    except (OSError, NotImplementedError):
        lock = None  # a file system without locks
    if accelerator.num_processes > 1:
        is_taken = bool(accelerator.reduce(torch.tensor(float(is_taken), device=accelerator.device), reduction="sum"))
    if is_taken:
        raise OutputError(
            f"expected a folder of this run alone, got {str(output_dir)!r}, where another run is training; choose "
            "another output_dir, or wait"
        )
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
            with contextlib.suppress(OSError):
                (Path(output_dir or "") / _NAME).unlink(missing_ok=True)
