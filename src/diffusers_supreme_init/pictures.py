"""Pictures on disk or in memory -> pixel tensors."""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import PictureError, one_line, shown
from .inputs.exif import turned_upright, warn_of_exif, without_exif, without_pillows_warnings
from .inputs.file_kinds import PICTURE, kind_of_file
from .inputs.picture_files import open_picture, pictures_in_folder
from .inputs.picture_numbers import to_eight_bit

PictureSource: TypeAlias = str | os.PathLike[str] | Image.Image

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused; pillow raises `DecompressionBombError` above it (0.5 GB as RGB)."""
MIN_SIDE = 8
"""Pictures with a shorter side, in pixels, are refused: one latent pixel of the usual autoencoders."""

THUMBNAIL_SIZE = 256
"""Longest side of pictures that only people look at, in pixels."""

_FAINTEST = 2
"""Of 255: a picture whose channels vary no more counts as one of a single colour."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:|file:", re.IGNORECASE)
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


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


def find_pictures(images: PictureSource | Sequence[PictureSource], *, quietly: bool = False) -> list[PictureSource]:
    """Expand one picture, a folder, or a sequence of both into a list of pictures, without decoding any.

    Folders are not searched recursively; their pictures are sorted by name.

    Args:
        images: Paths and PIL images.
        quietly: Whether nothing is said about pictures in folders that cannot be read.

    Raises:
        PictureError: A path does not exist, a folder or the sequence holds no picture, or an element is neither a
            path nor a PIL image.

    Warns:
        SupremeInitWarning: Some pictures of a folder cannot be read; they are left out.
    """
    is_one = isinstance(images, str | bytes | os.PathLike | Image.Image | Mapping | Set)
    is_one = is_one or not isinstance(images, Iterable) or hasattr(images, "shape") or hasattr(images, "read")
    given: Any = images
    sources = [given] if is_one else list(given)
    found = [picture for source in sources for picture in _expand(source, quietly)]
    if not found:
        raise PictureError("images: expected at least one picture, got an empty sequence")
    return found


def _expand(source: Any, quietly: bool) -> list[PictureSource]:
    if isinstance(source, Image.Image):
        return [source]
    path = _to_path(source)
    if not os.path.exists(path):  # Path.exists raises an error on texts that are too long for a path
        raise PictureError(f"images: expected a picture or a folder, got {shown(path, 500)}, which does not exist")
    if os.path.isdir(path):
        return [*pictures_in_folder(path, quietly=quietly)]
    if not os.path.isfile(path):
        raise PictureError(f"images: expected a picture or a folder, got {str(path)!r}, which is neither")
    return [path]


def _to_path(source: Any) -> Path:
    if not isinstance(source, str | os.PathLike) or isinstance(os.fspath(source), bytes):
        advice = ""
        if hasattr(source, "shape"):
            advice = "; convert it with Image.fromarray"
        elif isinstance(source, bytes) or hasattr(source, "read"):
            advice = "; open it with Image.open"
        raise PictureError(f"images: expected paths or PIL images, got {type(source).__name__}{advice}")
    text = os.fspath(source)
    if _ADDRESS.match(text):
        raise PictureError(f"images: expected a path, got the address {shown(text)}; use diffusers.utils.load_image")
    if not text.strip():
        raise PictureError("images: expected a path, got an empty text; write '.' for the current folder")
    return Path(os.path.expanduser(text))


def load_picture(source: PictureSource) -> Picture:
    """Decode a picture: apply EXIF orientation, composite transparency on white, convert any mode to RGB.

    An animated picture gives its first frame. Numbers of more than 8 bits are scaled, see `to_eight_bit`.

    Raises:
        PictureError: The file is missing, is not a picture, is damaged, has more than `MAX_PIXELS` pixels, has a side
            shorter than `MIN_SIDE`, or has numbers without a usual range.

    Warns:
        SupremeInitWarning: The orientation in its EXIF data cannot be read, so the picture is not rotated.
    """
    given = source if isinstance(source, Image.Image) else _to_path(source)
    name = "the given image" if isinstance(given, Image.Image) else repr(str(given))
    upright = turned_upright(_decode(given, name), name)
    if upright.mode in _DEEP_MODES:
        upright = _shallow(upright, name)
    if not upright.has_transparency_data:
        return Picture(upright.convert("RGB"), None)
    rgba = upright.convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return Picture(on_white.convert("RGB"), rgba.getchannel("A"))


def _decode(source: Path | Image.Image, name: str) -> Image.Image:
    try:
        with without_pillows_warnings():
            return _pixels(source if isinstance(source, Image.Image) else open_picture(source), name)
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError(f"{name}: expected a picture file, got one that does not exist") from error
    except PermissionError as error:
        raise PictureError(f"{name}: expected a picture file, got one that may not be read") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name}: expected at most {MAX_PIXELS} pixels; scale it down first ({error})") from error
    except Exception as error:  # a damaged picture can make pillow raise almost anything
        kind = None if isinstance(source, Image.Image) else kind_of_file(source)
        if isinstance(source, Path) and kind == PICTURE and (rest := without_exif(source)) is not None:
            with contextlib.suppress(Exception), without_pillows_warnings():
                image = _pixels(Image.open(rest), name)
                warn_of_exif(name, error)
                return image
        if isinstance(error, UnidentifiedImageError) or kind not in (None, PICTURE):
            what = f": {kind}" if kind not in (None, PICTURE) else ""
            raise PictureError(
                f"{name}: expected a picture file, got something pillow cannot identify{what}"
            ) from error
        if "closed" in str(error):  # by the user, before it was read
            raise PictureError(f"{name}: expected an open picture, got one that is closed ({error})") from error
        raise PictureError(
            f"{name}: expected a whole picture, got a damaged or empty file ({one_line(error)})"
        ) from error


def _pixels(opened: Image.Image, name: str) -> Image.Image:
    """Return a picture in a copy with all pixels decoded, because decoding would change the caller's image."""
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"{name}: expected at most {MAX_PIXELS} pixels, got {width} x {height}; scale it down first"
        )
    if min(width, height) < MIN_SIDE:
        raise PictureError(f"{name}: expected at least {MIN_SIDE} pixels a side, got {width} x {height}")
    return opened.copy()


def _shallow(image: Image.Image, name: str) -> Image.Image:
    """Scale a single-channel picture of more than 8 bits to ``L``, or ``LA`` if one of its values is transparent."""
    values = np.asarray(image)
    grey = Image.fromarray(to_eight_bit(values, name))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha))
    return grey


def load_subject(source: PictureSource) -> Picture:
    """Decode a picture that shows something to learn, see `load_picture`.

    Raises:
        PictureError: As `load_picture`; or it is transparent everywhere, or has a single colour.
    """
    picture = load_picture(source)
    name = "the given image" if isinstance(source, Image.Image) else shown(source, 500)
    if picture.alpha is not None and picture.alpha.getextrema()[1] == 0:
        raise PictureError(f"{name}: expected a picture that shows something, got one that is transparent everywhere")
    extrema: Any = picture.image.getextrema()
    if all(high - low <= _FAINTEST for low, high in extrema):
        raise PictureError(
            f"{name}: expected a picture that shows something, got one of a single colour (transparent parts are "
            "white, and of an animation only the first frame counts)"
        )
    return picture


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


def faded(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Return a picture that is pale where a mask (mode ``L``) is black, for people to look at."""
    return Image.composite(image, Image.blend(image, Image.new("RGB", image.size, "white"), 0.75), mask)


def as_thumbnail(image: Image.Image) -> Image.Image:
    """Return a picture of at most `THUMBNAIL_SIZE` pixels a side, for people to look at."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    return small


def to_pixel_values(image: Image.Image) -> Tensor:
    """Return an RGB picture as float32 ``(3, height, width)`` in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return (pixels / 127.5 - 1).permute(2, 0, 1).contiguous()


def to_mask_values(mask: Image.Image) -> Tensor:
    """Return a mask as float32 ``(1, height, width)`` in [0, 1]; 1 is where the loss counts."""
    return torch.from_numpy(np.array(mask.convert("L"), dtype=np.float32) / 255)[None]
