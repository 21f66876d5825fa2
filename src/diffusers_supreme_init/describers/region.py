"""A part of a picture: the user's clicks or words, the mask of the pixels they select, and the crop around it."""

import logging
import math
import numbers
import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ..config import REGION_BACKGROUNDS
from ..errors import PictureError, RegionError, shown
from ..inputs.picture_numbers import mask_from_array
from ..pictures import MIN_SIDE, PictureSource, load_mask

Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]
PixelBox: TypeAlias = tuple[int, int, int, int]
Mask: TypeAlias = NDArray[np.bool_]

_SMALLEST_PART = 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Region:
    """Selection of one object, in pixels of the upright picture; (0, 0) is its upper left corner.

    >>> Region(points=(40, 22))
    Region(points=((40.0, 22.0),), negative_points=(), box=None, mask=None)

    Attributes:
        points: Clicks ``(x, y)`` on the object: one, or a sequence of them.
        negative_points: Clicks on parts that do not belong to the object.
        box: ``(left, top, right, bottom)``; right and bottom lie just outside.
        mask: Picture or array ``(height, width)`` of the same size, light (or true) where the object is.
        words: A short noun phrase that names the object, ``"the mug"``; needs a segmenter that takes words (SAM 3).

    Raises:
        RegionError: Nothing is selected, a value is of another kind, or points and a box, a mask and words come
            together.
    """

    points: Point | Sequence[Point] = ()
    negative_points: Point | Sequence[Point] = ()
    box: Box | None = None
    mask: PictureSource | None = None
    words: str | None = None

    @property
    def has_clicks(self) -> bool:
        """Whether it is given by points or a box."""
        return bool(self.points or self.box)

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", _to_points(self.points, "points"))
        object.__setattr__(self, "negative_points", _to_points(self.negative_points, "negative_points"))
        if self.box is not None:
            object.__setattr__(self, "box", _to_box(self.box))
        if self.mask is not None and not isinstance(self.mask, str | os.PathLike | Image.Image):
            object.__setattr__(self, "mask", _mask_of(self.mask))
        if self.words is not None and not (isinstance(self.words, str) and self.words.strip()):
            raise RegionError(f"words: expected a text such as 'the mug', got {shown(self.words)}")
        kinds = {
            "points or a box": self.has_clicks or bool(self.negative_points),
            "a mask": self.mask is not None,
            "words": self.words is not None,
        }
        given = [kind for kind, is_given in kinds.items() if is_given]
        if len(given) > 1:
            raise RegionError(
                f"region: expected either points and a box, or a mask, or words, got {' and '.join(given)}; pass one "
                "of them"
            )
        if not (self.has_clicks or self.mask is not None or self.words is not None):
            raise RegionError("region: expected a point, a box, a mask or words, got none; pass points=(x, y)")


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The pixels of an object.

    Attributes:
        mask: ``(height, width)``, bool.
        score: The segmenter's own estimate of the mask's intersection over union, about [0, 1]; of words, the
            probability that they name the object; 1 for a given mask.
        num_found: Number of objects that the words name; the mask is that of the likeliest.
    """

    mask: Mask
    score: float
    num_found: int = 1


class Segments(Protocol):
    """A segmenter: turns clicks, a box or words into a mask."""

    def segment(self, image: Image.Image, region: Region) -> Segmentation:
        """Return the mask of the object that `region` selects in an RGB image."""
        ...


def find_mask(image: Image.Image, region: Region, get_segmenter: Callable[[], Segments]) -> Segmentation:
    """Return the pixels of a region.

    Args:
        image: Upright, RGB.
        region: The selection.
        get_segmenter: Returns the segmenter; called only if the region has no mask and lies inside the picture.

    Raises:
        RegionError: A point or the box lies outside, the mask has another size, or hardly anything is selected.
    """
    check_inside(region, image.size)
    if region.mask is not None:
        found = Segmentation(_read_mask(region.mask, image.size), 1.0)
    else:
        found = get_segmenter().segment(image, region)
    left, top, right, bottom = mask_to_box(found.mask)
    if found.num_found > 1:
        logger.warning(
            "region: %d objects are %s; took the likeliest (score %.2f), in (left, top, right, bottom) = %s; for "
            "another one, say what only it is, or click on it",
            found.num_found,
            shown(region.words),
            found.score,
            (left, top, right, bottom),
        )
    for x, y in _to_points(region.points, "points"):
        if not found.mask[int(y), int(x)]:
            logger.warning("region: the point (%g, %g) is not on the object that was found; look at its mask", x, y)
    if min(right - left, bottom - top) < MIN_SIDE:
        raise RegionError(
            f"region: expected an object of at least {MIN_SIDE} x {MIN_SIDE} pixels, got {right - left} x "
            f"{bottom - top}; move the point, add points, give a box, or say other words"
        )
    return found


def mask_to_box(mask: Mask) -> PixelBox:
    """Return the smallest ``(left, top, right, bottom)`` around a mask; right and bottom lie just outside.

    Raises:
        RegionError: The mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise RegionError(
            "region: expected a mask with something in it, got an empty one; move the point or the box, or say "
            "other words"
        )
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def without_specks(mask: Mask, points: Point | Sequence[Point] = ()) -> Mask:
    """Drop small parts that are not connected with the object.

    A few stray pixels could widen the crop by half a picture. An object in several parts, e.g. behind a lamp post,
    keeps every part with at least a tenth of the largest part's pixels.

    Args:
        mask: ``(height, width)``, bool.
        points: Clicks on the object; the parts that they hit are always kept.
    """
    parts, num_parts = ndimage.label(mask, structure=np.ones((3, 3)))
    if num_parts < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # the background
    is_kept = sizes >= _SMALLEST_PART * sizes.max()
    is_kept[[parts[int(y), int(x)] for x, y in _to_points(points, "points")]] = True
    is_kept[0] = False  # a click that missed the object has hit the background
    return is_kept[parts]


def grow_box(box: PixelBox, size: tuple[int, int], *, margin: float, square: bool = False) -> PixelBox:
    """Widen a box to include surroundings of the object, without leaving the picture.

    Args:
        box: ``(left, top, right, bottom)`` in pixels.
        size: Width and height of the picture.
        margin: Added on each side, as a fraction of the longer side.
        square: Also widen the shorter side, as far as the picture allows, so that a square crop cuts nothing off.
    """
    wanted: list[float] = [box[2] - box[0], box[3] - box[1]]
    extra = 2 * margin * max(wanted)
    wanted = [max(side + extra, MIN_SIDE) for side in wanted]
    if square:
        wanted = [max(wanted)] * 2
    low, high = [], []
    for axis in (0, 1):
        if not square:  # centered on the object and cut at the picture's edges; a square is shifted instead
            center = (box[axis] + box[axis + 2]) / 2
            low.append(max(0, math.floor(center - wanted[axis] / 2)))
            high.append(min(size[axis], math.ceil(center + wanted[axis] / 2)))
            continue
        side = min(math.ceil(wanted[axis]), size[axis])
        start = round((box[axis] + box[axis + 2] - side) / 2)
        low.append(min(max(0, start), size[axis] - side))
        high.append(low[-1] + side)
    return low[0], low[1], high[0], high[1]


def crop_region(
    image: Image.Image, mask: Mask, *, margin: float = 0.1, background: str = "keep", square: bool = False
) -> Image.Image:
    """Cut an object out of a picture.

    Args:
        image: RGB, ``height x width`` like `mask`.
        mask: ``(height, width)``, bool.
        margin: See `grow_box`.
        background: ``"keep"``, or ``"remove"``: everything outside the mask becomes white.
        square: See `grow_box`.

    Raises:
        RegionError: The mask is empty or has another size than the picture.
    """
    if background not in REGION_BACKGROUNDS:
        raise RegionError(f"background: expected one of {REGION_BACKGROUNDS}, got {background!r}")
    if mask.shape != (image.height, image.width):
        raise RegionError(
            f"mask: expected the size of its picture, {image.width} x {image.height}, got {mask.shape[1]} x "
            f"{mask.shape[0]}"
        )
    box = grow_box(mask_to_box(mask), image.size, margin=margin, square=square)
    if background == "remove":
        white = Image.new("RGB", image.size, "white")
        image = Image.composite(image, white, Image.fromarray(mask.astype(np.uint8) * 255))
    return image.crop(box)


def check_inside(region: Region, size: tuple[int, int]) -> None:
    """Check that the points and the box of a region lie inside a picture of ``(width, height)`` pixels.

    Raises:
        RegionError: One lies outside.
    """
    width, height = size
    for x, y in (*region.points, *region.negative_points):
        if not (0 <= x < width and 0 <= y < height):
            raise RegionError(
                f"region: expected points inside the picture of {width} x {height} pixels, got ({x:g}, {y:g}); "
                "count from the upper left corner of the upright picture"
            )
    if region.box is not None and not (region.box[2] <= width and region.box[3] <= height and min(region.box) >= 0):
        raise RegionError(
            f"region: expected a box inside the picture of {width} x {height} pixels, got {_format(region.box)}; "
            "the order is left, top, right, bottom"
        )


def _read_mask(source: PictureSource, size: tuple[int, int]) -> Mask:
    mask = load_mask(source)
    if mask.size != size:
        raise RegionError(
            f"mask: expected the size of its picture, {size[0]} x {size[1]}, got {mask.size[0]} x {mask.size[1]}"
        )
    values = np.asarray(mask)
    if values.max() < 128:
        raise RegionError(
            f"mask: expected light pixels (128 or more of 255) where the object is, got at most {values.max()}; "
            "invert or scale the mask"
        )
    return values >= 128


def _mask_of(array: Any) -> Image.Image:
    try:
        return mask_from_array(array)
    except PictureError as error:
        raise RegionError(f"region: {error}") from error


def _to_points(points: Point | Sequence[Point], name: str) -> tuple[Point, ...]:
    try:
        values = _in_order(points)
        if len(values) == 2 and all(isinstance(value, numbers.Real | str) for value in values):
            values = [values]
        pairs = tuple((float(x), float(y)) for x, y in map(_in_order, values))
    except (TypeError, ValueError, OverflowError) as error:
        raise RegionError(f"{name}: expected (x, y) or a sequence of them, got {shown(points)}") from error
    if not all(math.isfinite(value) for pair in pairs for value in pair):
        raise RegionError(f"{name}: expected finite numbers, got {shown(points)}")
    return pairs


def _in_order(values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping | Set):
        raise TypeError("a text, or numbers without order")
    return list(values)


def _to_box(box: Box) -> Box:
    try:
        left, top, right, bottom = (float(value) for value in _in_order(box))
    except (TypeError, ValueError, OverflowError) as error:
        raise RegionError(f"box: expected (left, top, right, bottom), got {shown(box)}") from error
    if not all(math.isfinite(value) for value in (left, top, right, bottom)) or right <= left or bottom <= top:
        raise RegionError(
            f"box: expected left < right and top < bottom, got {_format((left, top, right, bottom))} without area"
        )
    return left, top, right, bottom


def _format(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
