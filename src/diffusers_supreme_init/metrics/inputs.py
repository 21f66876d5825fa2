"""PIL images and tensors -> checked tensors, cropped to one size and grouped by it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import MetricError, PictureError
from ..pictures import MIN_SIDE, load_picture
from .base import Pictures


def to_tensors(pictures: Pictures, argument: str, *, min_side: int = MIN_SIDE) -> list[Tensor]:
    """Return each picture as float32 ``(3, height, width)`` in [0, 1], on the CPU.

    A PIL image is first turned upright, and transparency is composited on white, as for training.

    Args:
        pictures: PIL images and tensors.
        argument: The caller's name for them, for errors.
        min_side: Smallest width and height in pixels.

    Raises:
        MetricError: A picture is of the wrong type, too small or has values outside [0, 1]; or there is none.
    """
    if isinstance(pictures, Tensor):
        pictures = [pictures]
    elif not isinstance(pictures, Sequence) or isinstance(pictures, str | bytes):
        raise MetricError(
            f"{argument}: expected PIL images or tensors, got {type(pictures).__name__}{_way_out(pictures)}"
        )
    tensors = [
        tensor for i, picture in enumerate(pictures) for tensor in _to_tensors(picture, f"{argument}[{i}]", min_side)
    ]
    if not tensors:
        raise MetricError(f"{argument}: expected at least one picture, got none")
    return tensors


def _to_tensors(picture: Any, where: str, min_side: int) -> list[Tensor]:
    if isinstance(picture, Image.Image):
        try:
            tensor = _from_image(load_picture(picture).image)
        except PictureError as error:
            raise MetricError(f"{where}: {error}") from error
    elif isinstance(picture, Tensor):
        tensor = _checked(picture, where)
    else:
        raise MetricError(
            f"{where}: expected a PIL image or a tensor, got {type(picture).__name__}{_way_out(picture)}"
        )
    height, width = tensor.shape[-2:]
    if min(height, width) < min_side:
        raise MetricError(
            f"{where}: expected at least {min_side} pixels a side, got {width} x {height}; use larger pictures, or "
            "leave this metric out"
        )
    return list(tensor.reshape(-1, 3, height, width))


def _checked(tensor: Tensor, where: str) -> Tensor:
    if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3:
        raise MetricError(
            f"{where}: expected a tensor (3, height, width) or (batch, 3, height, width), got {tuple(tensor.shape)}; "
            "channels come before height and width, and a picture without colour is repeated three times"
        )
    if not tensor.is_floating_point():
        raise MetricError(f"{where}: expected floats in [0, 1], got {tensor.dtype}; divide 8-bit values by 255")
    tensor = tensor.detach().to("cpu", torch.float32)
    if not torch.isfinite(tensor).all():
        raise MetricError(f"{where}: expected finite values, got NaN or infinity; check how the picture was made")
    if tensor.numel() and (tensor.min() < 0 or tensor.max() > 1):
        raise MetricError(
            f"{where}: expected values in [0, 1], got [{tensor.min():.4g}, {tensor.max():.4g}]; turn [-1, 1] into "
            "[0, 1] with (x + 1) / 2, and [0, 255] with x / 255"
        )
    return tensor


def _way_out(picture: Any) -> str:
    if isinstance(picture, Image.Image):
        return "; put it into a list"
    if isinstance(picture, str):
        return "; open it with PIL.Image.open"
    return "; convert it with Image.fromarray" if isinstance(picture, np.ndarray) else ""


def to_image(picture: Tensor) -> Image.Image:
    """Return a picture ``(3, height, width)`` in [0, 1] as an RGB image, rounded to 8 bits."""
    return Image.fromarray((picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def fit(picture: Tensor, height: int, width: int) -> Tensor:
    """Crop a picture around its centre to the aspect ratio of ``height x width``, then resize it.

    Pixels are rounded to 8 bits and resized with a Lanczos filter, like training pictures (`fit_to_square`).

    Args:
        picture: ``(3, any height, any width)`` in [0, 1].
        height: In pixels.
        width: In pixels.

    Returns:
        ``(3, height, width)`` in [0, 1]; a picture of that size is returned unchanged.
    """
    if picture.shape[-2:] == (height, width):
        return picture
    return _from_image(ImageOps.fit(to_image(picture), (width, height), Image.Resampling.LANCZOS))


def _from_image(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)


def group_by_size(pictures: Sequence[Tensor], max_pixels: int) -> Iterator[tuple[tuple[int, int], list[list[int]]]]:
    """Group pictures that can be stacked.

    Args:
        pictures: ``(3, height, width)`` each.
        max_pixels: Largest number of pixels in a batch; a larger picture is a batch of its own.

    Yields:
        ``(height, width)`` and the batches of that size, each a list of indices of `pictures`.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        groups[picture.shape[-2], picture.shape[-1]].append(index)
    for (height, width), indices in groups.items():
        step = max(1, max_pixels // (height * width))
        yield (height, width), [indices[start : start + step] for start in range(0, len(indices), step)]
