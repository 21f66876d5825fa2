"""Description -> initial rows: the paper's "supreme initialization" copies each token's embedding."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InitializerError
from .text_pairs import TextPair
from .tokenization import InitializerTokens, tokenize_initializer

logger = logging.getLogger(__name__)


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
