"""The mask of an object: the box around it, without specks, and the crop."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ..config import REGION_BACKGROUNDS
from ..errors import RegionError
from ..pictures import MIN_SIDE
from .clicks import Point, to_points

PixelBox: TypeAlias = tuple[int, int, int, int]
Mask: TypeAlias = NDArray[np.bool_]

_SMALLEST_PART = 0.1


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
    is_kept[[parts[int(y), int(x)] for x, y in to_points(points, "points")]] = True
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
