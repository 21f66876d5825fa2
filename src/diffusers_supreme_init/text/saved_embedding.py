"""An initializer -> the embedding files that it names, if it is not a description."""

import os
from pathlib import Path

from ..errors import InitializerError, shown
from ..file_names import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES, WEIGHT_NAMES
from ..inputs.field_values import is_text
from ..inputs.file_kinds import HEIF, PICKLE, PICTURE, SAFETENSORS, kind_of_file
from ..inputs.paths import expanded, looks_like_path

_NEITHER = "expected a description, or an existing embedding file or folder"


def find_saved_embedding(initializer: object) -> list[Path]:
    """Return the embedding files that an initializer names, one per text encoder; empty if it is a description.

    A text that exists as a file or folder, or that looks like a path, is never a description: its letters would be
    trained, and published.

    Raises:
        InitializerError: The initializer is neither a text nor a path, or names something that does not exist or is
            no embedding.
    """
    if not isinstance(initializer, str | os.PathLike) or isinstance(os.fspath(initializer), bytes):
        raise InitializerError(
            "initializer: expected a description such as 'a red mug', 'auto', 'caption', 'class' or a saved "
            f"embedding, got {shown(initializer)}"
        )
    text = os.fspath(initializer).strip()
    path = expanded(text)
    if text and os.path.isdir(path):  # Path.is_dir raises an error on texts that are too long for a path
        return weights_in_folder(path)
    if text and os.path.isfile(path):
        if path.suffix.lower() in SAFETENSORS_SUFFIXES:
            return [path]
        raise InitializerError(f"initializer: {_NEITHER}, got {text!r}, {_what_to_do(path)}")
    if isinstance(initializer, os.PathLike) or looks_like_path(text):
        raise InitializerError(
            f"initializer: {_NEITHER}, got {shown(text, 500)}, which does not exist; a text that looks like a path is "
            "never read as words, and a concept of the Hub has to be downloaded first"
        )
    if not is_text(text):
        raise InitializerError(f"initializer: {_NEITHER}, got {shown(text)}, which no file can hold")
    return []


def weights_in_folder(folder: Path) -> list[Path]:
    """Return the embedding files of a concept's folder, one per text encoder.

    Raises:
        InitializerError: There are none.
    """
    if found := [folder / name for name in WEIGHT_NAMES if (folder / name).is_file()]:
        return found
    below = sorted(path.parent.name for path in folder.glob(f"*/{WEIGHT_NAMES[0]}"))
    pickles = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICKLE_SUFFIXES)
    if below:
        instead = f"a folder of several; pass one of them, e.g. {str(folder / below[0])!r}"
    elif pickles:
        instead = f"a folder with {pickles[0].name}, {_what_to_do(pickles[0])}"
    else:
        instead = f"a folder of that name without {WEIGHT_NAMES[0]}; write words so that they name no folder, 'a mug'"
    raise InitializerError(f"initializer: {_NEITHER}, got {str(folder)!r}, {instead}")


def _what_to_do(path: Path) -> str:
    kind = kind_of_file(path)
    if kind == PICKLE:
        return (
            "a pickle, which can run code when it is opened: where you trust it, convert it once with "
            f"convert_embedding({path.name!r}, {path.stem!r}, format='diffusers', allow_pickle=True)"
        )
    if kind in (PICTURE, HEIF):
        return "a picture; pass it as images="
    if kind == SAFETENSORS:
        return "a safetensors file; give it the suffix .safetensors"
    return kind or "a file of another kind"
