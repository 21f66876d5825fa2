"""Pictures on disk or in memory -> pixel tensors."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import PictureError

PictureSource: TypeAlias = str | os.PathLike[str] | Image.Image

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused; pillow raises `DecompressionBombError` above it (0.5 GB as RGB)."""
MIN_SIDE = 8
"""Pictures with a shorter side, in pixels, are refused: one latent pixel of the usual autoencoders."""

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: Upright, RGB, with transparent parts composited on white.
        alpha: Opacity (mode ``L``) of the same size; None if the file has no transparency.
    """

    image: Image.Image
    alpha: Image.Image | None


@dataclass(frozen=True)
class TrainingPictures:
    """The pictures one concept is trained on, and their masks.

    Attributes:
        images: Pictures, not decoded yet.
        masks: One mask of the object per picture; None: the pictures' alpha if `masked`, else unknown.
        masked: Whether the masks weight the loss.
    """

    images: Sequence[PictureSource]
    masks: Sequence[PictureSource] | None
    masked: bool


def find_pictures(images: PictureSource | Sequence[PictureSource]) -> list[PictureSource]:
    """Expand one picture, a folder, or a sequence of both into a list of pictures, without decoding any.

    Folders are not searched recursively; their pictures are sorted by name.

    Raises:
        PictureError: A path does not exist, a folder or the sequence holds no picture, or an element is neither a
            path nor a PIL image.
    """
    sources = [images] if isinstance(images, str | os.PathLike | Image.Image) else list(images)
    found = [picture for source in sources for picture in _expand(source)]
    if not found:
        raise PictureError("images: expected at least one picture, got an empty sequence")
    return found


def _expand(source: PictureSource) -> Iterator[PictureSource]:
    if isinstance(source, Image.Image):
        yield source
        return
    if not isinstance(source, str | os.PathLike):
        raise PictureError(
            f"images: expected paths or PIL images, got {type(source).__name__}; convert it with Image.fromarray"
        )
    if str(source).startswith(("http://", "https://")):
        raise PictureError(f"images: expected a path, got the address {source!r}; use diffusers.utils.load_image")
    path = Path(source)
    if not path.exists():
        raise PictureError(f"images: expected a picture or a folder, got {str(path)!r}, which does not exist")
    if not path.is_dir():
        yield path
        return
    pictures = [p for p in sorted(path.iterdir()) if p.suffix.lower() in PICTURE_SUFFIXES and p.name[0] != "."]
    if not pictures:
        raise PictureError(
            f"images: expected pictures ({', '.join(sorted(PICTURE_SUFFIXES))}) in {str(path)!r}, got none"
        )
    yield from pictures


def load_picture(source: PictureSource) -> Picture:
    """Decode a picture: apply EXIF orientation, composite transparency on white, convert any mode to RGB.

    An animated picture gives its first frame.

    Raises:
        PictureError: The file is missing, is not a picture, is damaged, has more than `MAX_PIXELS` pixels, or has a
            side shorter than `MIN_SIDE`.
    """
    name = "the given image" if isinstance(source, Image.Image) else repr(os.fspath(source))
    try:
        opened = source if isinstance(source, Image.Image) else Image.open(source)
        width, height = opened.size
        if width * height > MAX_PIXELS:
            raise PictureError(
                f"{name}: expected at most {MAX_PIXELS} pixels, got {width} x {height}; scale it down first"
            )
        if min(width, height) < MIN_SIDE:
            raise PictureError(f"{name}: expected at least {MIN_SIDE} pixels a side, got {width} x {height}")
        # A copy, because `load` and `exif_transpose` would change the caller's image.
        upright = ImageOps.exif_transpose(opened.copy())
    except FileNotFoundError as error:
        raise PictureError(f"{name}: expected a picture file, got one that does not exist") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{name}: expected a picture file, got something pillow cannot identify") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name}: expected at most {MAX_PIXELS} pixels; scale it down first ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:  # pillow raises all three for damaged files
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"{name}: expected a whole picture, got a damaged or empty file ({error})") from error
    if upright.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        upright = _to_eight_bit(upright)
    if not upright.has_transparency_data:
        return Picture(upright.convert("RGB"), None)
    rgba = upright.convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return Picture(on_white.convert("RGB"), rgba.getchannel("A"))


def load_mask(source: PictureSource) -> Image.Image:
    """Decode a mask (mode ``L``): its transparency if it has any, else its brightness.

    Raises:
        PictureError: As `load_picture`.
    """
    picture = load_picture(source)
    # An editor may save a painted mask with a fully opaque alpha channel. The mask is then the paint.
    if picture.alpha is not None and np.asarray(picture.alpha).min() < 255:
        return picture.alpha
    return picture.image.convert("L")


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Scale a single-channel picture of more than 8 bits to ``L``; pillow's own conversion clips it."""
    values = np.asarray(image).astype(np.float64)
    top = 65535.0 if values.max() > 255 else 255.0 if values.max() > 1 else 1.0
    return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8), mode="L")


def fit_to_square(image: Image.Image, resolution: int, *, center_crop: bool) -> Image.Image:
    """Resize the central square, or the whole picture by squashing it, to ``resolution x resolution``."""
    # Masks are averaged, because Lanczos would ring at their edges and give weight to pixels they exclude.
    resample = Image.Resampling.BOX if image.mode == "L" else Image.Resampling.LANCZOS
    if center_crop:
        return ImageOps.fit(image, (resolution, resolution), resample)
    return image.resize((resolution, resolution), resample)


def square_geometry(
    size: tuple[int, int], resolution: int, *, center_crop: bool
) -> tuple[int, int, int, int, int, int]:
    """Return what `fit_to_square` does to a picture of ``(width, height)``, in the order of SDXL's ``time_ids``.

    Returns:
        Height and width of the picture, top and left of the crop in the scaled picture, height and width of the crop,
        all in pixels.
    """
    width, height = size
    side = min(size)
    top, left = (((length - side) * resolution // (2 * side)) if center_crop else 0 for length in (height, width))
    return height, width, top, left, resolution, resolution


def to_pixel_values(image: Image.Image) -> Tensor:
    """Return an RGB picture as float32 ``(3, height, width)`` in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return (pixels / 127.5 - 1).permute(2, 0, 1).contiguous()


def to_mask_values(mask: Image.Image) -> Tensor:
    """Return a mask as float32 ``(1, height, width)`` in [0, 1]; 1 is where the loss counts."""
    return torch.from_numpy(np.array(mask.convert("L"), dtype=np.float32) / 255)[None]
