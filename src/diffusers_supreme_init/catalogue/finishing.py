"""What a library has beside its concepts, written when a process has done its part: index, card, packs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from ..formats.library import LibraryEntry
from ..sharing.library_folder import refresh_library

_LOCK = ".index.lock"


def finish(folder: Path) -> dict[str, LibraryEntry]:
    """Write the index, the card and the packs of what is there; the last process to come finds all that others saved.

    Raises:
        OutputError: The folder cannot be written.
    """
    with _one_at_a_time(folder):
        return refresh_library(folder)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / _LOCK)
    with contextlib.suppress(NotImplementedError):  # a disk without locks: the last one to write wins
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
