"""The sheet: pictures stay what they are and where they belong; labels do not touch them."""

import numpy as np
import pytest
from PIL import Image

from diffusers_supreme_init import ConfigError, SheetRow, draw_sheet

MARGIN, GAP, LABEL = 16, 6, 190


def picture(color: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, color)


def cell(sheet: Image.Image, row: int, column: int, size: int = 128) -> np.ndarray:
    left, top = MARGIN + LABEL + column * (size + GAP), MARGIN + row * (size + GAP)
    return np.asarray(sheet.crop((left, top, left + size, top + size)))


def test_every_picture_is_in_its_row_and_column() -> None:
    rows = [
        SheetRow(title="given", pictures=[picture("red")]),
        SheetRow(title="learned", note='"a red mug"', pictures=[picture("green"), picture("blue", (30, 50))]),
    ]
    sheet = draw_sheet(rows)
    assert sheet.size == (2 * MARGIN + LABEL + 2 * 128 + GAP, 2 * MARGIN + 2 * 128 + GAP)
    for row, column, color in ((0, 0, "red"), (1, 0, "green"), (1, 1, "blue"), (0, 1, "white")):
        assert (cell(sheet, row, column) == Image.new("RGB", (1, 1), color).getpixel((0, 0))).all()


def test_small_pictures_keep_their_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shown = cell(draw_sheet([SheetRow(title="noise", pictures=[Image.fromarray(pixels)])]), 0, 0)
    assert (shown[::2, ::2] == pixels).all()
    assert (shown[1::2, 1::2] == pixels).all()


@pytest.mark.parametrize("title", ["words", "a long label that has to be broken into several lines " * 3])
def test_a_label_is_drawn_beside_its_pictures_and_never_over_them(title: str) -> None:
    row = SheetRow(title=title, note="and more of it in small print", pictures=[picture("red")])
    sheet = np.asarray(draw_sheet([row]))
    label, rest = sheet[:, : MARGIN + LABEL], sheet[:, MARGIN + LABEL :]
    assert (label < 128).any()
    assert (label.min(axis=(0, 2))[-GAP:] == 255).all()
    assert set(map(tuple, rest.reshape(-1, 3))) == {(255, 0, 0), (255, 255, 255)}


def test_a_label_that_is_taller_than_its_pictures_is_shown_whole() -> None:
    """Rows below move down; every line of the label has its ink, and none reaches the next row's."""
    short = SheetRow(title="next", pictures=[picture("green")])
    heights = []
    for num_words in (1, 30, 60):
        tall = SheetRow(title="word " * num_words, pictures=[picture("red")])
        sheet = np.asarray(draw_sheet([tall, short], picture_size=16))
        (below,) = np.flatnonzero((sheet[:, MARGIN + LABEL] == (0, 128, 0)).all(axis=1))[:1]
        inked = np.flatnonzero((sheet[:below, : MARGIN + LABEL] < 128).any(axis=(1, 2)))
        assert MARGIN <= inked[0] <= inked[-1] < below
        heights.append(below)
    assert heights[2] - heights[1] == pytest.approx(heights[1] - MARGIN - GAP, rel=0.2)


def test_transparent_and_gray_pictures_are_drawn() -> None:
    pictures = [Image.new("L", (8, 8), 7), Image.new("RGBA", (8, 8), (1, 2, 3, 255))]
    sheet = draw_sheet([SheetRow(title="modes", pictures=pictures)], picture_size=16)
    assert (cell(sheet, 0, 1, 16) == (1, 2, 3)).all()


@pytest.mark.parametrize("rows", [[], [SheetRow(title="nothing", pictures=[])]])
def test_nothing_to_draw_is_refused(rows: list[SheetRow]) -> None:
    with pytest.raises(ConfigError, match="expected at least one row, and a picture in each"):
        draw_sheet(rows)


def test_titles_stand_above_their_columns_and_move_the_rows_down() -> None:
    rows = [SheetRow(title="a", pictures=[picture("red"), picture("blue")])]
    plain, titled = draw_sheet(rows), draw_sheet(rows, columns=["0 steps", "30 steps"])
    extra = titled.height - plain.height
    assert extra > 0
    lower = titled.crop((0, extra, titled.width, titled.height))
    assert np.array_equal(np.asarray(lower)[MARGIN:], np.asarray(plain)[MARGIN:])
    for column in range(2):
        left = MARGIN + LABEL + column * (128 + GAP)
        above = np.asarray(titled.crop((left, 0, left + 128, MARGIN + extra)).convert("L"))
        assert above.min() < 200
    with pytest.raises(ConfigError, match="columns: expected 2 titles, got 1"):
        draw_sheet(rows, columns=["0 steps"])
