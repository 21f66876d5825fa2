"""Which rows of a text encoder are whose, and what it was like before its first concept.

The record stands in the encoder's configuration, so that it survives saving; only padding rows that concepts overwrite
are kept beside the weights.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..triggers import is_row_name
from .text_pairs import TextPair

_LEGACY_EOS_TOKEN_ID = 2
_KEY = "multitoken"
_SPARE_ROWS = "_multitoken_spare_rows"


@dataclass
class EncoderRecord:
    """An encoder before its first concept, and whose rows it holds now.

    Attributes:
        num_rows: Rows of the embedding matrix.
        vocab_size: What the configuration said.
        spare_start: Rows from here on are beyond the tokenizer's last token, as in padded matrices (T5, Qwen).
        eos_token_ids: Legacy ``eos_token_id`` by module name; ``"config"`` is the encoder's configuration.
        concepts: ``{trigger: [row name, ...]}`` of the concepts it holds.
        ids: ``{row name: token id}`` of their rows, and of those that concepts have left and that are still there.
    """

    num_rows: int
    vocab_size: int
    spare_start: int
    eos_token_ids: dict[str, Any]
    concepts: dict[str, list[str]] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)


def record_of(encoder: PreTrainedModel) -> EncoderRecord | None:
    """Return an encoder's record, None if it holds no concept."""
    values = getattr(encoder.config, _KEY, None)
    return EncoderRecord(**values) if values else None


def new_record(pair: TextPair, next_id: int) -> EncoderRecord:
    """Record an encoder as it is before its first concept.

    Args:
        pair: The encoder.
        next_id: The id that the next token added to its tokenizer gets.
    """
    weight = pair.embedding.weight.detach()
    # Another pipeline that shares the tokenizer may have added concepts to it already.
    known = [token_id for name, token_id in pair.tokenizer.added_tokens_encoder.items() if is_row_name(name)]
    spare_start = min([next_id, len(weight), *known])
    setattr(pair.encoder, _SPARE_ROWS, weight[spare_start:].clone())
    return EncoderRecord(
        num_rows=len(weight),
        vocab_size=pair.encoder.config.get_text_config().vocab_size,
        spare_start=spare_start,
        eos_token_ids=_legacy_eos_token_ids(pair),
    )


def keep_record(pair: TextPair, record: EncoderRecord) -> None:
    """Write a record, or, if no row of a concept is left, restore what it says and forget it."""
    config = pair.encoder.config
    if record.concepts or record.ids:
        setattr(config, _KEY, dict(vars(record)))
        return
    if len(pair.embedding.weight) == record.num_rows:  # else somebody added tokens meanwhile
        config.get_text_config().vocab_size = record.vocab_size
    for name, eos_token_id in record.eos_token_ids.items():
        _eos_owner(pair, name).eos_token_id = eos_token_id
    delattr(config, _KEY)
    _discard_spare_rows(pair.encoder)


def _discard_spare_rows(encoder: PreTrainedModel) -> None:
    """Forget the padding that `new_record` has set aside."""
    if hasattr(encoder, _SPARE_ROWS):
        delattr(encoder, _SPARE_ROWS)


def _spare_rows(pair: TextPair, record: EncoderRecord) -> Tensor:
    """Return the padding of a matrix as it was before the first concept, ``(num_rows - spare_start, hidden_size)``.

    A pipeline that was saved with its concepts no longer has what they had overwritten: no token leads there, so those
    rows come back as zeros.
    """
    matrix = pair.embedding.weight.detach()
    kept: Tensor | None = getattr(pair.encoder, _SPARE_ROWS, None)
    if kept is not None:
        return kept.to(matrix)
    spare = matrix[record.spare_start : record.num_rows].clone()
    spare[[token_id - record.spare_start for token_id in record.ids.values() if token_id < record.num_rows]] = 0
    return spare


def set_matrix(pair: TextPair, matrix: Tensor) -> None:
    """Give the embedding, and whatever is tied to it, a matrix of another length.

    ``resize_token_embeddings`` would shrink padded matrices, replace the module (hooks, Gemma's scaling) and draw
    random rows; other data in the same parameter do none of that, and whatever is tied to it follows.
    """
    weight = pair.embedding.weight
    head = pair.encoder.get_output_embeddings()
    if isinstance(head, nn.Linear) and head.weight is not weight and head.out_features == len(weight):
        # An output matrix of its own (Mistral in Flux 2) has as many rows, or the encoder could not be loaded again.
        # What it says of new tokens is never read.
        head.weight.data = _of_length(head.weight.detach(), len(matrix))
        if head.bias is not None:
            head.bias.data = _of_length(head.bias.detach(), len(matrix))
        head.out_features = len(matrix)
    weight.data = matrix
    for module in pair.encoder.modules():
        if getattr(module, "weight", None) is weight:
            for size_name in ("num_embeddings", "out_features"):
                if hasattr(module, size_name):
                    setattr(module, size_name, len(matrix))
    pair.encoder.config.get_text_config().vocab_size = len(matrix)


class Cut:
    """What removing concepts makes of one encoder: computed first, then made."""

    def __init__(self, pair: TextPair, ids: Mapping[str, int], used: Collection[str]) -> None:
        """Compute the matrix up to the last row that is read, and the padding that was behind it.

        Args:
            pair: The encoder.
            ids: ``{token: id}`` of all added tokens.
            used: Names of the rows that are still read.
        """
        self._pair = pair
        self._matrix: Tensor | None = None
        self._record = record = record_of(pair.encoder)
        if record is None:  # memory ran out before its first row was written
            return
        record.ids = {name: ids.get(name, known) for name, known in record.ids.items()}
        read = [token_id for name, token_id in record.ids.items() if name in used]
        foreign = [token_id for name, token_id in ids.items() if not is_row_name(name)]
        end = max([record.spare_start - 1, *read, *foreign]) + 1
        if any(token_id >= end for token_id in record.ids.values()):
            matrix = pair.embedding.weight.detach()
            self._matrix = torch.cat([matrix[:end], _spare_rows(pair, record)[max(end - record.spare_start, 0) :]])
        record.ids = {name: token_id for name, token_id in record.ids.items() if token_id < end}

    def make(self, gone: Mapping[str, list[str]]) -> None:
        """Give the encoder its matrix, and forget ``{trigger: [row name, ...]}``."""
        record = self._record
        if record is None:
            _discard_spare_rows(self._pair.encoder)
            return
        if self._matrix is not None:
            set_matrix(self._pair, self._matrix)
        record.concepts = {one: names for one, names in record.concepts.items() if gone.get(one) != names}
        keep_record(self._pair, record)


def _of_length(tensor: Tensor, length: int) -> Tensor:
    missing = max(length - len(tensor), 0)
    return torch.cat([tensor[:length], tensor.new_zeros(missing, *tensor.shape[1:])])


def correct_legacy_eos(pair: TextPair) -> None:
    """Let CLIP pool at the end of the prompt.

    With the legacy ``eos_token_id == 2`` of most checkpoints it pools at the highest id: a concept's last row.
    """
    for name in _legacy_eos_token_ids(pair):
        _eos_owner(pair, name).eos_token_id = pair.tokenizer.eos_token_id


def _legacy_eos_token_ids(pair: TextPair) -> dict[str, Any]:
    """Return the owners of a legacy ``eos_token_id``, by module name."""
    is_clip = re.match("CLIP", type(pair.encoder).__name__) is not None
    if not is_clip or pair.tokenizer.eos_token_id in (None, _LEGACY_EOS_TOKEN_ID):
        return {}
    names = ["config", *(name for name, _ in pair.encoder.named_modules())]
    owners = {name: getattr(_eos_owner(pair, name), "eos_token_id", None) for name in names}
    return {name: value for name, value in owners.items() if value == _LEGACY_EOS_TOKEN_ID}


def _eos_owner(pair: TextPair, name: str) -> Any:
    return pair.encoder.config if name == "config" else pair.encoder.get_submodule(name)
