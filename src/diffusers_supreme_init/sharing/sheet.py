"""Labelled rows of pictures -> one picture that shows the results of a run at a glance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from ..errors import ConfigError

_Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont
_Line: TypeAlias = tuple[str, _Font, str]
"""Text, font and color."""

WIDEST = 2000
"""Of sheets for people, in pixels."""

_BACKGROUND, _TITLE, _NOTE = "#ffffff", "#1a1a1a", "#6b6b6b"
_MARGIN, _GAP = 16, 6
_LABEL_WIDTH = 190
_TITLE_SIZE, _NOTE_SIZE, _LINE_SPACING = 17, 14, 1.25


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A row of pictures that belong together.

    Attributes:
        title: Title of the row, in a few words.
        pictures: Pictures from left to right, of any size; each is shown as a square.
        note: Further text, in smaller print under the title.
    """

    title: str
    pictures: Sequence[Image.Image]
    note: str = ""


def size_that_fits(wanted: int, num_columns: int) -> int:
    """Return a side for the pictures of a sheet, at most `wanted`, with which the sheet is at most `WIDEST` wide."""
    room = WIDEST - 2 * _MARGIN - _LABEL_WIDTH
    return max(1, min(wanted, room // num_columns - _GAP))


def draw_sheet(rows: Sequence[SheetRow], *, columns: Sequence[str] = (), picture_size: int = 128) -> Image.Image:
    """Draw rows of pictures below each other, with their labels on the left.

    Put pictures of the same seed into the same column: readers compare downwards.

    Args:
        rows: Rows from top to bottom; they may have different numbers of pictures.
        columns: Titles above the columns, as many as there are; none: no titles.
        picture_size: Side of a picture on the sheet, in pixels. A square picture whose side divides it is enlarged
            pixel by pixel; any other is resampled.

    Returns:
        An RGB picture, as wide as the longest row.

    Raises:
        ConfigError: There is no row, a row has no pictures, or the columns have another number of titles.
    """
    if not rows or not all(row.pictures for row in rows):
        raise ConfigError("rows: expected at least one row, and a picture in each")
    num_columns = max(len(row.pictures) for row in rows)
    if columns and len(columns) != num_columns:
        raise ConfigError(f"columns: expected {num_columns} titles, got {len(columns)}")
    width = 2 * _MARGIN + _LABEL_WIDTH + num_columns * (picture_size + _GAP) - _GAP
    labels = [_label(row) for row in rows]
    heights = [max(picture_size, math.ceil(_height(label))) for label in labels]
    title = ImageFont.load_default(_NOTE_SIZE)
    first = _MARGIN + (math.ceil(_line_height(title)) + _GAP if columns else 0)
    sheet = Image.new("RGB", (width, first + sum(heights) + (len(rows) - 1) * _GAP + _MARGIN), _BACKGROUND)
    draw, top = ImageDraw.Draw(sheet), first
    for column, text in enumerate(columns):
        left = _MARGIN + _LABEL_WIDTH + column * (picture_size + _GAP)
        draw.text((left, _MARGIN), text, font=title, fill=_NOTE)
    for row, label, height in zip(rows, labels, heights, strict=True):
        _write(draw, label, top + (height - _height(label)) / 2)
        for column, picture in enumerate(row.pictures):
            left = _MARGIN + _LABEL_WIDTH + column * (picture_size + _GAP)
            sheet.paste(_resized(picture, picture_size), (left, top))
        top += height + _GAP
    return sheet


def _label(row: SheetRow) -> list[_Line]:
    title, note = ImageFont.load_default(_TITLE_SIZE), ImageFont.load_default(_NOTE_SIZE)
    lines: list[_Line] = [(line, title, _TITLE) for line in _wrap(row.title, title)]
    return lines + [(line, note, _NOTE) for line in _wrap(row.note, note)]


def _write(draw: ImageDraw.ImageDraw, label: Sequence[_Line], top: float) -> None:
    for line, font, color in label:
        draw.text((_MARGIN, top), line, font=font, fill=color)
        top += _line_height(font)


def _height(label: Sequence[_Line]) -> float:
    return sum(_line_height(font) for _, font, _ in label)


def _wrap(text: str, font: _Font) -> list[str]:
    """Break a text between words so that it fits the label column."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= _LABEL_WIDTH - _MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _line_height(font: _Font) -> float:
    _left, top, _right, bottom = font.getbbox("Ag")
    return (bottom - top) * _LINE_SPACING + 2


def _resized(picture: Image.Image, size: int) -> Image.Image:
    is_whole_factor = picture.width == picture.height and size % picture.width == 0
    resampling = Image.Resampling.NEAREST if is_whole_factor else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize((size, size), resampling)
