"""`Concept`: what to train; and lists of concepts from an ``imagefolder``."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError, PictureError
from .pictures import PictureSource, find_pictures


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One new word: its pictures, its name and the words it starts from.

    Attributes:
        images: A picture (path or PIL image), a folder, or a sequence of both.
        placeholder_token: The word to use in prompts, best delimited: ``"<mug>"``.
        initializer: The text whose tokens start the rows (``"a skull and bones mug"``, ``"*"``), or the path of a
            saved embedding (file or folder) to continue from.
        num_vectors: Number of rows; None: as many as the initializer has tokens. More repeat it, fewer cut it.
        templates: Training prompts, each with one ``{}``; None: those of the configured `learnable_property`.
        mask: One mask per picture (white: the loss counts here), for `masked_loss`; None: the pictures' alpha.
    """

    images: PictureSource | Sequence[PictureSource]
    placeholder_token: str
    initializer: str | os.PathLike[str]
    num_vectors: int | None = None
    templates: Sequence[str] | None = None
    mask: PictureSource | Sequence[PictureSource] | None = None


def load_concepts(metadata_path: str | os.PathLike[str], *, initializer_column: str = "initializer") -> list[Concept]:
    """Read a list of concepts from the ``metadata.jsonl`` of an ``imagefolder``.

    Each line is an object with ``file_name``, ``placeholder_token``, the initializer in `initializer_column`, and
    optionally ``mask_file_name`` and ``num_vectors``. File names are relative to the file. Lines that share a
    placeholder token are several pictures of one concept.

    Args:
        metadata_path: The file, or the folder that holds it.
        initializer_column: The column to start from, e.g. ``"caption"`` or ``"class"``.

    Raises:
        ConfigError: The file is missing, empty or not as described; the message names the line.
        PictureError: A picture does not exist.
    """
    path = Path(metadata_path)
    path = path / "metadata.jsonl" if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"concepts: expected a metadata.jsonl, got {str(path)!r}, which cannot be read ({error})"
        ) from error
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _parse_line(line, initializer_column, f"{path.name}, line {number}")
            rows.setdefault(row["placeholder_token"], []).append(row)
    if not rows:
        raise ConfigError(f"concepts: expected at least one line in {str(path)!r}, got an empty file")
    return [_to_concept(token, group, initializer_column, path.parent) for token, group in rows.items()]


def _parse_line(line: str, initializer_column: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: expected one JSON object, got something else ({error})") from error
    for column in ("file_name", "placeholder_token", initializer_column):
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            columns = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise ConfigError(
                f"{where}: expected a text in column {column!r}, got {columns}; see `initializer_column`"
            )
    return row


def _to_concept(token: str, rows: list[dict[str, Any]], initializer_column: str, folder: Path) -> Concept:
    first = rows[0]
    if any(row[initializer_column] != first[initializer_column] for row in rows):
        raise ConfigError(f"{token}: expected one {initializer_column} for all its pictures, got different ones")
    masks = [folder / row["mask_file_name"] for row in rows if row.get("mask_file_name")]
    if masks and len(masks) != len(rows):
        raise ConfigError(
            f"{token}: expected a mask for all of its {len(rows)} pictures or for none, got {len(masks)}"
        )
    return Concept(
        images=[folder / row["file_name"] for row in rows],
        placeholder_token=token,
        initializer=first[initializer_column],
        num_vectors=first.get("num_vectors"),
        mask=masks or None,
    )


def find_masks(concept: Concept, num_pictures: int) -> list[PictureSource] | None:
    """Return the concept's mask for each of its `num_pictures` pictures, or None where it has none.

    Raises:
        PictureError: There are more or fewer masks than pictures.
    """
    if concept.mask is None:
        return None
    masks = find_pictures(concept.mask)
    if len(masks) != num_pictures:
        raise PictureError(
            f"{concept.placeholder_token}: expected one mask for each of {num_pictures} pictures, got {len(masks)}"
        )
    return masks
