"""The record of a text encoder: which rows belong to which concept, and its state before the first concept.

The record is kept in the encoder's configuration, so that it is saved with the encoder. Only the padding rows that
concepts overwrite are kept as an attribute of the encoder, which is not saved.
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
    """The state of an encoder before its first concept, and the concepts that it holds now.

    Attributes:
        num_rows: Rows of the embedding matrix before the first concept.
        vocab_size: ``vocab_size`` of the configuration before the first concept.
        spare_start: First row beyond the tokenizer's last token. Padded matrices (T5, Qwen) have rows from here on.
        eos_token_ids: Legacy ``eos_token_id`` by module name; ``"config"`` is the encoder's configuration.
        concepts: ``{trigger: [row name, ...]}`` of the concepts that the encoder holds.
        ids: ``{row name: token id}`` of their rows, and of removed concepts' rows that are still in the matrix.
    """

    num_rows: int
    vocab_size: int
    spare_start: int
    eos_token_ids: dict[str, Any]
    concepts: dict[str, list[str]] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)


def encoder_record_of(encoder: PreTrainedModel) -> EncoderRecord | None:
    """Return an encoder's record, or None if it holds no concept."""
    values = getattr(encoder.config, _KEY, None)
    return EncoderRecord(**values) if values else None


def new_record(pair: TextPair, next_id: int) -> EncoderRecord:
    """Record the state of an encoder before its first concept, and set its padding rows aside.

    Args:
        pair: The encoder and its tokenizers.
        next_id: The id that the next token added to its tokenizer gets.
    """
    weight = pair.embedding.weight.detach()
    # Another pipeline that shares the tokenizer may have added row tokens already; then `next_id` is beyond them.
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
    """Store a record; if no concept's row is left, restore the recorded state and delete the record."""
    config = pair.encoder.config
    if record.concepts or record.ids:
        setattr(config, _KEY, dict(vars(record)))
        return
    if len(pair.embedding.weight) == record.num_rows:  # otherwise other tokens were added meanwhile
        config.get_text_config().vocab_size = record.vocab_size
    for name, eos_token_id in record.eos_token_ids.items():
        _eos_owner(pair, name).eos_token_id = eos_token_id
    delattr(config, _KEY)
    _discard_spare_rows(pair.encoder)


def _discard_spare_rows(encoder: PreTrainedModel) -> None:
    """Delete the padding rows that `new_record` set aside."""
    if hasattr(encoder, _SPARE_ROWS):
        delattr(encoder, _SPARE_ROWS)


def _spare_rows(pair: TextPair, record: EncoderRecord) -> Tensor:
    """Return the padding rows as they were before the first concept, ``(num_rows - spare_start, hidden_size)``.

    A pipeline that was saved with its concepts and loaded again has lost the padding rows that they overwrote. These
    come back as zeros, which is harmless because no token has their ids.
    """
    matrix = pair.embedding.weight.detach()
    kept: Tensor | None = getattr(pair.encoder, _SPARE_ROWS, None)
    if kept is not None:
        return kept.to(matrix)
    spare = matrix[record.spare_start : record.num_rows].clone()
    spare[[token_id - record.spare_start for token_id in record.ids.values() if token_id < record.num_rows]] = 0
    return spare


def set_matrix(pair: TextPair, matrix: Tensor) -> None:
    """Give the embedding, and every module tied to it, a matrix of another length.

    ``resize_token_embeddings`` would shrink padded matrices, replace the module (and lose its hooks and Gemma's
    scaling) and draw random rows. Replacing the data of the parameter does none of this, and tied modules follow.
    """
    weight = pair.embedding.weight
    head = pair.encoder.get_output_embeddings()
    if isinstance(head, nn.Linear) and head.weight is not weight and head.out_features == len(weight):
        # A separate output matrix (Mistral in Flux 2) needs as many rows, or the saved encoder could not be loaded.
        # Its logits for new tokens are never used.
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
    """The removal of concepts from one encoder, in two steps: compute the new matrix, then put it in place.

    The first step may run out of memory, but changes nothing; so it is done for all encoders before the second.
    """

    def __init__(self, pair: TextPair, ids: Mapping[str, int], used: Collection[str]) -> None:
        """Compute the new matrix: all rows up to the last one still in use, then the original padding.

        Args:
            pair: The encoder and its tokenizers.
            ids: ``{token: id}`` of all added tokens.
            used: Names of the rows that are still in use.
        """
        self._pair = pair
        self._matrix: Tensor | None = None
        self._record = record = encoder_record_of(pair.encoder)
        if record is None:  # adding the first concept failed before its rows were written
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
        """Put the new matrix in place, and remove the concepts ``{trigger: [row name, ...]}`` from the record."""
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
    """Make CLIP pool at the end-of-text token.

    With the legacy ``eos_token_id == 2`` of most checkpoints CLIP pools at the highest token id. With a concept in the
    prompt that is its last row, not the end-of-text token.
    """
    for name in _legacy_eos_token_ids(pair):
        _eos_owner(pair, name).eos_token_id = pair.tokenizer.eos_token_id


def _legacy_eos_token_ids(pair: TextPair) -> dict[str, Any]:
    """Return ``{module name: eos_token_id}`` of the configuration and modules that have the legacy value."""
    is_clip = re.match("CLIP", type(pair.encoder).__name__) is not None
    if not is_clip or pair.tokenizer.eos_token_id in (None, _LEGACY_EOS_TOKEN_ID):
        return {}
    names = ["config", *(name for name, _ in pair.encoder.named_modules())]
    owners = {name: getattr(_eos_owner(pair, name), "eos_token_id", None) for name in names}
    return {name: value for name, value in owners.items() if value == _LEGACY_EOS_TOKEN_ID}


def _eos_owner(pair: TextPair, name: str) -> Any:
    return pair.encoder.config if name == "config" else pair.encoder.get_submodule(name)
