"""`supreme-init convert`: a learned word in the format of another program."""

from typing import Any, get_args

from ..errors import ConfigError
from ..formats.conversion import convert_embedding
from ..formats.programs import EmbeddingProgram
from ..formats.readers import EmbeddingFormat, read_embeddings
from .arguments import ConvertArguments
from .parser import Parsed


def run(parsed: Parsed) -> None:
    """Convert and report.

    Raises:
        SupremeInitError: The concept cannot be read, or not be written in this format.
    """
    asked = parsed.of(ConvertArguments)
    if len(asked.files) != 2:
        raise ConfigError("expected a file or folder to read and one to write: supreme-init convert out/mug mug.pt")
    known = dict.fromkeys((*get_args(EmbeddingFormat), *get_args(EmbeddingProgram)))
    if asked.format not in known:
        got = "none" if asked.format is None else repr(asked.format)
        raise ConfigError(f"format: expected one of {', '.join(known)}, got {got}")
    wanted: Any = asked.format
    files = convert_embedding(
        asked.files[0],
        asked.files[1],
        format=wanted,
        token=asked.token,
        allow_pickle=asked.allow_pickle,
        encoder_keys=asked.encoder_keys or None,
        overwrite=asked.overwrite,
    )
    for file in files:
        for embedding in read_embeddings(file, allow_pickle=True):
            name = embedding.placeholder_token or "without a name"
            key = f" {embedding.encoder_key}" if embedding.encoder_key else ""
            dtype = str(embedding.rows.dtype).removeprefix("torch.")
            print(f"{file}: {name}{key} {tuple(embedding.rows.shape)} {dtype}")
