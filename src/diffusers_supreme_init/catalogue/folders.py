"""The folder of a concept: there whole, or not at all; its record says from what it was trained."""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..file_names import RECORD_NAME
from ..files import write_atomically
from ..formats.library import weights_in
from ..sharing.saved_folder import recorded_files

RECORD_KEY = "catalogue"
"""Of the record: ``{"key": ..., "run": ...}``, the concept's key and the digest of the run's facts."""
_TEMPORARY = ".{}.part"
_RANDOM_BYTES = 8


def saved_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a saved concept, empty if it cannot be read; None if there is none."""
    if not folder.is_dir() or not weights_in(folder):
        return None
    try:
        record = json.loads((folder / RECORD_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def key_of(record: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return a concept's key and the digest of its run, from its record; None if no catalogue trained it."""
    found = record.get(RECORD_KEY)
    return (found.get("key"), found.get("run")) if isinstance(found, dict) else (None, None)


def write_folder(
    folder: Path, contents: Mapping[str, bytes], *, when_written: Callable[[], None] = lambda: None
) -> None:
    """Write a concept's files beside its folder, then put them in its place.

    Args:
        folder: The concept's folder.
        contents: ``{name: bytes}`` of its files.
        when_written: Called in between, so that what it writes down is there when the folder is.

    Raises:
        OutputError: The disk is full, the folder cannot be written, or it holds files of somebody else.
    """
    if others := _foreign_files(folder):
        raise OutputError(
            f"cannot replace {str(folder)!r}: it holds {others[0]}, which no save wrote; move it elsewhere"
        )
    new, old = _places_beside(folder)
    try:
        for name, data in contents.items():
            write_atomically(new / name, data)
        when_written()
        if folder.is_dir():
            os.rename(folder, old)
        os.rename(new, folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.rename(old, folder)  # fails unless the old one was moved away and nothing has come
        shutil.rmtree(new, ignore_errors=True)  # after that: of both, `clear_leftovers` takes the new one for whole
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {str(folder)!r}: {error.strerror or error}") from error
    shutil.rmtree(old, ignore_errors=True)


def copy_folder(source: Path, folder: Path) -> None:
    """Copy a saved concept, as `write_folder` writes one: the files that its save wrote.

    Raises:
        OutputError: As `write_folder`.
    """
    names = sorted(name for name in recorded_files(source) if (source / name).is_file())
    write_folder(folder, {name: (source / name).read_bytes() for name in names})


def remove_folder(folder: Path) -> None:
    """Delete a concept's folder, so that it is there whole or not at all.

    Raises:
        OutputError: It cannot be deleted.
    """
    _, old = _places_beside(folder)
    try:
        os.rename(folder, old)
    except OSError as error:
        raise OutputError(f"cannot delete {str(folder)!r}: {error.strerror or error}") from error
    shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(output_dir: Path, names: Collection[str]) -> None:
    """Delete what killed processes left half written of some concepts, whose folders have these names.

    A process that was killed between its two renames left a whole result, which is put in its place instead. Nobody
    else may be at work on these concepts.
    """
    for old in output_dir.glob(_TEMPORARY.format("old-*")):
        folder, new = output_dir / _name_of(old), old.with_name(old.name.replace(".old-", ".new-", 1))
        if folder.name in names and new.is_dir() and not folder.exists():
            os.rename(new, folder)
    for path in output_dir.glob(_TEMPORARY.format("*")):
        if _name_of(path) in names:
            shutil.rmtree(path, ignore_errors=True)


def _places_beside(folder: Path) -> tuple[Path, Path]:
    """Return where a concept's new folder is written, and where its old one is moved to; `_name_of` is the inverse."""
    unique = secrets.token_hex(_RANDOM_BYTES)
    new, old = (folder.with_name(_TEMPORARY.format(f"{kind}-{folder.name}{unique}")) for kind in ("new", "old"))
    return new, old


def _name_of(path: Path) -> str:
    return path.name[len(".new-") : -len(".part") - 2 * _RANDOM_BYTES]


def _foreign_files(folder: Path) -> list[str]:
    if not folder.exists():
        return []
    ours = recorded_files(folder)
    there = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir()]
    return [name for name in there if name not in ours]
