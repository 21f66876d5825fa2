"""A library: a folder or repository of many concepts, each in its own folder, with an index that lists them.

The index is the ``training.json`` at the root of the library. It describes each concept, so that concepts can be
chosen and the model card written without opening the embedding files.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import EmbeddingFileError
from ..file_names import CARD_NAME, RECORD_NAME, WEIGHT_NAMES, is_numbered_image, is_pack_name
from ..files import json_bytes
from ..triggers import folded
from .embedding_file import LearnedEmbedding, read_embedding

logger = logging.getLogger(__name__)

_OPTIONAL = ("sha256", "pack", "sample")


@dataclass(frozen=True, kw_only=True)
class LibraryEntry:
    """The entry of one concept in the index.

    Attributes:
        placeholder_token: The word to use in prompts.
        description: The words that its rows started from; None if unknown.
        num_vectors: Number of its rows in the first text encoder.
        base_model: Hub id of the model it was trained on; None if unknown or local.
        weights: Names of its embedding files, one per text encoder.
        sha256: Digests of these files, in hexadecimal; empty if unknown.
        pack: Name of the file that holds them too, see `pack`; None if there is none.
        sample: A picture of it, relative to its folder; None if there is none.
    """

    placeholder_token: str
    description: str | None
    num_vectors: int
    base_model: str | None
    weights: tuple[str, ...]
    sha256: tuple[str, ...] = ()
    pack: str | None = None
    sample: str | None = None


def library_entry(embedding: LearnedEmbedding, weights: Iterable[str]) -> LibraryEntry:
    """Return the entry of a concept, from its first embedding and the names of all its embedding files."""
    return LibraryEntry(
        placeholder_token=str(embedding.placeholder_token),
        description=embedding.description,
        num_vectors=embedding.num_vectors,
        base_model=embedding.base_model,
        weights=tuple(weights),
    )


def index_bytes(entries: Mapping[str, LibraryEntry]) -> bytes:
    """Return the contents of the index file for the concepts of a library, ``{folder: entry}``."""
    concepts = {folder: _values(entry) for folder, entry in entries.items()}
    packs = sorted({entry.pack for entry in entries.values() if entry.pack is not None})
    return json_bytes({"folders": sorted(entries), "concepts": concepts, "files": [CARD_NAME, RECORD_NAME, *packs]})


def _values(entry: LibraryEntry) -> dict[str, Any]:
    """Return an entry as JSON values, without those that only large libraries have."""
    return {name: value for name, value in asdict(entry).items() if value or name not in _OPTIONAL}


def read_index(data: bytes) -> dict[str, LibraryEntry | None] | None:
    """Return ``{folder: entry}`` of an index; None if the file is not the index of a library.

    An entry is None if the index lists a folder without describing it, as the earliest indexes do.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    listed = record.get("folders") if isinstance(record, dict) else None
    if not isinstance(listed, list):
        return None
    concepts = record.get("concepts")
    concepts = concepts if isinstance(concepts, dict) else {}
    names = {name for name in listed if _is_folder_name(name)}
    in_order = dict.fromkeys(name for name in (*concepts, *listed) if isinstance(name, str) and name in names)
    return {name: _entry(concepts.get(name)) for name in in_order}


def read_library(folder: Path) -> dict[str, LibraryEntry] | None:
    """Return the concepts listed in a folder's index, ``{folder below it: entry}``; None if there is no index.

    Concepts that are listed but no longer exist are left out, and a warning is logged.

    Raises:
        EmbeddingFileError: The file of a concept is damaged. Only files without an entry in the index are read.
    """
    index = folder / RECORD_NAME
    listed = read_index(index.read_bytes()) if index.is_file() and not weights_in(folder) else None
    if listed is None:
        return None
    there = {name: weights for name in listed if (weights := weights_in(folder / name))}
    if gone := [name for name in listed if name not in there]:
        logger.warning("%s: its index lists concepts that no longer exist: %s", folder, ", ".join(gone))
    return {name: listed[name] or _entry_of_files(folder / name, weights) for name, weights in there.items()}


def find_concept_folders(folder: Path) -> dict[str, LibraryEntry]:
    """Return the concepts in the folders below one, ``{folder: entry}``, without an index.

    Raises:
        EmbeddingFileError: The file of a concept is damaged.
    """
    there = {path.name: weights for path in sorted(folder.iterdir()) if (weights := weights_in(path))}
    return {name: _entry_of_files(folder / name, weights) for name, weights in there.items()}


def weights_in(folder: Path) -> tuple[str, ...]:
    """Return the names of the embedding files in a folder, one per text encoder."""
    return tuple(name for name in WEIGHT_NAMES if (folder / name).is_file())


def choose_folders(entries: Mapping[str, LibraryEntry], only: Sequence[str] | None, where: str) -> list[str]:
    """Return the folders of the placeholder tokens in `only`; None: all folders.

    Raises:
        EmbeddingFileError: The library lacks one of the concepts; the message lists up to 20 that it has.
    """
    if only is None:
        return list(entries)
    folders = {folded(entry.placeholder_token): folder for folder, entry in entries.items()}
    check_only(only, [entry.placeholder_token for entry in entries.values()], where)
    return list(dict.fromkeys(folders[folded(token)] for token in only))


def check_only(only: Sequence[str], tokens: Sequence[str], where: str) -> None:
    """Check that all placeholder tokens in `only` are among `tokens`.

    Args:
        only: The wanted placeholder tokens.
        tokens: The placeholder tokens that exist.
        where: Name of the source, for the message.

    Raises:
        EmbeddingFileError: `only` is empty, or a token does not exist; the message lists up to 20 that do.
    """
    if not only:
        raise EmbeddingFileError("only: expected at least one token, got none; leave it out to load all")
    known = {folded(token) for token in tokens}
    if unknown := [token for token in only if folded(token) not in known]:
        some = ", ".join(tokens[:20]) + (f" and {len(tokens) - 20} more" if len(tokens) > 20 else "")
        raise EmbeddingFileError(f"only: expected some of {some} in {where}, got {', '.join(unknown)}")


def _entry_of_files(folder: Path, weights: Sequence[str]) -> LibraryEntry:
    return library_entry(read_embedding(folder / weights[0]), weights)


def _entry(values: Any) -> LibraryEntry | None:
    """Return an entry of an index; None if it is missing or invalid, since users may edit an index by hand."""
    if not isinstance(values, dict):
        return None
    token, count, weights = values.get("placeholder_token"), values.get("num_vectors"), values.get("weights")
    texts = [values.get("description"), values.get("base_model"), values.get("sample")]
    if not isinstance(token, str) or type(count) is not int or not isinstance(weights, list):
        return None
    if not weights or not set(map(str, weights)) <= set(WEIGHT_NAMES) or not all(_is_text(one) for one in texts):
        return None
    return LibraryEntry(
        placeholder_token=token,
        description=texts[0],
        num_vectors=count,
        base_model=texts[1],
        weights=tuple(name for name in WEIGHT_NAMES if name in weights),
        **_digests(values, len(weights)),
        sample=texts[2] if is_numbered_image(texts[2] or "") else None,
    )


def _digests(values: Mapping[str, Any], num_weights: int) -> dict[str, Any]:
    """Return what an entry says of the bytes of its files; nothing if it is invalid."""
    sha256, pack = values.get("sha256"), values.get("pack")
    if not isinstance(sha256, list) or len(sha256) != num_weights or not all(isinstance(one, str) for one in sha256):
        return {}
    return {"sha256": tuple(sha256), "pack": pack if isinstance(pack, str) and is_pack_name(pack) else None}


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_folder_name(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set("/\\\0") & set(name)
