"""`Concept`, one new word to train, and `load_concepts`, which reads a list of them from an ``imagefolder``."""

import difflib
import json
import os
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .describers import Region
from .describers.proposal import InitializerProposal
from .errors import ConfigError, PictureError, RegionError, SupremeInitWarning, one_line, shown
from .inputs.field_values import is_text, settle
from .inputs.file_kinds import kind_of_file
from .inputs.mask_pairs import pair_by_name
from .inputs.paths import expanded
from .inputs.picture_numbers import mask_from_array
from .pictures import PictureSource, find_pictures

METHODS = ("class", "caption", "auto")
"""Initializers that find the words with describers."""
TRAIN_ON = ("crop", "image")

_REGION_COLUMNS = {"points": "points", "negative_points": "negative_points", "box": "box", "region_words": "words"}
"""Column of a list -> attribute of `Region`."""
_COLUMNS = ("file_name", "placeholder_token", "mask_file_name", "num_vectors", "train_on", *_REGION_COLUMNS)
_UNREAD_COLUMNS = ("images", "mask", "region", "templates", "candidates", "random_key", "initializer_record")
"""Fields of `Concept` that the columns of a list do not have."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One new word: its pictures, its name and the words it starts from.

    A concept's *rows* are the vectors trained for its word.

    Attributes:
        images: A picture (path or PIL image), a folder, or a sequence of both.
        placeholder_token: The word to use in prompts, preferably delimited: ``"<mug>"``.
        initializer: ``"class"``, ``"caption"`` or ``"auto"`` to find the words, see `propose_initializer`; the text
            whose tokens start the rows (``"a skull and bones mug"``, ``"*"``); the path of a saved embedding (file
            or folder) to continue from; or an `InitializerProposal`, of which the text remains here.
        num_vectors: Number of rows; None: one per token of the initializer. A larger number repeats its tokens, a
            smaller one cuts them.
        templates: Training prompts, each with one ``{}``; None: those of the configured `learnable_property`.
        mask: One mask per picture for `masked_loss`, white (or true) where the loss counts: a picture or an array
            ``(height, width)``, or a folder with masks that are named like the pictures (``mug_mask.png``); None: the
            pictures' alpha.
        region: The object to learn, one region per picture; a single one with words serves all pictures; None: the
            whole picture.
        train_on: Used with a region. ``"crop"`` trains on a crop around the object. ``"image"`` trains on the whole
            picture and weights the loss with the object's mask, so that nothing around the object is learned.
        candidates: Your own words, which ``"auto"`` compares with those it finds.
        random_key: Identifies this concept in all random draws; None: `placeholder_token`. Concepts with the same key
            get the same noises, timesteps, templates and flips at every step, which allows paired comparisons.
        initializer_record: How describers found the words of `initializer`, as JSON values for the concept's files;
            a proposal brings its own. None: they were not found, or are still to be found.

    Raises:
        ConfigError: A value has the wrong type, or `train_on` is not one of `TRAIN_ON`.
        PictureError: A mask is an array of another shape than ``(height, width)``.
    """

    images: PictureSource | Sequence[PictureSource]
    placeholder_token: str
    initializer: str | os.PathLike[str] | InitializerProposal
    num_vectors: int | None = None
    templates: Sequence[str] | None = None
    mask: PictureSource | Sequence[PictureSource] | None = None
    region: Region | Sequence[Region] | None = None
    train_on: str = "crop"
    candidates: Sequence[str] = ()
    random_key: str | None = None
    initializer_record: Mapping[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.initializer, InitializerProposal):
            object.__setattr__(self, "initializer_record", self.initializer.record)
            object.__setattr__(self, "initializer", self.initializer.text)
        settle(self, choices={"train_on": TRAIN_ON}, names=("num_vectors", "train_on", "random_key"))
        for name in ("images", "mask", "region", "templates", "candidates"):
            value = getattr(self, name)
            if isinstance(value, Iterator):  # it could be read only once
                object.__setattr__(self, name, list(value))
        object.__setattr__(self, "mask", _masks_of(self.mask))
        object.__setattr__(self, "candidates", () if self.candidates is None else self.candidates)
        if isinstance(self.templates, str):
            object.__setattr__(self, "templates", (self.templates,))
        for name, example in (("templates", "a photo of a {}"), ("candidates", "a red mug")):
            texts = getattr(self, name)
            texts = () if texts is None else texts
            if not isinstance(texts, list | tuple) or not all(is_text(text) for text in texts):
                raise ConfigError(f"{name}: expected a list of texts, got {shown(texts)}; pass [{example!r}]")

    @property
    def method(self) -> str | None:
        """How describers find the words, one of `METHODS`; None if they are known, or a saved embedding continues."""
        if self.initializer_record is not None or not isinstance(self.initializer, str):
            return None
        return self.initializer if self.initializer in METHODS else None


def load_concepts(
    metadata_path: str | os.PathLike[str], *, initializer_column: str = "initializer", initializer: str | None = None
) -> list[Concept]:
    """Read a list of concepts from the ``metadata.jsonl`` of an ``imagefolder``.

    Each line is a JSON object with ``file_name``, ``placeholder_token`` and the initializer in `initializer_column`.
    Optional keys are ``mask_file_name``, ``num_vectors``, ``train_on`` and, for a region, ``points``,
    ``negative_points`` and ``box`` in pixels, or ``region_words``. File names are relative to the metadata file. Lines
    that share a placeholder token are pictures of the same concept; what they say of it must agree.

    Args:
        metadata_path: The metadata file, or the folder that holds it.
        initializer_column: The key that holds the initializer, e.g. ``"caption"`` or ``"class"``.
        initializer: One initializer for all concepts, e.g. ``"auto"``; replaces the column.

    Raises:
        ConfigError: The file is missing, empty or malformed; the message names the line and the concept.
        RegionError: Points or a box are invalid; the message names the line, the concept and the picture.

    Warns:
        SupremeInitWarning: A column is not read although its name looks as if it were.
    """
    listed = read_list(metadata_path, initializer_column=initializer_column, initializer=initializer)
    errors = [one.error for one in listed if one.error is not None]
    if errors:
        raise errors[0]
    return [one.concept for one in listed if one.concept is not None]


@dataclass(frozen=True, kw_only=True)
class ListedConcept:
    """What a list says of one concept, or why its lines cannot be used.

    Attributes:
        place: Where it stands, for messages: ``"metadata.jsonl, line 5"``.
        placeholder_token: Its name; None if the line could not be read.
        concept: The concept; None if there is an error.
        error: What is wrong with its lines.
    """

    place: str
    placeholder_token: str | None = None
    concept: Concept | None = None
    error: ConfigError | RegionError | None = None


def read_list(
    metadata_path: str | os.PathLike[str], *, initializer_column: str = "initializer", initializer: str | None = None
) -> list[ListedConcept]:
    """Read a list like `load_concepts`, but let no wrong line stop the others.

    Lines that cannot be read come first, then the concepts, each where it is first named. A line that contradicts the
    first one of its concept is left out of it.

    Raises:
        ConfigError: The file is missing, empty or no text, or none of its lines can be read.

    Warns:
        SupremeInitWarning: A column is not read although its name looks as if it were.
    """
    if not isinstance(metadata_path, str | os.PathLike):
        raise ConfigError(f"concepts: expected the path of a metadata.jsonl, got {shown(metadata_path)}")
    path = expanded(metadata_path)
    path = path / "metadata.jsonl" if path.is_dir() else path
    column = None if initializer is not None else initializer_column
    found: list[ListedConcept] = []
    lines: dict[str, list[_Line]] = {}
    # Not `splitlines`, which also splits at U+2028, U+2029 and U+0085, and these may stand inside a caption.
    for number, text in enumerate(_read_text(path).split("\n"), start=1):
        place = f"{path.name}, line {number}"
        if not text.strip():
            continue
        try:
            line = _parse_line(text, column, place)
        except ConfigError as error:
            found.append(ListedConcept(place=place, error=error))
        else:
            lines.setdefault(unicodedata.normalize("NFC", line.row["placeholder_token"]), []).append(line)
    if not lines and not found:
        raise ConfigError(f"concepts: expected at least one line in {str(path)!r}, got an empty file")
    if not lines:
        others = f"; no other line can be read either ({len(found)} in all)" if len(found) > 1 else ""
        raise ConfigError(f"{found[0].error}{others}")
    _warn_of_columns(path, lines, initializer_column)
    columns = (
        ("num_vectors", "train_on") if initializer is not None else (initializer_column, "num_vectors", "train_on")
    )
    for group in lines.values():
        first, token = group[0], str(group[0].row["placeholder_token"])
        wrong = {line.place: _contradiction(first, line, columns) for line in group}
        agreeing = [line for line in group if wrong[line.place] is None]
        try:
            concept = _to_concept(token, agreeing, initializer or str(first.row[initializer_column]), path.parent)
            found.append(ListedConcept(place=first.place, placeholder_token=token, concept=concept))
        except (ConfigError, RegionError) as error:
            found.append(ListedConcept(place=first.place, placeholder_token=token, error=error))
        found += [ListedConcept(place=at, placeholder_token=token, error=why) for at, why in wrong.items() if why]
    return found


def _contradiction(first: "_Line", line: "_Line", columns: Sequence[str]) -> ConfigError | None:
    """Return what is wrong with a line that says something else of its concept than the first one."""
    try:
        for column in columns:
            _one([first, line], column)
    except ConfigError as error:
        return error
    return None


@dataclass(frozen=True)
class _Line:
    """One line of a ``metadata.jsonl``, and its place for messages."""

    row: dict[str, Any]
    place: str

    @property
    def where(self) -> str:
        return f"{self.place}, {one_line(self.row['placeholder_token'], 80)}"


def _read_text(path: Path) -> str:
    kind = kind_of_file(path)
    try:
        if kind is not None and kind not in ("a text file", "a JSON file", "an empty file"):
            raise ValueError(f"it is {kind}")
        return path.read_text(encoding="utf-8-sig")  # also without the mark that Windows puts first
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"concepts: expected a metadata.jsonl in UTF-8, got {str(path)!r}, which cannot be read ({error})"
        ) from error


def _parse_line(text: str, initializer_column: str | None, where: str) -> _Line:
    try:
        row = json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: expected one JSON object, got something else ({one_line(error)})") from error
    for column in ("file_name", "placeholder_token", initializer_column):
        if column is not None and (not isinstance(row, dict) or not isinstance(row.get(column), str)):
            columns = shown(sorted(row)) if isinstance(row, dict) else type(row).__name__
            raise ConfigError(
                f"{where}: expected a text in column {column!r}, got {columns}; see `initializer_column`"
            )
    line = _Line(row, where)
    if not row["file_name"].strip():
        raise ConfigError(f"{line.where}: expected the name of a picture as file_name, got an empty text")
    if not isinstance(row.get("mask_file_name") or "", str):
        raise ConfigError(f"{line.where}: expected a text as mask_file_name, got {shown(row['mask_file_name'])}")
    return line


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} twice")
    return row


def _warn_of_columns(path: Path, lines: Mapping[str, Sequence[_Line]], initializer_column: str) -> None:
    """Say which columns are not read although they look as if they were."""
    columns = {str(name): None for group in lines.values() for line in group for name in line.row}
    for name in columns:
        if name in _COLUMNS or name == initializer_column:
            continue
        close = difflib.get_close_matches(name.lower(), _COLUMNS, n=1, cutoff=0.8)
        if close or name in _UNREAD_COLUMNS:
            advice = f"did you mean {close[0]!r}?" if close else f"the columns are {', '.join(_COLUMNS)}"
            warnings.warn(f"{path.name}: the column {name!r} is not read; {advice}", SupremeInitWarning, stacklevel=3)


def _one(lines: Sequence[_Line], column: str) -> Any:
    """Return the value of a column, which all lines of a concept that have it must share; None if none has it."""
    said = [line for line in lines if line.row.get(column) is not None]
    for line in said:
        if line.row[column] != said[0].row[column]:
            raise ConfigError(
                f"{line.where}: expected one {column} for all its pictures, got different ones: "
                f"{shown(said[0].row[column])} in {said[0].place}, {shown(line.row[column])} here"
            )
    return said[0].row[column] if said else None


def _to_concept(token: str, lines: Sequence[_Line], initializer: str, folder: Path) -> Concept:
    masks = [folder / line.row["mask_file_name"] for line in lines if line.row.get("mask_file_name")]
    regions = [_to_region(line) for line in lines if _has_region(line)]
    for what, found in (("a mask", masks), ("points, a box or region_words", regions)):
        if found and len(found) != len(lines):
            raise ConfigError(
                f"{lines[0].where}: expected {what} for all of its {len(lines)} pictures or for none, got {len(found)}"
            )
    try:
        return Concept(
            images=[folder / line.row["file_name"] for line in lines],
            placeholder_token=token,
            initializer=initializer,
            num_vectors=_one(lines, "num_vectors"),
            mask=masks or None,
            region=regions or None,
            train_on=_one(lines, "train_on") or "crop",
        )
    except ConfigError as error:
        raise ConfigError(f"{lines[0].where}: {error}") from error


def _has_region(line: _Line) -> bool:
    return any(line.row.get(name) not in (None, []) for name in _REGION_COLUMNS)


def _to_region(line: _Line) -> Region:
    try:
        said = {name: line.row.get(column) for column, name in _REGION_COLUMNS.items()}
        return Region(**{name: value for name, value in said.items() if value is not None})
    except RegionError as error:
        raise RegionError(f"{line.where}, {one_line(line.row['file_name'], 80)}: {error}") from error


def _masks_of(mask: Any) -> Any:
    """Return masks with pictures in place of arrays."""
    if hasattr(mask, "shape"):
        return [mask_from_array(one) for one in mask] if len(mask.shape) == 3 else mask_from_array(mask)
    if isinstance(mask, list | tuple):
        return [mask_from_array(one) if hasattr(one, "shape") else one for one in mask]
    return mask


def find_masks(concept: Concept, num_pictures: int, *, quietly: bool = False) -> list[PictureSource] | None:
    """Return the concept's masks, one for each of its `num_pictures` pictures, or None if it has none.

    Masks from a folder belong to the pictures that are named like them. Masks in a sequence keep its order.

    Args:
        concept: The concept.
        num_pictures: Number of its pictures.
        quietly: Whether nothing is said about masks in folders that cannot be read, or about their order.

    Raises:
        PictureError: The numbers of masks and pictures differ, a mask does not exist, or a picture has none by name.

    Warns:
        SupremeInitWarning: The names do not say which mask belongs to which picture, or say other than the order.
    """
    if concept.mask is None:
        return None
    try:
        masks = find_pictures(concept.mask, quietly=quietly)
    except PictureError as error:
        raise PictureError(f"mask of {concept.placeholder_token}: {str(error).removeprefix('images: ')}") from error
    if len(masks) != num_pictures:
        raise PictureError(
            f"{concept.placeholder_token}: expected one mask for each of {num_pictures} pictures, got {len(masks)}"
        )
    return masks if len(masks) == 1 else _in_order(concept, masks, quietly=quietly)


def _in_order(concept: Concept, masks: list[PictureSource], *, quietly: bool) -> list[PictureSource]:
    """Return masks in the order of the concept's pictures."""
    pictures = find_pictures(concept.images, quietly=True)
    names = [[Path(one).name for one in of if not isinstance(one, Image.Image)] for of in (pictures, masks)]
    given = [concept.mask] if isinstance(concept.mask, str | os.PathLike) else concept.mask
    is_order_given = isinstance(given, list | tuple) and len(given) == len(masks)
    try:
        order = pair_by_name(*names) if len(names[0]) == len(names[1]) == len(masks) else None
    except PictureError as error:
        if not is_order_given:
            raise PictureError(f"mask of {concept.placeholder_token}: {error}") from error
        order = None
    paired = masks if order is None else [masks[index] for index in order]
    if not quietly and (order is None if not is_order_given else paired != masks):
        pairs = ", ".join(
            f"{_name(one)} with {_name(mask)}" for one, mask in zip(pictures[:5], masks[:5], strict=True)
        )
        why = "in the given order, though their names say another" if is_order_given else "in the order of their names"
        warnings.warn(
            f"{concept.placeholder_token}: masks are taken {why}: {pairs}{', ...' if len(masks) > 5 else ''}",
            SupremeInitWarning,
            stacklevel=2,
        )
    return masks if is_order_given else paired


def _name(source: PictureSource) -> str:
    return "a picture" if isinstance(source, Image.Image) else Path(source).name


def find_regions(concept: Concept, num_pictures: int) -> list[Region] | None:
    """Return the concept's regions, one for each of its `num_pictures` pictures, or None if it has none.

    Raises:
        RegionError: The numbers of regions and pictures differ, an element is not a `Region`, or the concept has
            both a region and a mask.
        ConfigError: `train_on` asks for a region and there is none.
    """
    token = concept.placeholder_token
    if concept.region is None:
        if concept.train_on != "crop":
            raise ConfigError(f"{token}: expected a region for train_on={concept.train_on!r}, got none; pass region=")
        return None
    given: Any = concept.region
    regions = list(given) if isinstance(given, list | tuple) else [given]
    if isinstance(given, Region) and given.words is not None:
        regions *= num_pictures
    if not all(isinstance(region, Region) for region in regions):
        raise RegionError(
            f"{token}: expected a Region for each picture, got {shown(concept.region)}; pass Region(points=...)"
        )
    if len(regions) != num_pictures:
        raise RegionError(
            f"{token}: expected one region for each of {num_pictures} pictures, got {len(regions)}; pass "
            "a list, or one picture"
        )
    if concept.mask is not None:
        raise RegionError(f"{token}: expected either mask= or region=, got both; pass region=Region(mask=...)")
    return regions
