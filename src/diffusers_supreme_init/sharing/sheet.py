"""Labelled rows of pictures -> one picture that shows the results of a run at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ..errors import ConfigError

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


def draw_sheet(rows: Sequence[SheetRow], *, picture_size: int = 128) -> Image.Image:
    """Draw rows of pictures below each other, with their labels on the left.

    Put pictures of the same seed into the same column: readers compare downwards.

    Args:
        rows: Rows from top to bottom; they may have different numbers of pictures.
        picture_size: Side of a picture on the sheet, in pixels. A square picture whose side divides it is enlarged
            pixel by pixel; any other is resampled.

    Returns:
        An RGB picture, as wide as the longest row.

    Raises:
        ConfigError: There is no row, or a row has no pictures.
    """
    if not rows or not all(row.pictures for row in rows):
        raise ConfigError("rows: expected at least one row, and a picture in each")
    num_columns = max(len(row.pictures) for row in rows)
    step = picture_size + _GAP
    width = 2 * _MARGIN + _LABEL_WIDTH + num_columns * step - _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + len(rows) * step - _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        top = _MARGIN + index * step
        _write_label(draw, row, top, picture_size)
        for column, picture in enumerate(row.pictures):
            left = _MARGIN + _LABEL_WIDTH + column * step
            sheet.paste(_resized(picture, picture_size), (left, top))
    return sheet


def _write_label(draw: ImageDraw.ImageDraw, row: SheetRow, top: int, height: int) -> None:
    """Write title and note, centered vertically in the row."""
    title, note = ImageFont.load_default(_TITLE_SIZE), ImageFont.load_default(_NOTE_SIZE)
    lines = [(line, title, _TITLE) for line in _wrap(row.title, title)]
    lines += [(line, note, _NOTE) for line in _wrap(row.note, note)]
    y = top + (height - sum(_line_height(font) for _, font, _ in lines)) / 2
    for line, font, color in lines:
        draw.text((_MARGIN, y), line, font=font, fill=color)
        y += _line_height(font)


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """Break a text between words so that it fits the label column."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= _LABEL_WIDTH - _MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _line_height(font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> float:
    _left, top, _right, bottom = font.getbbox("Ag")
    return (bottom - top) * _LINE_SPACING + 2


def _resized(picture: Image.Image, size: int) -> Image.Image:
    is_whole_factor = picture.width == picture.height and size % picture.width == 0
    resampling = Image.Resampling.NEAREST if is_whole_factor else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize((size, size), resampling)
