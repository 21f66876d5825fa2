"""The ledger of a process: what happened to each concept, in lines of JSON that are only ever appended.

Each process has its own file, because appending from several machines is not atomic on network disks. A line cut by a
crash is the last one of its file; it is cut off before the next is written.
"""

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import OutputError
from ..files import write_atomically
from .shards import Shard

logger = logging.getLogger(__name__)

_NAME = "ledger-{}.jsonl"
_LOCK = ".ledger-{}.lock"


class Ledger:
    """The ledger of one process, to be appended to; use within `alone`."""

    def __init__(self, output_dir: Path, shard: Shard) -> None:
        """Open the file, and cut off a last line that was not written to its end.

        Raises:
            OutputError: The file cannot be written.
        """
        self._path = output_dir / _NAME.format(shard)
        try:
            _repair(self._path)
        except OSError as error:
            raise OutputError(f"cannot write {str(self._path)!r}: {error.strerror or error}") from error

    def append(self, state: str, token: str, key: str | None, **facts: Any) -> None:
        """Write one line, whole or not at all.

        Args:
            state: ``"words"``, ``"saved"`` (before its folder is put in its place), ``"pushed"`` or ``"failed"``.
            token: Placeholder token, or the place in the list if that cannot be read.
            key: Key of the concept; None if it could not be computed.
            facts: What else is known, as JSON values.

        Raises:
            OutputError: The disk is full, or the file cannot be written.
        """
        about = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname()}
        line = json.dumps({"state": state, "token": token, "key": key, **facts, **about}) + "\n"
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with open(self._path, "ab", buffering=0) as file:
                written = file.write(line.encode())
                os.fsync(file.fileno())
            if written < len(line.encode()):
                raise OSError("the disk is full")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self._path, size)
            raise OutputError(
                f"cannot write {str(self._path)!r}: {error.strerror or error}; what is saved stays, and the same "
                "command goes on"
            ) from error


def read_ledgers(output_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of all ledgers in a folder, by time; a last line that is not written to its end is left out.

    Raises:
        OutputError: A line within a file is damaged.
    """
    lines = [line for path in sorted(output_dir.glob(_NAME.format("*"))) for line in _read(path)]
    return sorted(lines, key=lambda line: str(line.get("time")))


def merge_ledgers(source: Path, output_dir: Path) -> None:
    """Add the lines of another folder's ledgers to the files of the same names, each line once.

    Raises:
        OutputError: A file cannot be written.
    """
    for path in sorted(source.glob(_NAME.format("*"))):
        target = output_dir / path.name
        try:
            _repair(target)
            known = set(target.read_bytes().split(b"\n"))
            lines = [line for line in path.read_bytes().split(b"\n")[:-1] if line not in known]
            write_atomically(target, target.read_bytes() + b"".join(line + b"\n" for line in lines))
        except OSError as error:
            raise OutputError(f"cannot write {str(target)!r}: {error.strerror or error}") from error


@contextlib.contextmanager
def alone(output_dir: Path, shard: Shard) -> Iterator[None]:
    """Wait until no other process has this part of a folder's catalogue, and keep others from it meanwhile.

    The system ends this if the process is killed.

    Raises:
        OutputError: Somebody is at work there who divides the catalogue into another number of parts.
    """
    own = FileLock(output_dir / _LOCK.format(shard), timeout=0)
    try:
        try:
            _take(own, shard, output_dir)
            _check_same_division(output_dir, shard)
        except NotImplementedError:
            logger.warning("%s: a disk without locks; see that no two processes have the same part", output_dir)
        yield
    finally:
        own.release()


def _take(lock: FileLock, shard: Shard, output_dir: Path) -> None:
    try:
        lock.acquire()
    except Timeout:
        logger.warning("%s: another process is training part %s; waiting until it ends", output_dir, shard)
        lock.acquire(timeout=-1)


def _check_same_division(output_dir: Path, shard: Shard) -> None:
    others = [path for path in output_dir.glob(_LOCK.format("*")) if not path.stem.endswith(f"-of-{shard.count}")]
    if taken := [path for path in others if _is_taken(path)]:
        there = taken[0].stem.removeprefix(".ledger-")
        raise OutputError(
            f"expected a folder where nobody divides the catalogue otherwise, got {str(output_dir)!r}, where part "
            f"{there} is being trained, and this is {shard}; wait for it, or choose the same num_shards"
        )


def _is_taken(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _repair(path: Path) -> None:
    path.touch()
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        logger.warning("%s: the last line was cut when its process ended; it is left out", path)
        os.truncate(path, whole)


def _read(path: Path) -> list[dict[str, Any]]:
    *lines, _ = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append({"state": "", "token": "", "key": None, **json.loads(line)})
        except (ValueError, TypeError) as error:
            raise OutputError(
                f"{str(path)!r}, line {number}: expected a line of JSON, got a damaged one; delete that line (what is "
                "saved stays, since its folder says so)"
            ) from error
    return found
