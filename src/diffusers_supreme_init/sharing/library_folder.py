"""The folders of a library -> its index, its card and its packs, written anew where something has changed."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import EmbeddingFileError, one_line
from ..file_names import CARD_NAME, RECORD_NAME, is_pack_name, sample_name
from ..files import read_safetensors, write_atomically
from ..formats.embedding_file import read_embedding
from ..formats.library import LibraryEntry, library_entry, read_index, weights_in
from ..formats.pack import PackedFile, pack_bytes, packs_of
from .concept_files import library_files

logger = logging.getLogger(__name__)


def refresh_library(folder: Path) -> dict[str, LibraryEntry]:
    """Write the index, the card and the packs of all concepts in a folder; return the index, sorted by folder.

    What they say follows from the concepts alone, so libraries of equal concepts are equal, however they came about.
    The part of the card that is the user's stays. A concept whose files cannot be read, because they are damaged or
    another process is replacing them, is left out, and a warning logged.

    Raises:
        OutputError: The folder cannot be written.
    """
    index = folder / RECORD_NAME
    known = (read_index(index.read_bytes()) if index.is_file() else None) or {}
    entries: dict[str, LibraryEntry] = {}
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if weights := weights_in(path):
            with _left_out_if_unreadable(path):
                entries[path.name] = _entry(path, weights, known.get(path.name))
    packed = _write_packs(folder, entries, known)
    card = folder / CARD_NAME
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    for name, data in library_files(packed, text).items() if packed else ():
        if not (folder / name).is_file() or (folder / name).read_bytes() != data:
            write_atomically(folder / name, data)
    packs = {entry.pack for entry in packed.values()}
    for path in folder.glob("pack-*"):
        if is_pack_name(path.name) and path.name not in packs:
            path.unlink()
    return packed


def pack_of_folders(folder: Path, entries: Mapping[str, LibraryEntry]) -> bytes:
    """Return the contents of a pack of some concepts of a library.

    Raises:
        EmbeddingFileError: A file is damaged.
        OSError: A file cannot be read.
    """
    return pack_bytes({name: file for one, entry in entries.items() for name, file in _files(folder / one, entry)})


def _write_packs(
    folder: Path, entries: Mapping[str, LibraryEntry], known: Mapping[str, LibraryEntry | None]
) -> dict[str, LibraryEntry]:
    """Write the packs of concepts that are not those of the index before; return the entries, with their packs."""
    packs = packs_of(entries)
    packed = {name: _with(entry, pack=packs[name]) for name, entry in entries.items()}
    for pack in sorted(set(packs.values())):
        members = {name: packed[name] for name, of_name in packs.items() if of_name == pack}
        before = {name: entry for name, entry in known.items() if entry is not None and entry.pack == pack}
        if _digests(members) == _digests(before) and (folder / pack).is_file():
            continue
        files: dict[str, PackedFile] = {}
        for name, entry in members.items():
            del packed[name]
            with _left_out_if_unreadable(folder / name):
                files |= dict(_files(folder / name, entry))
                packed[name] = entry
        if files:
            write_atomically(folder / pack, pack_bytes(files))
    return dict(sorted(packed.items()))


def _files(folder: Path, entry: LibraryEntry) -> Iterator[tuple[str, PackedFile]]:
    """Yield the embedding files of a concept, as a pack has them.

    Raises:
        EmbeddingFileError: A file is damaged, or not the one that was saved.
        OSError: A file cannot be read.
    """
    for weights, digest in zip(entry.weights, entry.sha256, strict=True):
        file = read_safetensors(folder / weights)
        if hashlib.sha256((folder / weights).read_bytes()).hexdigest() != digest:
            raise EmbeddingFileError(f"{weights}: its bytes are not those that were saved")
        yield f"{folder.name}/{weights}", (*file, digest)


@contextlib.contextmanager
def _left_out_if_unreadable(folder: Path) -> Iterator[None]:
    """Log that a concept's folder is damaged, or is being replaced by another process, instead of raising an error."""
    try:
        yield
    except (EmbeddingFileError, OSError) as error:
        logger.warning(
            "%s is not in the index: %s; unless another process is replacing it now, delete that folder, and the "
            "command that made it makes it anew",
            folder,
            one_line(error),
        )


def saved_digests(folder: Path) -> dict[str, str] | None:
    """Return what a concept's record says of its embedding files, ``{name: SHA-256}``; None if it says nothing."""
    try:
        found: Any = json.loads((folder / RECORD_NAME).read_bytes())["catalogue"]["sha256"]
        return {str(name): str(digest) for name, digest in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _entry(path: Path, weights: tuple[str, ...], known: LibraryEntry | None) -> LibraryEntry:
    """Return a concept's entry; its files are read only if they are not those that are listed already.

    The digests are those of the moment when it was saved, so that bytes that change later are found.
    """
    saved = saved_digests(path)
    if saved is not None and saved.keys() == set(weights):
        digests = tuple(saved[name] for name in weights)
    else:
        digests = tuple(hashlib.sha256((path / name).read_bytes()).hexdigest() for name in weights)
    sample = sample_name(0) if (path / sample_name(0)).is_file() else None
    is_known = known is not None and (known.weights, known.sha256) == (weights, digests)
    entry = known if is_known and known is not None else library_entry(read_embedding(path / weights[0]), weights)
    return _with(entry, sha256=digests, sample=sample)


def _with(entry: LibraryEntry, **changes: Any) -> LibraryEntry:
    return LibraryEntry(**{**vars(entry), **changes})


def _digests(entries: Mapping[str, LibraryEntry]) -> dict[str, tuple[str, ...]]:
    return {name: entry.sha256 for name, entry in entries.items()}
