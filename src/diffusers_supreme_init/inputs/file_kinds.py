"""What a file is, by its first bytes, so that errors name it instead of calling it damaged."""

import os
import re
import struct

SAFETENSORS, PICKLE, PICTURE = "a safetensors file", "a pickle", "a picture"

_NUM_BYTES = 512
_MAGIC = {
    b"version https://git-lfs": "a git-LFS pointer, not the file itself (run git lfs pull)",
    b"\x89PNG\r\n": PICTURE,
    b"\xff\xd8\xff": PICTURE,
    b"GIF8": PICTURE,
    b"II*\0": PICTURE,
    b"MM\0*": PICTURE,
    b"\0\0\0\x0cjP  ": PICTURE,
    b"\xff\x4f\xff\x51": PICTURE,
    b"8BPS": PICTURE,
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a numpy array",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format": "an SQLite database",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"{\\rtf": "an RTF document",
}
_BRANDS = {b"avif": PICTURE, b"avis": PICTURE}
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
HEIF = "a HEIC picture"


def kind_of_file(path: str | os.PathLike[str]) -> str | None:
    """Return what a file is, with its article, e.g. ``"an HTML page"``; None if its first bytes do not tell.

    A file that cannot be read has no kind.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_NUM_BYTES)
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError):
        return None
    return kind_of_bytes(start, size)


def kind_of_bytes(start: bytes, size: int) -> str | None:
    """Return what a file is, from its first bytes and its size in bytes; see `kind_of_file`."""
    if not start:
        return "an empty file"
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return HEIF if brand in _HEIF_BRANDS else _BRANDS.get(brand, "a video")
    if start[:4] == b"RIFF":
        return PICTURE if start[8:12] == b"WEBP" else "an audio or video file"
    if _is_safetensors(start, size):
        return SAFETENSORS
    if start[:4] == b"PK\x03\x04":
        return PICKLE if b"/data.pkl" in start or b"/.format_version" in start else "a zip archive"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return PICKLE
    return _kind_of_text(start)


def _is_safetensors(start: bytes, size: int) -> bool:
    if len(start) < 10 or start[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", start[:8])
    return length <= max(size, len(start))


def _kind_of_text(start: bytes) -> str | None:
    if not any(start):
        return "a file of zeros"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith((b"<?xml", b"<svg")):
        return "an SVG drawing" if b"<svg" in text else "an XML file"
    if b"\0" in start:
        return None
    if text[:1] in b"{[" and re.match(rb'[{\[]\s*(["\[{\]}\d]|\Z)', text):
        return "a JSON file"
    try:
        start[: start.rfind(b" ") if len(start) == _NUM_BYTES else None].decode()
    except UnicodeDecodeError:
        return None
    return "a text file"
