"""`Concept`, one new word to train, and `load_concepts`, which reads a list of them from an ``imagefolder``."""

import json
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .describers import Region
from .errors import ConfigError, PictureError, RegionError
from .pictures import PictureSource, find_pictures

METHODS = ("class", "caption", "auto")
"""Initializers that find the words with describers."""
TRAIN_ON = ("crop", "image")

_REGION_COLUMNS = ("points", "negative_points", "box")


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One new word: its pictures, its name and the words it starts from.

    A concept's *rows* are the vectors trained for its word.

    Attributes:
        images: A picture (path or PIL image), a folder, or a sequence of both.
        placeholder_token: The word to use in prompts, preferably delimited: ``"<mug>"``.
        initializer: ``"class"``, ``"caption"`` or ``"auto"`` to find the words, see `propose_initializer`; the text
            whose tokens start the rows (``"a skull and bones mug"``, ``"*"``); or the path of a saved embedding (file
            or folder) to continue from.
        num_vectors: Number of rows; None: one per token of the initializer. A larger number repeats its tokens, a
            smaller one cuts them.
        templates: Training prompts, each with one ``{}``; None: those of the configured `learnable_property`.
        mask: One mask per picture for `masked_loss`, white where the loss counts; None: the pictures' alpha.
        region: The object to learn, one region per picture; None: the whole picture.
        train_on: Used with a region. ``"crop"`` trains on a crop around the object. ``"image"`` trains on the whole
            picture and weights the loss with the object's mask, so that nothing around the object is learned.
        candidates: Your own words, which ``"auto"`` compares with those it finds.
        random_key: Identifies this concept in all random draws; None: `placeholder_token`. Concepts with the same key
            get the same noises, timesteps, templates and flips at every step, which allows paired comparisons.
    """

    images: PictureSource | Sequence[PictureSource]
    placeholder_token: str
    initializer: str | os.PathLike[str]
    num_vectors: int | None = None
    templates: Sequence[str] | None = None
    mask: PictureSource | Sequence[PictureSource] | None = None
    region: Region | Sequence[Region] | None = None
    train_on: str = "crop"
    candidates: Sequence[str] = ()
    random_key: str | None = None

    @property
    def method(self) -> str | None:
        """How describers find the words, one of `METHODS`; None if the initializer is a text or a saved embedding."""
        return self.initializer if isinstance(self.initializer, str) and self.initializer in METHODS else None


def load_concepts(
    metadata_path: str | os.PathLike[str], *, initializer_column: str = "initializer", initializer: str | None = None
) -> list[Concept]:
    """Read a list of concepts from the ``metadata.jsonl`` of an ``imagefolder``.

    Each line is a JSON object with ``file_name``, ``placeholder_token`` and the initializer in `initializer_column`.
    Optional keys are ``mask_file_name``, ``num_vectors``, ``train_on`` and, for a region, ``points``,
    ``negative_points`` and ``box`` in pixels. File names are relative to the metadata file. Lines that share a
    placeholder token are pictures of the same concept.

    Args:
        metadata_path: The metadata file, or the folder that holds it.
        initializer_column: The key that holds the initializer, e.g. ``"caption"`` or ``"class"``.
        initializer: One initializer for all concepts, e.g. ``"auto"``; replaces the column.

    Raises:
        ConfigError: The file is missing, empty or malformed; the message names a malformed line.
        RegionError: Points or a box are invalid; the message names the concept and the picture.
    """
    path = Path(metadata_path)
    path = path / "metadata.jsonl" if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"concepts: expected a metadata.jsonl, got {str(path)!r}, which cannot be read ({error})"
        ) from error
    column = None if initializer is not None else initializer_column
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _parse_line(line, column, f"{path.name}, line {number}")
            rows.setdefault(unicodedata.normalize("NFC", row["placeholder_token"]), []).append(row)
    if not rows:
        raise ConfigError(f"concepts: expected at least one line in {str(path)!r}, got an empty file")
    return [
        _to_concept(token, group, initializer or _one_initializer(token, group, initializer_column), path.parent)
        for token, group in ((group[0]["placeholder_token"], group) for group in rows.values())
    ]


def _parse_line(line: str, initializer_column: str | None, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: expected one JSON object, got something else ({error})") from error
    for column in ("file_name", "placeholder_token", initializer_column):
        if column is not None and (not isinstance(row, dict) or not isinstance(row.get(column), str)):
            columns = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise ConfigError(
                f"{where}: expected a text in column {column!r}, got {columns}; see `initializer_column`"
            )
    return row


def _one_initializer(token: str, rows: list[dict[str, Any]], column: str) -> str:
    if any(row[column] != rows[0][column] for row in rows):
        raise ConfigError(f"{token}: expected one {column} for all its pictures, got different ones")
    return str(rows[0][column])


def _to_concept(token: str, rows: list[dict[str, Any]], initializer: str, folder: Path) -> Concept:
    masks = [folder / row["mask_file_name"] for row in rows if row.get("mask_file_name")]
    if masks and len(masks) != len(rows):
        raise ConfigError(
            f"{token}: expected a mask for all of its {len(rows)} pictures or for none, got {len(masks)}"
        )
    regions = [_to_region(row) for row in rows if any(row.get(name) for name in _REGION_COLUMNS)]
    if regions and len(regions) != len(rows):
        raise ConfigError(
            f"{token}: expected points or a box for all of its {len(rows)} pictures or for none, got {len(regions)}"
        )
    return Concept(
        images=[folder / row["file_name"] for row in rows],
        placeholder_token=token,
        initializer=initializer,
        num_vectors=rows[0].get("num_vectors"),
        mask=masks or None,
        region=regions or None,
        train_on=rows[0].get("train_on", "crop"),
    )


def _to_region(row: dict[str, Any]) -> Region:
    try:
        return Region(**{name: row[name] for name in _REGION_COLUMNS if row.get(name) is not None})
    except RegionError as error:
        raise RegionError(f"{row['placeholder_token']}, {row['file_name']}: {error}") from error


def find_masks(concept: Concept, num_pictures: int) -> list[PictureSource] | None:
    """Return the concept's masks, one for each of its `num_pictures` pictures, or None if it has none.

    Raises:
        PictureError: The numbers of masks and pictures differ, or a mask does not exist.
    """
    if concept.mask is None:
        return None
    masks = find_pictures(concept.mask)
    if len(masks) != num_pictures:
        raise PictureError(
            f"{concept.placeholder_token}: expected one mask for each of {num_pictures} pictures, got {len(masks)}"
        )
    return masks


def find_regions(concept: Concept, num_pictures: int) -> list[Region] | None:
    """Return the concept's regions, one for each of its `num_pictures` pictures, or None if it has none.

    Raises:
        RegionError: The numbers of regions and pictures differ, an element is not a `Region`, or the concept has
            both a region and a mask.
        ConfigError: `train_on` is not one of `TRAIN_ON`, or it asks for a region and there is none.
    """
    token = concept.placeholder_token
    if concept.train_on not in TRAIN_ON:
        raise ConfigError(f"train_on: expected one of {TRAIN_ON}, got {concept.train_on!r}")
    if concept.region is None:
        if concept.train_on != "crop":
            raise ConfigError(f"{token}: expected a region for train_on={concept.train_on!r}, got none; pass region=")
        return None
    regions = [concept.region] if isinstance(concept.region, Region) else list(concept.region)
    if not all(isinstance(region, Region) for region in regions):
        raise RegionError(
            f"{token}: expected a Region for each picture, got {concept.region!r}; pass Region(points=...)"
        )
    if len(regions) != num_pictures:
        raise RegionError(
            f"{token}: expected one region for each of {num_pictures} pictures, got {len(regions)}; pass "
            "a list, or one picture"
        )
    if concept.mask is not None:
        raise RegionError(f"{token}: expected either mask= or region=, got both; pass region=Region(mask=...)")
    return regions
