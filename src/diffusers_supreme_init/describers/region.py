"""`Region`, the user's clicks or words for an object in a picture, and the pixels that they select."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..errors import PictureError, RegionError, shown
from ..inputs.picture_numbers import mask_from_array
from ..pictures import MIN_SIDE, PictureSource, load_mask
from .clicks import Box, Point, format_numbers, to_box, to_points
from .masks import Mask, Segmentation, mask_to_box

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Region:
    """Selection of one object, in pixels of the upright picture; (0, 0) is its upper left corner.

    >>> Region(points=(40, 22))
    Region(points=((40.0, 22.0),), negative_points=(), box=None, mask=None, words=None)

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
        object.__setattr__(self, "points", to_points(self.points, "points"))
        object.__setattr__(self, "negative_points", to_points(self.negative_points, "negative_points"))
        if self.box is not None:
            object.__setattr__(self, "box", to_box(self.box))
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
    for x, y in to_points(region.points, "points"):
        if not found.mask[int(y), int(x)]:
            logger.warning("region: the point (%g, %g) is not on the object that was found; look at its mask", x, y)
    if min(right - left, bottom - top) < MIN_SIDE:
        raise RegionError(
            f"region: expected an object of at least {MIN_SIDE} x {MIN_SIDE} pixels, got {right - left} x "
            f"{bottom - top}; move the point, add points, give a box, or say other words"
        )
    return found


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
            f"region: expected a box inside the picture of {width} x {height} pixels, got "
            f"{format_numbers(region.box)}; the order is left, top, right, bottom"
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
