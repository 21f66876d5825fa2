"""Names of pictures and of masks -> which mask belongs to which picture."""

import re
import unicodedata
from collections.abc import Sequence
from typing import TypeAlias

from ..errors import PictureError

_Words: TypeAlias = tuple[str, ...]

_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}\Z", re.IGNORECASE)
_BETWEEN = re.compile(r"[-_. ()\[\]]+")
_MASK_WORDS = frozenset(
    {
        *("mask", "masks", "matte", "alpha", "seg", "segm", "segmentation", "trimap", "foreground", "fg", "object"),
        *("silhouette", "annotation", "label", "labels", "gt", "cutout", "binary"),
    }
)
_GROWN_TOGETHER = re.compile(r"\Amask(?=\w)|(?<=\w)masks?\Z")
_PICTURE_WORDS = frozenset({"jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "avif", "heic"})


def pair_by_name(pictures: Sequence[str], masks: Sequence[str]) -> list[int] | None:
    """Return the index of each picture's mask, or None if the names say nothing.

    A mask is named like its picture, or with a usual word in it: ``mug-1.png`` and ``mug-1_mask.png``, ``mask1.png``
    and ``1.jpg``. Suffixes, case and what stands between words do not matter. Any other text may stand in
    all masks, if it is the same: ``mug-1-removebg.png``.

    Args:
        pictures: File names.
        masks: File names.

    Raises:
        PictureError: The names say which mask some pictures have, and none or several fit another.
    """
    if len(pictures) > 1 and (paired := _by_what_stands_around(pictures, masks)) is not None:
        return paired
    names = [_words(name) for name in pictures]
    if len(set(names)) < len(names):
        return None  # mug.jpg and mug.png
    found: dict[_Words, list[int]] = {}
    for index, mask in enumerate(masks):
        for name in _possible(mask):
            found.setdefault(name, []).append(index)
    indices = [found.get(name, []) for name in names]
    if not any(indices):
        return None
    for picture, own in zip(pictures, indices, strict=True):
        if len(own) != 1:
            got = " and ".join(masks[index] for index in own) or f"none among {', '.join(masks[:10])}"
            raise PictureError(f"expected one mask named like {picture!r}, as other pictures have one, got {got}")
    chosen = [index for (index,) in indices]
    return chosen if len(set(chosen)) == len(chosen) else None


def _by_what_stands_around(pictures: Sequence[str], masks: Sequence[str]) -> list[int] | None:
    """Return the only pairing in which the same text stands before, and the same after, each picture's name."""
    names = [_SUFFIX.sub("", _composed(name)) for name in pictures]
    index_of = {_SUFFIX.sub("", _composed(mask)): index for index, mask in enumerate(masks)}
    if len(set(names)) < len(names) or not names[0]:
        return None
    found = set()
    for mask in index_of:
        for match in re.finditer(f"(?={re.escape(names[0])})", mask):
            before, after = mask[: match.start()], mask[match.start() + len(names[0]) :]
            if all(before + name + after in index_of for name in names):
                found.add(tuple(index_of[before + name + after] for name in names))
    return list(found.pop()) if len(found) == 1 else None


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # macOS takes letters and their accents apart


def _words(name: str) -> _Words:
    return tuple(word for word in _BETWEEN.split(_SUFFIX.sub("", _composed(name).casefold())) if word)


def _possible(mask: str) -> set[_Words]:
    """Return the names that the picture of a mask may have."""
    words = _words(mask)
    bare = tuple(_GROWN_TOGETHER.sub("", word) for word in words if word not in _MASK_WORDS)
    return {words, bare, tuple(word for word in bare if word not in _PICTURE_WORDS)} - {()}
