"""What a library has beside its concepts, written when a process has done its part: index, card, packs, pages."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from ..formats.library import LibraryEntry
from ..sharing.library_folder import refresh_library
from .ledger import read_ledgers
from .page import write_page

_LOCK = ".index.lock"


def finish(folder: Path) -> dict[str, LibraryEntry]:
    """Write the index, the card, the packs and the pages of what is there.

    Of several processes, the last one to come finds all that the others saved.

    Raises:
        OutputError: The folder cannot be written.
    """
    with _one_at_a_time(folder):
        entries = refresh_library(folder)
        write_page(folder, entries, read_ledgers(folder))
    return entries


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / _LOCK)
    with contextlib.suppress(NotImplementedError):  # a disk without locks: the last one to write wins
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
