"""Tasks -> chunks that fit into memory."""

import contextlib
from collections.abc import Iterator, Sequence

from PIL import Image

from ..backbones.base import Backbone, is_clip
from ..concepts import Concept
from ..inputs.exif import without_pillows_warnings
from ..inputs.picture_files import open_picture
from ..pictures import find_pictures
from .plan import Task

_CHUNK_SIZE, _CHUNK_SIZE_BESIDE_LARGE_ENCODERS = 32, 4
"""Concepts whose rows are in the pipeline at once. Their number changes no row, and shares out the time of adding and
removing them. A run that is killed finds the words of at most as many again. Outputs of large text encoders that are
not trained are kept for all prompts of a chunk: for one concept 0.1 GB of T5-XXL, 0.9 GB of the Llama of HiDream."""
_CHUNK_PIXELS = 200_000_000
"""Of all pictures in a chunk that describers look at, which are kept decoded until words are found: 0.6 GB."""


def chunks_of(tasks: Sequence[Task], backbone: Backbone) -> Iterator[list[Task]]:
    """Divide tasks into chunks that fit into memory."""
    has_large = any(not is_clip(pair) for pair in backbone.described)
    most = _CHUNK_SIZE_BESIDE_LARGE_ENCODERS if has_large else _CHUNK_SIZE
    chunk: list[Task] = []
    pixels = 0
    for task in tasks:
        more = _num_pixels(task.concept) if task.concept.method or task.concept.region else 0
        if chunk and (len(chunk) == most or pixels + more > _CHUNK_PIXELS):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(task)
        pixels += more
    if chunk:
        yield chunk


def _num_pixels(concept: Concept) -> int:
    """Return the number of pixels of all pictures of a concept, by their headers; unreadable ones have none."""
    total = 0
    with contextlib.suppress(Exception), without_pillows_warnings():
        for picture in find_pictures(concept.images, quietly=True):
            with contextlib.nullcontext(picture) if isinstance(picture, Image.Image) else open_picture(picture) as one:
                total += one.width * one.height
    return total
