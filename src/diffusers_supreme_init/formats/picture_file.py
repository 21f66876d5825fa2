"""A1111's pictures that hold an embedding, in a text chunk or in their pixels -> the contents of its ``.pt`` file.

A1111 writes both when it saves a preview picture. The text chunk, ``sd-ti-embedding``, is base64 of a JSON object, in
which a tensor is ``{"TORCHTENSOR": nested lists}``. The pixels survive when a site removes text chunks: a block stands
to the left and one to the right of the picture, each set off by a black column. The low four bits of their channels,
XORed with a fixed random sequence, are the low and the high halves of the bytes of the same JSON object, compressed by
zlib (``modules/textual_inversion/image_embedding.py`` of AUTOMATIC1111/stable-diffusion-webui).
"""

import base64
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import EmbeddingFileError
from ..inputs.file_kinds import PICTURE, SAFETENSORS, kind_of_file

PICTURE_SUFFIXES = (".png", ".webp", ".avif", ".jxl")

_TEXT_CHUNK = "sd-ti-embedding"
_TENSOR_KEY = "TORCHTENSOR"
_MAX_PIXELS = 1 << 26
_MAX_HALVES = 1 << 22
"""Most half bytes in a block: 4 MB compressed. Embeddings have a few hundred kilobytes."""
_MAX_JSON_BYTES = 1 << 26


def read_picture(path: Path) -> dict[str, Any]:
    """Return the contents of an A1111 embedding that a picture holds, with tensors in float32.

    Raises:
        EmbeddingFileError: The file is no picture, cannot be opened, or holds no embedding.
    """
    where = repr(str(path))
    kind = kind_of_file(path)
    if kind not in (None, PICTURE):
        rename = "; give it the suffix .safetensors" if kind == SAFETENSORS else ""
        raise EmbeddingFileError(
            f"expected a .safetensors file, or a picture with an embedding of A1111 in it, got {where}, {kind}{rename}"
        )
    try:
        with Image.open(path) as picture:
            chunk = getattr(picture, "text", {}).get(_TEXT_CHUNK)
            is_small = picture.width * picture.height <= _MAX_PIXELS
            if chunk is not None:
                data: bytes | None = base64.b64decode(chunk)
            else:
                data = _bytes_in_pixels(np.asarray(picture.convert("RGB"))) if is_small else None
        content = None if data is None else json.loads(data, object_hook=_tensors)
    except Exception as error:  # a damaged picture can make pillow and zlib raise almost anything
        raise EmbeddingFileError(
            f"expected a .safetensors file, or a picture with an embedding of A1111 in it, got {where}, which cannot "
            f"be read as one ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict):
        raise EmbeddingFileError(
            f"expected a .safetensors file, or a picture with an embedding of A1111 in it, got {where}, a picture "
            "without one"
        )
    return content


def _tensors(value: dict[str, Any]) -> Any:
    return torch.tensor(value[_TENSOR_KEY], dtype=torch.float32) if _TENSOR_KEY in value else value


def _bytes_in_pixels(pixels: np.ndarray) -> bytes | None:
    """Return the bytes that the pixels ``(height, width, 3)`` of a picture hold; None if they hold none."""
    inside = np.asarray((pixels > 0).all(axis=2))  # the border around the picture and its blocks has a black channel
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        return None
    halves = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 0x0F
    black = np.flatnonzero(~halves.any(axis=(0, 2)))
    if black.size < 2:
        return None
    low, high = halves[:, : black[0]].reshape(-1), halves[:, black[-1] + 1 :].reshape(-1)
    if low.size != high.size or not 2 <= low.size <= _MAX_HALVES:
        return None
    if _merged(low[:2], high[:2])[:1] != b"\x78":  # zlib's first byte: an ordinary picture is told apart at once
        return None
    return zlib.decompressobj().decompress(_merged(low, high), _MAX_JSON_BYTES)


def _merged(low: np.ndarray, high: np.ndarray) -> bytes:
    mask = np.fromiter(itertools.islice(_random_halves(), low.size), np.uint8, low.size)
    return bytes((((high ^ mask) << 4) | (low ^ mask)).astype(np.uint8))


def _random_halves() -> Iterator[int]:
    """Yield A1111's random sequence: the generator of Numerical Recipes, modulo 255, low four bits."""
    state = 0
    while True:
        state = (1664525 * state + 1013904223) % 2**32
        yield state % 255 & 0x0F
