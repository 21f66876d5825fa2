"""Files -> opened pictures, and the pictures of a folder; whatever is left out is counted and named."""

import functools
import os
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import PictureError, SupremeInitWarning
from .exif import without_pillows_warnings
from .file_kinds import HEIF, PICTURE, kind_of_file

_INSTALL_HEIF = "a HEIC picture, which needs the package pillow-heif: pip install pillow-heif"
_NOT_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
"""Formats that pillow recognises but does not decode by itself."""
_OTHER_PICTURES = frozenset(
    {
        *(".ai", ".arw", ".avif", ".cr2", ".cr3", ".dng", ".emf", ".eps", ".exr", ".hdr", ".heic", ".heif", ".hif"),
        *(".jxl", ".jxr", ".kra", ".nef", ".orf", ".pef", ".psb", ".raf", ".raw", ".rw2", ".srw", ".svg", ".svgz"),
        *(".wdp", ".wmf", ".xcf"),
    }
)
"""Suffixes of pictures that pillow may not read."""
_MOST_NAMES = 10


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes of the pictures that pillow decodes, in lower case."""
    known = Image.registered_extensions()  # loads all of pillow's plugins
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in _NOT_PICTURES)


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Open a picture file; of a HEIC picture with the package pillow-heif, if it is installed.

    Raises:
        PictureError: It is a HEIC picture, and pillow-heif is not installed.
        Exception: Anything that pillow raises.
    """
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        if kind_of_file(path) != HEIF:
            raise
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            raise PictureError(f"{os.fspath(path)!r} is {_INSTALL_HEIF}") from error
        register_heif_opener()
        return Image.open(path)


def pictures_in_folder(folder: Path, *, quietly: bool = False) -> list[Path]:
    """Return the pictures of a folder, sorted by name; neither hidden files nor folders below it.

    A file counts as a picture by its suffix or by its first bytes.

    Args:
        folder: An existing folder.
        quietly: Whether nothing is said about pictures that cannot be read.

    Raises:
        PictureError: There is no picture that can be read.

    Warns:
        SupremeInitWarning: Some pictures cannot be read; they are left out.
    """
    try:
        files = [path for path in sorted(folder.iterdir()) if path.name[0] != "." and path.is_file()]
    except OSError as error:
        raise PictureError(f"images: expected a folder, got {str(folder)!r} ({error.strerror})") from error
    asked = [path for path in files if _looks_like_a_picture(path)]
    reasons = {path: why for path in asked if (why := _why_unreadable(path)) is not None}
    told = [f"{path.name} ({why})" for path, why in list(reasons.items())[:_MOST_NAMES]]
    told += [f"{len(reasons) - _MOST_NAMES} more"] if len(reasons) > _MOST_NAMES else []
    if len(reasons) == len(asked):
        got = f"only what cannot be read: {', '.join(told)}" if told else "none"
        raise PictureError(f"images: expected pictures (.png, .jpg, .webp, .tif, ...) in {str(folder)!r}, got {got}")
    if reasons and not quietly:
        warnings.warn(
            f"{str(folder)!r}: {len(reasons)} of {len(asked)} pictures cannot be read and are left out: "
            f"{', '.join(told)}",
            SupremeInitWarning,
            stacklevel=2,
        )
    return [path for path in asked if path not in reasons]


def _looks_like_a_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in picture_suffixes() or suffix in _OTHER_PICTURES or kind_of_file(path) in (PICTURE, HEIF)


def _why_unreadable(path: Path) -> str | None:
    """Return why a picture cannot be opened, or None; only its header is read."""
    try:
        with without_pillows_warnings():
            open_picture(path).close()
    except PictureError:
        return _INSTALL_HEIF
    except Exception:  # a damaged picture can make pillow raise almost anything
        kind = kind_of_file(path)
        return "pillow cannot read it" if kind in (PICTURE, None) else kind
    return None
