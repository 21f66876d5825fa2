"""Description -> initial rows: the paper's "supreme initialization" copies each token's embedding."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InitializerError, shown
from ..file_names import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES, WEIGHT_NAMES
from ..inputs.field_values import is_text
from ..inputs.file_kinds import HEIF, PICKLE, PICTURE, SAFETENSORS, kind_of_file
from ..inputs.paths import expanded, looks_like_path
from .text_pairs import TextPair
from .tokenization import InitializerTokens, tokenize_initializer

logger = logging.getLogger(__name__)

_NEITHER = "expected a description, or an existing embedding file or folder"


@dataclass(frozen=True)
class Initialization:
    """The initial rows of a concept in one text encoder.

    Attributes:
        description: The words that the rows stand for; ``""`` if unknown.
        tokens: The tokens that the rows are copies of; None if they continue a saved embedding.
        rows: ``(num_vectors, hidden_size)``, float32 (float64 in a float64 encoder), on the CPU.
    """

    description: str
    tokens: InitializerTokens | None
    rows: Tensor


def initialize(pair: TextPair, description: str, *, num_vectors: int | None = None) -> Initialization:
    """Start one row per token of a description (paper, section 3).

    If `num_vectors` cuts or repeats tokens, their number is logged.

    Raises:
        InitializerError: The description gives no tokens to start from.
    """
    tokens = tokenize_initializer(description, pair.tokenizer, num_vectors=num_vectors)
    if tokens.num_cut or tokens.num_repeated:
        change = f"{tokens.num_cut} cut" if tokens.num_cut else f"{tokens.num_repeated} repeated"
        logger.warning("initializer %r: %d rows, %s tokens", description, len(tokens.token_ids), change)
    return Initialization(description.strip(), tokens, initial_embeddings(pair, tokens.token_ids))


def continue_from(pair: TextPair, rows: Tensor, description: str) -> Initialization:
    """Start from the rows of a saved embedding, ``(num_vectors, hidden_size)``.

    Raises:
        InitializerError: The rows are not as wide as those of the encoder.
    """
    if rows.shape[1] != pair.hidden_size:
        raise InitializerError(
            f"initializer: expected rows of width {pair.hidden_size} for {pair.encoder_name}, got {rows.shape[1]}; "
            "continue on the model the file was trained for"
        )
    dtype = torch.promote_types(pair.embedding.weight.dtype, torch.float32)
    return Initialization(description, None, rows.cpu().to(dtype))


@torch.no_grad()
def initial_embeddings(pair: TextPair, token_ids: Sequence[int]) -> Tensor:
    """Return copies of the rows of `token_ids`, ``(num_vectors, hidden_size)``, float32 (or float64), on the CPU."""
    weight = pair.embedding.weight
    rows = weight[torch.tensor(token_ids, device=weight.device)]
    return rows.to("cpu", torch.promote_types(rows.dtype, torch.float32), copy=True)


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
