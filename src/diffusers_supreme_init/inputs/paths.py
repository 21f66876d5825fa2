"""Paths in texts: the home folder, and texts that name a file rather than say something."""

import os
import re
from pathlib import Path

from ..errors import ConfigError, shown

_SUFFIXES = (
    *("safetensors", "pti", "pt", "pth", "bin", "ckpt", "pkl", "npy", "npz", "onnx", "gguf", "h5"),
    *("png", "jpg", "jpeg", "jfif", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jp2", "svg", "psd"),
    *("json", "jsonl", "yaml", "yml", "toml", "csv", "txt", "md", "pdf", "html", "py", "zip", "tar", "gz", "7z"),
)
_ENDS_LIKE_A_FILE = re.compile(rf"\w\.({'|'.join(_SUFFIXES)})([@:][\w./-]+|[?#]\S*)?\Z", re.IGNORECASE)
_STARTS_LIKE_A_PATH = re.compile(
    r"([/\\]|\.\.?[/\\]|~|\$\w*[/\\{]|%\w+%|[a-z]:[/\\]|[a-z][a-z0-9+.-]+://|file:)", re.IGNORECASE
)
_WORD_LIKE_A_PATH = re.compile(r"((~|\.\.?|\$\w+|[a-z]:)[/\\]|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
"""Stricter, since "a black /white mug, ~5 cm" is words."""
_SLASH = re.compile(r"[/\\]")


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path; ``~`` is the home folder."""
    return Path(os.path.expanduser(path))


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that can be written to; ``~`` is the home folder.

    Raises:
        ConfigError: It is not a path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ConfigError(f"expected a path, got {shown(path)}")
    return expanded(text)


def starts_like_path(text: str) -> bool:
    """Whether a text begins as only paths and addresses do: ``./``, ``~``, ``/``, ``C:/``, ``https://``."""
    return _STARTS_LIKE_A_PATH.match(text) is not None or "\\" in text


def looks_like_path(text: str) -> bool:
    """Whether a text that should be words is rather the path of a file or folder, a Hub id or an address.

    It is one if it exists; begins like a path (``./``, ``~``, ``C:/``, ``https://``); has a word that does, or that
    ends in the suffix of a usual file; has a backslash, several slashes, or a slash and no spaces; or begins with an
    existing folder.
    """
    text = text.strip()
    if not text:
        return False
    if os.path.lexists(text) or os.path.lexists(os.path.expanduser(text)):
        return True
    if starts_like_path(text) or any(_is_path(word) for word in text.split()):
        return True
    num_slashes = len(_SLASH.findall(text))
    if num_slashes == 0:
        return False
    return num_slashes > 1 or not re.search(r"\s", text) or os.path.isdir(_SLASH.split(text)[0])


def _is_path(word: str) -> bool:
    bare = word.strip(",;:!?\"'()[]")
    return _ENDS_LIKE_A_FILE.search(bare) is not None or _WORD_LIKE_A_PATH.match(bare) is not None
