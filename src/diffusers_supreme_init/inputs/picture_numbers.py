"""Numbers of any usual range -> pixels of 8 bits; ranges that say nothing are refused."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import PictureError, shown

_BIT_DEPTHS = (1, 8, 10, 12, 14, 16)
_LARGEST_WHOLE = 2**32  # larger floats are whole because of their precision


def to_eight_bit(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale numbers to [0, 255]; pillow's own conversion clips them.

    Whole numbers fill the smallest usual bit depth that holds them all: 1, 8, 10, 12, 14 or 16 bits, and beyond that
    any. Fractions have the range [0, 1]; where they exceed 1, the largest becomes white.

    Args:
        values: Numbers of any type.
        name: Name of the picture, for messages.

    Raises:
        PictureError: There are no numbers, or negative ones, NaN or infinity.
    """
    numbers = np.asarray(values).astype(np.float64)
    if not numbers.size:
        raise PictureError(f"{name}: expected numbers, got an array of shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise PictureError(f"{name}: expected finite numbers, got NaN or infinity; replace them first")
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0:
        raise PictureError(
            f"{name}: expected numbers from 0 up, got {low:g} to {high:g}; shift and scale them to 0 ... 255 first"
        )
    top = max(high, 1.0)
    if high < _LARGEST_WHOLE and (numbers == np.round(numbers)).all():
        bits = next((bits for bits in _BIT_DEPTHS if high < 2**bits), int(high).bit_length())
        top = 2.0**bits - 1
    return (numbers / top * 255).clip(0, 255).astype(np.uint8)


def mask_from_array(mask: Any, name: str = "mask") -> Image.Image:
    """Return a mask ``(height, width)`` of truth values or numbers, an array or a tensor, as a picture (mode ``L``).

    Raises:
        PictureError: It is not such an array.
    """
    try:
        array = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)
    except (TypeError, ValueError, RuntimeError):
        array = np.asarray(None)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array.squeeze(0 if array.shape[0] == 1 else -1)
    if array.ndim != 2 or array.dtype.kind not in "buif":
        raise PictureError(
            f"{name}: expected a path, a PIL image or an array (height, width), got {shown(mask)}"
            + (f" of shape {tuple(array.shape)}" if array.ndim else "")
        )
    return Image.fromarray(to_eight_bit(array, name))
