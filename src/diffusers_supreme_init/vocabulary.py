"""Rows into and out of a text encoder's embedding matrix, and their tokens into and out of its tokenizers.

Nothing here decides *whether* rows may be added; `add_rows` and `remove_rows` only do it, exactly and reversibly.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .errors import ConceptLoadError
from .multitoken import forget_trigger, register_trigger, row_names, trigger_table
from .text_pairs import TextPair

_LEGACY_EOS_TOKEN_ID = 2
_BASE_MATRIX = "_multitoken_base_matrix"


@dataclass(frozen=True)
class _BaseMatrix:
    """What an encoder was like before the first concept: all that is needed to restore it exactly."""

    num_rows: int
    vocab_size: int
    spare_start: int
    spare_rows: Tensor
    """Rows from `spare_start` on, which padded matrices (T5, Qwen) have beyond the tokenizer's last token."""
    eos_token_ids: dict[str, Any]
    """Legacy ``eos_token_id`` by module name; ``"config"`` is the encoder's configuration."""


def check_can_add_rows(pair: TextPair) -> None:
    """Check that rows can be added to a pair's embedding matrix as it is now.

    Raises:
        ConceptLoadError: The encoder is being trained, offloaded, quantised, or its tokenizers disagree.
    """
    where = f"{pair.encoder_name} ({type(pair.encoder).__name__})"
    if isinstance(pair.embedding, BaseTunerLayer):
        raise ConceptLoadError(f"{where}: its embeddings are being trained; load concepts before or after `train()`")
    weight = pair.embedding.weight
    if weight.is_meta:
        raise ConceptLoadError(f"{where}: its weights are offloaded; load concepts first, then enable offloading")
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise ConceptLoadError(
            f"{where}: expected embeddings in fp16, bf16, fp32 or fp64, got {weight.dtype}; "
            "load this encoder without quantisation"
        )
    lengths = {slot.component_name: len(slot.tokenizer) for slot in pair.slots}
    if len(set(lengths.values())) > 1:
        raise ConceptLoadError(f"{where}: expected tokenizers with equal vocabularies, got sizes {lengths}")


@torch.no_grad()
def add_rows(pipe: Any, pair: TextPair, concepts: Mapping[str, Tensor]) -> None:
    """Add concepts to a pair: tokens to its tokenizers, rows to its matrix (which grows once), triggers.

    Args:
        pipe: The pipeline that holds the pair; its record of the tokenizer's class is renewed.
        pair: Checked by `check_can_add_rows`.
        concepts: ``{trigger: rows}`` with rows ``(num_vectors, hidden_size)``; no trigger is loaded yet.
    """
    _remember_base_matrix(pair)
    matrix = pair.embedding.weight.detach()
    all_names: list[str] = []
    for trigger, rows in concepts.items():
        names = row_names(trigger, len(rows), taken=pair.tokenizer.added_tokens_encoder)
        for slot in pair.slots:
            # Not normalised: the names must be found as they are, whatever the tokenizer does to case and accents.
            slot.tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
            register_trigger(slot.tokenizer, trigger, names)
        all_names += names
    ids = cast(list[int], pair.tokenizer.convert_tokens_to_ids(all_names))
    num_missing = max(ids) + 1 - len(matrix)
    # `resize_token_embeddings` would shrink padded matrices, replace the module (hooks, Gemma's scaling) and draw
    # random rows; a longer parameter in the same module does none of that.
    matrix = torch.cat([matrix, matrix.new_zeros(max(num_missing, 0), matrix.shape[1])])
    matrix[torch.tensor(ids, device=matrix.device)] = torch.cat(list(concepts.values())).to(matrix)
    _set_matrix(pair, matrix)
    _correct_legacy_eos(pair)
    _refresh_config(pipe, pair)


@torch.no_grad()
def write_rows(pair: TextPair, trigger: str, rows: Tensor) -> None:
    """Overwrite a loaded concept's rows, ``(num_vectors, hidden_size)``, in place."""
    weight = pair.embedding.weight
    weight[torch.tensor(pair.row_ids(trigger), device=weight.device)] = rows.to(weight)


@torch.no_grad()
def remove_rows(pipe: Any, pair: TextPair, triggers: Sequence[str]) -> None:
    """Undo `add_rows` for some concepts; vocabulary, matrix and config are then as if they had never been added.

    Tokens added later, by whomever, move down to close the gap, and their rows move with them.
    """
    table = trigger_table(pair.tokenizer)
    names = {name for trigger in triggers for name in table[trigger]}
    removed_ids = [token_id for trigger in triggers for token_id in pair.row_ids(trigger)]
    matrix = pair.embedding.weight.detach()
    keep = torch.ones(len(matrix), dtype=torch.bool, device=matrix.device)
    keep[torch.tensor(removed_ids, device=matrix.device)] = False
    matrix = matrix[keep]
    for slot in pair.slots:
        _remove_tokens(slot.tokenizer, names)
        for trigger in triggers:
            forget_trigger(slot.tokenizer, trigger)
    base: _BaseMatrix | None = getattr(pair.encoder, _BASE_MATRIX, None)
    if base is not None:
        num_tokens = len(pair.tokenizer)
        spare = base.spare_rows[max(num_tokens - base.spare_start, 0) :].to(matrix)
        matrix = torch.cat([matrix[:num_tokens], spare])
    _set_matrix(pair, matrix)
    if base is not None and not trigger_table(pair.tokenizer):
        _forget_base_matrix(pair, base)
    _refresh_config(pipe, pair)


def _remove_tokens(tokenizer: PreTrainedTokenizerBase, names: set[str]) -> None:
    if not hasattr(tokenizer, "_tokenizer"):
        raise ConceptLoadError(f"expected a tokenizer with a `tokenizers` backend, got {type(tokenizer).__name__}")
    # The Rust tokenizer cannot forget tokens, but it can be read from its own description without them.
    state = json.loads(tokenizer._tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in names]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def _set_matrix(pair: TextPair, matrix: Tensor) -> None:
    """Give the embedding, and whatever is tied to it, a matrix of another length."""
    old = pair.embedding.weight
    new = nn.Parameter(matrix, requires_grad=old.requires_grad)
    for module in pair.encoder.modules():
        if getattr(module, "weight", None) is old:
            module.weight = new
            for size_name in ("num_embeddings", "out_features"):
                if hasattr(module, size_name):
                    setattr(module, size_name, len(matrix))
    pair.encoder.config.get_text_config().vocab_size = len(matrix)


def _remember_base_matrix(pair: TextPair) -> None:
    if trigger_table(pair.tokenizer) or hasattr(pair.encoder, _BASE_MATRIX):
        return
    weight = pair.embedding.weight.detach()
    spare_start = len(pair.tokenizer)
    base = _BaseMatrix(
        num_rows=len(weight),
        vocab_size=pair.encoder.config.get_text_config().vocab_size,
        spare_start=spare_start,
        spare_rows=weight[spare_start:].clone(),
        eos_token_ids=_legacy_eos_token_ids(pair),
    )
    setattr(pair.encoder, _BASE_MATRIX, base)


def _forget_base_matrix(pair: TextPair, base: _BaseMatrix) -> None:
    pair.encoder.config.get_text_config().vocab_size = base.vocab_size
    for name, eos_token_id in base.eos_token_ids.items():
        _eos_owner(pair, name).eos_token_id = eos_token_id
    delattr(pair.encoder, _BASE_MATRIX)


def _legacy_eos_token_ids(pair: TextPair) -> dict[str, Any]:
    """Owners of CLIP's legacy ``eos_token_id == 2``, with which it pools at the highest id: a concept's last row."""
    if not re.match("CLIP", type(pair.encoder).__name__) or pair.tokenizer.eos_token_id in (
        None,
        _LEGACY_EOS_TOKEN_ID,
    ):
        return {}
    names = ["config", *(name for name, _ in pair.encoder.named_modules())]
    owners = {name: getattr(_eos_owner(pair, name), "eos_token_id", None) for name in names}
    return {name: value for name, value in owners.items() if value == _LEGACY_EOS_TOKEN_ID}


def _correct_legacy_eos(pair: TextPair) -> None:
    for name in _legacy_eos_token_ids(pair):
        _eos_owner(pair, name).eos_token_id = pair.tokenizer.eos_token_id


def _eos_owner(pair: TextPair, name: str) -> Any:
    return pair.encoder.config if name == "config" else pair.encoder.get_submodule(name)


def _refresh_config(pipe: Any, pair: TextPair) -> None:
    """Renew ``pipe.config``, which records each component's class: the tokenizers' may have changed."""
    for slot in pair.slots:
        if not slot.in_processor:
            setattr(pipe, slot.component_name, slot.tokenizer)
