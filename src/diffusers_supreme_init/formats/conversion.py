"""Convert one embedding format to another; everything that both formats can hold is kept."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import EmbeddingFileError, OutputError, shown
from ..file_names import WEIGHT_NAMES
from ..files import write_atomically
from ..inputs.paths import expanded, local_path
from .programs import EmbeddingProgram
from .readers import ENCODER_WIDTHS, EmbeddingFormat, read_embeddings
from .writers import file_contents


def convert_embedding(
    source: str | os.PathLike[str] | Mapping[str, Any],
    target: str | os.PathLike[str],
    *,
    format: EmbeddingFormat | EmbeddingProgram,  # noqa: A002 - the usual name of this argument
    token: str | None = None,
    allow_pickle: bool = False,
    encoder_keys: Sequence[str] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the concept of a file in another format.

    ```python
    convert_embedding("mug.pt", "out/mug", format="diffusers", token="<mug>", allow_pickle=True)
    ```

    Args:
        source: Anything that `read_embeddings` reads; it is never overwritten.
        target: A file; for ``"diffusers"`` a folder, or a ``.safetensors`` file if there is one text encoder.
        format: The program to write for, or the format; `EmbeddingFormat` lists the programs that read each.
        token: The placeholder token to write instead of the file's own; needed if the file does not name its concept
            but `format` does.
        allow_pickle: Whether `source` may be a pickle.
        encoder_keys: Key of each embedding's text encoder, ``["clip_l"]``, in the order of `read_embeddings`; needed
            for ``"comfyui"`` and formats with the same keys, if the file does not name its text encoders.
        overwrite: Whether existing files are replaced.

    Returns:
        The files that were written.

    Raises:
        ConfigError: `target` is not a path.
        EmbeddingFileError: The source cannot be read, the format cannot hold it, or the program cannot read it.
        OutputError: The target exists, is the source, or cannot be written; or other embedding files in the target
            folder would become part of the concept.
    """
    embeddings = read_embeddings(source, allow_pickle=allow_pickle)
    if encoder_keys is not None:
        keys = [encoder_keys] if isinstance(encoder_keys, str) else list(encoder_keys)
        if len(keys) != len(embeddings) or not set(keys) <= set(ENCODER_WIDTHS):
            raise EmbeddingFileError(
                f"encoder_keys: expected {len(embeddings)} of {', '.join(ENCODER_WIDTHS)}, got {keys}"
            )
        embeddings = tuple(replace(one, encoder_key=key) for one, key in zip(embeddings, keys, strict=True))
    if token is not None:
        if not isinstance(token, str):
            raise EmbeddingFileError(f"token: expected a name such as '<mug>', got {shown(token)}")
        embeddings = tuple(replace(embedding, placeholder_token=token) for embedding in embeddings)
    where = local_path(target)
    contents = file_contents(where, embeddings, format)
    _check_targets(source, where, contents, overwrite)
    return [write_atomically(path, data) for path, data in contents.items()]


def _check_targets(
    source: str | os.PathLike[str] | Mapping[str, Any], target: Path, contents: Mapping[Path, bytes], overwrite: bool
) -> None:
    path = None if isinstance(source, Mapping) else expanded(source)
    sources = [] if path is None else [path, *(path / name for name in WEIGHT_NAMES)]
    for path in contents:
        if path.exists() and any(one.is_file() and one.samefile(path) for one in sources):
            raise OutputError(f"cannot write {str(path)!r}: it is the source; choose another target")
        if path.exists() and not overwrite:
            raise OutputError(f"cannot write {str(path)!r}: it exists; pass overwrite=True, or choose another target")
    if target not in contents:
        others = [name for name in WEIGHT_NAMES if (target / name).is_file() and target / name not in contents]
        if others:
            raise OutputError(
                f"cannot write into {str(target)!r}: {', '.join(others)} would become part of the concept; choose "
                "another folder"
            )
