"""An upload and clicks -> the thing that is meant: its mask over the picture, and the crop that will be described."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ..describers import Mask, Region
from ..describers.region import check_inside
from ..describers.selection import SelectedPicture, select_picture
from ..errors import PictureError
from ..inputs.picture_files import open_picture as opened
from ..pictures import faded, load_subject
from ..training.word_finding import tell_coverage
from .messages import VisitorError, as_sentence, heard
from .settings import MAX_PICTURE_PIXELS, SHOWN_SIDE, StudioSettings
from .visits import Click, Meaning, Visit

MEANINGS: dict[str, Meaning] = {"this": "this", "not this": "not this", "corner of a box": "corner"}
"""What the page calls a click -> what it means."""

_COLORS: dict[Meaning, str] = {"this": "#009e73", "not this": "#d55e00", "corner": "#0072b2"}
_OUTLINE = (230, 0, 126)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Pointed:
    """What the page shows of the picture.

    Attributes:
        overview: The picture with clicks and mask, at most `SHOWN_SIDE` pixels a side.
        crop: What will be described.
        mask: The mask, white on black, in the size of the picture; None: the whole picture.
        told: What to say of it, one sentence each.
    """

    overview: Image.Image
    crop: Image.Image
    mask: Image.Image | None
    told: tuple[str, ...]


def open_upload(visit: Visit, path: str | None) -> None:
    """Take a file as the visitor's picture, and forget everything that belonged to the one before.

    Raises:
        VisitorError: There is no file, or it has too many pixels.
        PictureError: It is not a picture, is damaged, or shows nothing.
    """
    if path is None:
        raise VisitorError("Choose a picture first.")
    file = Path(path)
    try:
        with opened(file) as picture:
            width, height = picture.size
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise VisitorError("The upload is no longer there. Please choose the picture again.") from error
    except Exception as error:  # pillow raises almost anything on what is no picture
        raise VisitorError(
            "This file is not a picture that can be read. PNG, JPEG, WebP, TIFF and HEIC work."
        ) from error
    if width * height > MAX_PICTURE_PIXELS:
        raise VisitorError(
            f"The picture has {width * height / 1e6:.0f} megapixels, and this page takes at most "
            f"{MAX_PICTURE_PIXELS / 1e6:.0f}. Please scale it down first."
        )
    try:
        image = load_subject(file).image
    except PictureError as error:
        raise VisitorError(f"This picture cannot be used. {as_sentence(str(error))}") from error
    forget_picture(visit)
    visit.picture = image


def forget_picture(visit: Visit) -> None:
    """Begin again without a picture; what was learned stays."""
    visit.picture, visit.mask = None, None
    visit.clicks.clear()
    visit.forget_words()


def add_click(visit: Visit, x: float, y: float, meaning: str) -> None:
    """Add a click in pixels of the picture; a third corner begins a new box.

    Raises:
        VisitorError: There is no picture, or the click lies outside of it.
    """
    picture = picture_of(visit)
    if meaning not in MEANINGS:
        raise VisitorError(f"A click means one of: {', '.join(MEANINGS)}.")
    if not (0 <= x < picture.width and 0 <= y < picture.height):
        raise VisitorError(
            f"The point ({x:g}, {y:g}) lies outside of the picture, which is {picture.width} × {picture.height} "
            "pixels; (0, 0) is its upper left corner."
        )
    corners = [click for click in visit.clicks if click.meaning == "corner"]
    if meaning == "corner" and len(corners) == 2:
        visit.clicks[:] = [click for click in visit.clicks if click.meaning != "corner"]
    visit.clicks.append(Click(x, y, MEANINGS[meaning]))


def read_point(text: str) -> tuple[float, float]:
    """Return a typed point, ``"412, 230"``.

    Raises:
        VisitorError: It is not two numbers.
    """
    numbers = _NUMBER.findall(text)
    if len(numbers) != 2 or _NUMBER.sub("", text).strip(" ,;()xX\t"):
        raise VisitorError("Type a point as two numbers: how far from the left, how far from the top. Like 412, 230.")
    return float(numbers[0]), float(numbers[1])


def on_true_scale(visit: Visit, x: float, y: float) -> tuple[float, float]:
    """Return a click on the overview in pixels of the picture."""
    picture = picture_of(visit)
    shown = _shown_size(picture)
    across, down = picture.width / shown[0], picture.height / shown[1]
    return min((x + 0.5) * across, picture.width - 1), min((y + 0.5) * down, picture.height - 1)


def point(settings: StudioSettings, picture: Image.Image, clicks: Sequence[Click]) -> tuple[Mask | None, Pointed]:
    """Find what clicks select: the mask, None for the whole picture, and what to show.

    Raises:
        RegionError: They select nothing usable.
        DescriberError: The segmenter cannot be loaded.
    """
    region = region_of(clicks)
    if region is None:
        return None, Pointed(_overview(picture, clicks, None), _small(picture), None, (_what_next(clicks),))
    check_inside(region, picture.size)
    with settings.using_eyes, heard() as notices:
        found = select_picture(picture, region, "crop", settings.describers)
        assert found.mask is not None, "there is a region"
        tell_coverage("The picture", [found.mask])
    told = (_what_was_found(found), *notices)
    overview = _overview(picture, clicks, found.mask)
    return found.mask, Pointed(overview, _small(found.crop), as_mask(found.mask), told)


def region_of(clicks: Sequence[Click]) -> Region | None:
    """Return what the clicks select; None: the whole picture, as long as nothing says where the thing is."""
    points, negative, corners = (
        [(click.x, click.y) for click in clicks if click.meaning == meaning]
        for meaning in ("this", "not this", "corner")
    )
    box = None
    if len(corners) == 2:
        (left, right), (top, bottom) = (sorted(values) for values in zip(*corners, strict=True))
        box = (left, top, right, bottom)
    if not points and box is None:
        return None
    return Region(points=points, negative_points=negative, box=box)


def picture_of(visit: Visit) -> Image.Image:
    """Return the visitor's picture.

    Raises:
        VisitorError: There is none.
    """
    if visit.picture is None:
        raise VisitorError("Choose a picture first.")
    return visit.picture


def as_mask(mask: Mask) -> Image.Image:
    """Return a mask as a picture, white on black."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _what_next(clicks: Sequence[Click]) -> str:
    meanings = {click.meaning for click in clicks}
    if "corner" in meanings:
        return "Now click on the opposite corner of the box."
    if "not this" in meanings:
        return "Now also click on the thing itself."
    return "The whole picture will be learned. Click on a thing to learn only that."


def _what_was_found(found: SelectedPicture) -> str:
    assert found.mask is not None, "there is a region"
    assert found.box is not None, "a mask has a box"
    share, (left, top, right, bottom) = 100 * found.mask.mean(), found.box
    percent = f"{share:.0f}" if share >= 1 else f"{share:.1f}"
    return (
        f"Found: {right - left} × {bottom - top} pixels, {percent} % of the picture; the segmenter rates its outline "
        f"{found.score:.2f} of 1."
    )


def _overview(picture: Image.Image, clicks: Sequence[Click], mask: Mask | None) -> Image.Image:
    size = _shown_size(picture)
    is_larger = size[0] > picture.width
    small = picture.resize(size, Image.Resampling.NEAREST if is_larger else Image.Resampling.LANCZOS)
    scale = small.width / picture.width
    if mask is not None:
        fitting = Image.fromarray(mask).convert("L").resize(small.size)
        small = _outlined(faded(small, fitting), np.asarray(fitting) >= 128)
    pen, radius = ImageDraw.Draw(small), max(3, max(small.size) / 60)
    for click in clicks:
        x, y = click.x * scale, click.y * scale
        circle = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(circle, fill=_COLORS[click.meaning], outline="white", width=max(1, round(radius / 3)))
    corners = [(click.x * scale, click.y * scale) for click in clicks if click.meaning == "corner"]
    if len(corners) == 2:
        (left, right), (top, bottom) = (sorted(values) for values in zip(*corners, strict=True))
        pen.rectangle((left, top, right, bottom), outline=_COLORS["corner"], width=max(1, round(radius / 3)))
    return small


def _shown_size(picture: Image.Image) -> tuple[int, int]:
    """Return the size of the overview; small pictures become larger than any screen shows them.

    Gradio computes clicks as if pictures were never shown larger than they are.
    """
    longest = max(picture.size)
    if longest <= SHOWN_SIDE:
        factor = SHOWN_SIDE // longest
        return picture.width * factor, picture.height * factor
    width, height = (max(1, round(side * SHOWN_SIDE / longest)) for side in picture.size)
    return width, height


def _outlined(picture: Image.Image, mask: Mask) -> Image.Image:
    """Draw a line around a mask, outside of it, so that it is seen on white as well."""
    width = max(1, round(max(picture.size) / 250))
    line = ndimage.binary_dilation(mask, iterations=width) & ~mask
    pixels = np.array(picture)
    pixels[line] = _OUTLINE
    return Image.fromarray(pixels)


def _small(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return small
