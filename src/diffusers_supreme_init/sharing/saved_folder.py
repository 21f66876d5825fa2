"""The files that `save` wrote into a folder, as listed in its ``training.json``; no other is replaced or published.

Folders saved before this list existed are recognised by file names that never changed and the pictures of their card.
"""

import contextlib
import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from ..errors import OutputError, PublishError
from ..file_names import CARD_NAME, EVALUATION_NAME, RECORD_NAME, WEIGHT_NAMES, folder_name, is_numbered_image
from ..files import write_atomically
from ..formats.library import read_library, weights_in
from ..inputs.paths import local_path
from ..triggers import folded

logger = logging.getLogger(__name__)

_FIRST_NAMES = (*WEIGHT_NAMES, CARD_NAME, RECORD_NAME)
_FIXED_NAMES = (*_FIRST_NAMES, EVALUATION_NAME)
_ELSEWHERE = "choose another output_dir"


def folders_for(tokens: Sequence[str], output_dir: Path) -> list[Path]:
    """Return each concept's folder: `output_dir` for a single concept, else one below it named after its token.

    In a library a single concept gets a folder below it, too, and an existing concept keeps its folder.

    Raises:
        EmbeddingFileError: The library is damaged.
    """
    library = read_library(output_dir)
    if library is None and len(tokens) == 1:
        return [output_dir]
    known = {folded(entry.placeholder_token): name for name, entry in (library or {}).items()}
    return [output_dir / (known.get(folded(token)) or folder_name(token)) for token in tokens]


def made_with_toybox(contents: Mapping[str, bytes]) -> list[str]:
    """Return the placeholder tokens of saved concepts, ``{file: content}``, that were trained on the toybox."""
    tokens = []
    for name, data in contents.items():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(data) if Path(name).name == RECORD_NAME else None
            if isinstance(record, dict) and record.get("toybox"):
                tokens.append(str(record.get("placeholder_token")))
    return tokens


def check_can_save(output_dir: str | os.PathLike[str], tokens: Sequence[str] = (), *, overwrite: bool = False) -> None:
    """Check, before hours of training, that `save` will find neither somebody else's card nor another result.

    Args:
        output_dir: Folder for the concepts.
        tokens: Their placeholder tokens, if they are known.
        overwrite: Whether results of the same tokens will be replaced.

    Raises:
        OutputError: The folder holds a card or a record that no earlier save wrote, another concept, or (without
            `overwrite`) one of these concepts.
    """
    output_dir = local_path(output_dir)
    check_replaceable(output_dir, [CARD_NAME, RECORD_NAME], ())
    if not tokens:
        return
    check_kind(output_dir, tokens)
    there = {} if overwrite else read_library(output_dir) or {}
    held = {folded(entry.placeholder_token) for entry in there.values()}
    if not overwrite and len(tokens) == 1 and (token := _token_of(output_dir)) is not None:
        held = {folded(token)}
    if again := [token for token in tokens if folded(token) in held]:
        raise OutputError(
            f"{str(output_dir)!r} holds a result of {', '.join(again)} already; pass overwrite to replace it, resume "
            f"its run, or {_ELSEWHERE}"
        )


def check_replaceable(folder: Path, names: Iterable[str], sources: Collection[Path]) -> None:
    """Check, before anything is written, that a save destroys nothing but an earlier save.

    Args:
        folder: Folder of one concept, or of several.
        names: Files that will be written, relative to it.
        sources: Resolved paths of the pictures that were trained on.

    Raises:
        OutputError: A file is a training picture, or exists and was not written by an earlier save.
    """
    names = list(names)
    ours = recorded_files(folder)
    for name in [*names, *_stale_files(folder, names)]:
        path = folder / name
        if path.resolve() in sources:
            raise OutputError(f"cannot replace {str(path)!r}: it is a picture that was trained on; {_ELSEWHERE}")
        if os.path.lexists(path) and name not in ours:
            raise OutputError(f"cannot replace {str(path)!r}: no earlier save wrote it; {_ELSEWHERE}")


def is_optional(name: str) -> bool:
    """Whether a file is written only by some saves: rows, a picture or an evaluation."""
    return name in (*WEIGHT_NAMES, EVALUATION_NAME) or is_numbered_image(name)


def check_kind(output_dir: Path, tokens: Sequence[str]) -> None:
    """Check that a folder of one concept does not become one of several, nor that of another concept.

    Raises:
        OutputError: The folder holds a single concept, and `tokens` are several or another's.
    """
    token = _token_of(output_dir)
    if token is not None and len(tokens) > 1:
        raise OutputError(
            f"expected a folder for several concepts, got {str(output_dir)!r} with one, {token}; {_ELSEWHERE}"
        )
    if token is not None and folded(token) != folded(tokens[0]):
        raise OutputError(f"expected a folder for {tokens[0]}, got {str(output_dir)!r} with {token}; {_ELSEWHERE}")


def is_saved_folder(folder: Path) -> bool:
    """Whether an earlier save wrote this folder."""
    return bool(recorded_files(folder))


def replace_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files that `check_replaceable` has allowed, each atomically, and delete stale ones of the last save.

    Raises:
        OutputError: The folder cannot be written; saving again is possible.
    """
    stale = _stale_files(folder, contents)
    # The record goes first: it lists our files, so the next save can replace them even if the disk is full now.
    for name in sorted(contents, key=lambda name: name != RECORD_NAME):
        write_atomically(folder / name, contents[name])
    for name in stale:
        (folder / name).unlink(missing_ok=True)


def recorded_files(folder: Path) -> set[str]:
    """Return the files that an earlier save wrote, relative to the folder; empty if there was none."""
    record = _read_record(folder)
    if record is None or not {"placeholder_token", "folders"} & record.keys():
        return set()
    return {*_FIXED_NAMES, *_written(record, folder)}


def publishable_files(folder: Path) -> list[str]:
    """Return the files of a saved folder that are published, relative to it: of one concept, or of several in folders.

    Raises:
        PublishError: There is no embedding or no card, or the folder holds both a single concept and several.
    """
    if not (folders := publishable_folders(folder)):
        raise PublishError(
            f"expected a folder that save() wrote, got {str(folder)!r}, which holds no {WEIGHT_NAMES[0]}"
        )
    if not (folder / CARD_NAME).is_file():
        raise PublishError(f"expected {CARD_NAME} in {str(folder)!r}, got none; save the concept again")
    if folders != [folder] and (others := [path.name for path in _folders_below(folder) if path not in folders]):
        logger.warning("%s: not published, since the last save did not write them: %s", folder, ", ".join(others))
    found = {folder / CARD_NAME}
    for one in {folder, *folders}:
        found |= {one / name for name in _written(_read_record(one) or {}, one) if (one / name).is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def publishable_folders(folder: Path) -> list[Path]:
    """Return the folders of the concepts that are published together: the folder itself, or some below it.

    Raises:
        PublishError: The folder holds both the card of several concepts and the embedding of a single one.
    """
    below = _folders_below(folder)
    listed = (_read_record(folder) or {}).get("folders")
    if not _has_weights(folder):
        return [path for path in below if not isinstance(listed, list) or path.name in listed]
    card = folder / CARD_NAME
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if isinstance(listed, list) or any(f"]({path.name}/{CARD_NAME})" in text for path in below):
        raise PublishError(
            f"expected one concept or several in {str(folder)!r}, got the card of several beside the embedding of "
            f"one; move {', '.join(name for name in WEIGHT_NAMES if (folder / name).is_file())} elsewhere"
        )
    return [folder]


def _written(record: Mapping[str, Any], folder: Path) -> set[str]:
    """Return the listed files of a record that may be ours; without a list, the files that saves wrote back then."""
    listed = record.get("files")
    names = listed if isinstance(listed, list) else [*_FIRST_NAMES, *_pictures_of_card(folder)]
    ours = [name for name in names if isinstance(name, str)]
    return {name for name in ours if name in _FIXED_NAMES or is_numbered_image(name)}


def _pictures_of_card(folder: Path) -> list[Any]:
    try:
        data = ModelCard((folder / CARD_NAME).read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        return [entry["output"]["url"] for entry in data.get("widget") or []]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return []


def _stale_files(folder: Path, names: Collection[str]) -> list[str]:
    """Return files of the last save that the next will not write: pictures, an evaluation, rows of a text encoder."""
    record = _read_record(folder)
    last = _written(record, folder) if record is not None and is_saved_folder(folder) else set()
    return sorted(name for name in last - set(names) if is_optional(name) and (folder / name).is_file())


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _folders_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _has_weights(path)) if folder.is_dir() else []


def _has_weights(folder: Path) -> bool:
    return bool(weights_in(folder))


def _token_of(folder: Path) -> str | None:
    """Return the placeholder token of the concept in a folder of a single one; None for other folders."""
    if not _has_weights(folder):
        return None
    token = (_read_record(folder) or {}).get("placeholder_token")
    return token if isinstance(token, str) else None
