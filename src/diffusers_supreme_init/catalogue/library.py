"""What is done with libraries: merge them, remove concepts, find what does not belong together."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import EmbeddingFileError, OutputError, one_line
from ..file_names import CARD_NAME, RECORD_NAME
from ..files import check_writable
from ..formats.library import LibraryEntry, choose_folders, find_concept_folders, read_index, weights_in
from ..inputs.paths import local_path
from ..sharing.library_folder import pack_of_folders, saved_digests
from ..triggers import folded
from .finishing import finish
from .folders import clear_leftovers, copy_folder, key_of, remove_folder, saved_record
from .ledger import Ledger, alone, merge_ledgers, read_ledgers
from .shards import Shard


def library_entries(folder: str | os.PathLike[str]) -> dict[str, LibraryEntry]:
    """Return the concepts that the index of a library lists, ``{folder: entry}``.

    Raises:
        EmbeddingFileError: The folder is not a library.
    """
    index = local_path(folder) / RECORD_NAME
    listed = read_index(index.read_bytes()) if index.is_file() else None
    if listed is None:
        raise EmbeddingFileError(f"expected a library, got {str(folder)!r}, which has no index {RECORD_NAME}")
    return {name: entry for name, entry in listed.items() if entry is not None}


def merge_libraries(
    sources: Sequence[str | os.PathLike[str]], output_dir: str | os.PathLike[str], *, overwrite: bool = False
) -> list[str]:
    """Copy the concepts of some libraries into one; return the placeholder tokens of those that are new there.

    Everything is checked before the first is copied. The result is that of one run that trained all.

    Args:
        sources: Folders of concepts; an index is not needed.
        output_dir: The library; created if missing.
        overwrite: Whether a concept replaces another of the same name with other rows; the last source wins.

    Raises:
        EmbeddingFileError: A source has no concepts, or a damaged one.
        OutputError: Two concepts have the same name and other rows; or the library cannot be written.
    """
    folder = check_writable(output_dir)
    with alone(folder, Shard()):
        held = {folded(one.placeholder_token): folder / name for name, one in find_concept_folders(folder).items()}
        copies: dict[Path, Path] = {}
        tokens: dict[Path, str] = {}
        for source in map(local_path, sources):
            found = find_concept_folders(source) if source.is_dir() else {}
            if not found:
                raise EmbeddingFileError(f"expected a library, got {str(source)!r}, which holds no concept")
            for name, entry in found.items():
                token = folded(entry.placeholder_token)
                target = held.setdefault(token, folder / name)
                there = copies.get(target, target)
                if _weights(there) == _weights(source / name):
                    continue
                if there.is_dir() and not overwrite:
                    raise OutputError(
                        f"{str(there)!r} and {str(source / name)!r} are both {entry.placeholder_token}, with other "
                        "rows; pass overwrite=True to take the last, or remove one"
                    )
                copies[target], tokens[target] = source / name, entry.placeholder_token
        for target, origin in copies.items():
            copy_folder(origin, target)
        for source in map(local_path, sources):
            merge_ledgers(source, folder)
        finish(folder)
    return [tokens[target] for target in copies]


def record_push(folder: str | os.PathLike[str], repo_id: str) -> None:
    """Write down that the concepts of a library have been pushed, and show it on its pages.

    Raises:
        OutputError: The library cannot be written.
    """
    path, shard = local_path(folder), Shard()
    with alone(path, shard):
        states = {(line["token"], line["key"]): line["state"] for line in read_ledgers(path)}
        ledger = Ledger(path, shard)
        for name, entry in library_entries(path).items():
            key, _ = key_of(saved_record(path / name) or {})
            if states.get((entry.placeholder_token, key)) != "pushed":
                ledger.append("pushed", entry.placeholder_token, key, repo_id=repo_id)
        finish(path)


def remove_concepts(folder: str | os.PathLike[str], tokens: Sequence[str]) -> None:
    """Delete concepts from a library.

    Raises:
        EmbeddingFileError: The folder is not a library, or lacks one of them; nothing is deleted.
        OutputError: Somebody is training into it, or it cannot be written.
    """
    path = local_path(folder)
    with alone(path, Shard()):
        names = choose_folders(library_entries(path), tokens, repr(str(folder)))
        clear_leftovers(path, names)
        for name in names:
            if (path / name).exists():  # else whoever removed it was killed before the index was written
                remove_folder(path / name)
        finish(path)


def verify_library(folder: str | os.PathLike[str]) -> list[str]:
    """Return what is wrong with a library, in one sentence each: damaged files, and what its index does not say.

    Raises:
        EmbeddingFileError: The folder is not a library.
    """
    path = local_path(folder)
    entries = library_entries(path)
    lines_of: dict[str, list[Mapping[str, Any]]] = {}
    for line in read_ledgers(path):
        if line["state"] == "saved":
            lines_of.setdefault(str(line["folder"]), []).append(line)
    there = {one.name for one in path.iterdir() if one.name[0] != "." and weights_in(one)}
    problems = [f"{name}: listed in the index, but there is no such folder" for name in entries if name not in there]
    problems += [f"{name}: a concept that the index does not list" for name in sorted(there - entries.keys())]
    for name in sorted(there):
        expected = _expected(path / name, lines_of.get(name, []))
        if name in entries:
            expected |= dict(zip(entries[name].weights, entries[name].sha256, strict=False))
        problems += [f"{name}/{problem}" for problem in _damages(path / name, expected)]
    return problems + _wrong_packs(path, {name: one for name, one in entries.items() if name in there})


def _expected(folder: Path, saved: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the digests of a concept's files when it was saved, as far as they are known.

    Args:
        folder: The concept's folder.
        saved: What the ledgers say of its saves, by time. The newest need not be the one that is there: a merge may
            have taken another, and a process may have been killed before it put its own in its place.
    """
    record, digests = saved_record(folder), saved_digests(folder) or {}
    key, _ = key_of(record or {})
    own = [line.get("sha256") or {} for line in saved if not record or line["key"] == key]
    own = [one for one in own if digests.items() <= one.items()]
    return dict(own[-1] if own else digests)


def _damages(folder: Path, expected: dict[str, str]) -> list[str]:
    found = []
    for name, digest in sorted(expected.items()):
        file = folder / name
        if name == CARD_NAME:  # the user's to edit, and renewed by a push
            continue
        if not file.is_file():
            found.append(f"{name}: missing")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            found.append(f"{name}: its bytes are not those that were saved")
    if not (folder / RECORD_NAME).is_file() and RECORD_NAME not in expected:
        found.append(f"{RECORD_NAME}: missing")
    return found


def _wrong_packs(folder: Path, entries: dict[str, LibraryEntry]) -> list[str]:
    problems = []
    for pack in sorted({entry.pack for entry in entries.values() if entry.pack is not None}):
        members = {name: entry for name, entry in entries.items() if entry.pack == pack}
        try:
            same = (folder / pack).is_file() and (folder / pack).read_bytes() == pack_of_folders(folder, members)
            problem = "" if same else "not what its concepts' folders hold"
        except (EmbeddingFileError, OSError) as error:
            problem = f"cannot be compared ({one_line(error)})"
        problems += [f"{pack}: {problem}"] if problem else []
    return problems


def _weights(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in weights_in(folder)}
