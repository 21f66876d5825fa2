"""EXIF data: the orientation of a picture, and pictures whose EXIF data is damaged while their pixels are whole."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import ExifTags, Image

from ..errors import SupremeInitWarning, one_line

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes a picture upright (EXIF 2.32, tag 0x0112)."""
_ORIENTATION_KEYS = ("exif", "Raw profile type exif", "Raw profile type APP1", "xmp", "XML:com.adobe.xmp")
"""Of ``Image.info``: where pillow looks for an orientation."""


def turned_upright(image: Image.Image, name: str) -> Image.Image:
    """Return a picture as its EXIF orientation wants it; unchanged where that cannot be read."""
    # Not `ImageOps.exif_transpose`, which also writes the EXIF data anew and fails where any of it is damaged.
    try:
        with without_pillows_warnings():
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            method = _ORIENTATIONS.get(int(orientation))
    except Exception as error:  # damaged EXIF data can make pillow raise almost anything
        warn_of_exif(name, error)
        return image
    if method is None:
        return image
    turned = image.transpose(method)
    for key in _ORIENTATION_KEYS:  # or whoever is given the upright picture would turn it once more
        turned.info.pop(key, None)
    return turned


@contextlib.contextmanager
def without_pillows_warnings() -> Iterator[None]:
    """Suppress pillow's own warnings: of corrupt EXIF data, of pictures that are large or somewhat damaged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def warn_of_exif(name: str, error: Exception) -> None:
    """Say that the EXIF data of a picture cannot be read."""
    warnings.warn(
        f"{name}: its EXIF data cannot be read ({one_line(error)}) and is ignored; look whether it is upright",
        SupremeInitWarning,
        stacklevel=2,
    )


def without_exif(path: str | os.PathLike[str]) -> io.BytesIO | None:
    """Return a picture file without its EXIF data, which can keep pillow from opening whole pixels; None without any.

    JPEG, MPO, WebP, AVIF and HEIC readers skip parts of a name they do not know; PNG's have a checksum, so they go.
    """
    data = Path(path).read_bytes()
    if data.startswith(_PNG):
        parts, position = [_PNG], len(_PNG)
        while position < len(data):
            end = position + 12 + int.from_bytes(data[position : position + 4], "big")
            if data[position + 4 : position + 8] not in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                parts.append(data[position:end])
            position = end
        rest = b"".join(parts)
    else:
        rest = data.replace(b"Exif", b"Exi_").replace(b"MPF\0", b"MP_\0").replace(b"EXIF", b"EXI_")
    return None if rest == data else io.BytesIO(rest)
