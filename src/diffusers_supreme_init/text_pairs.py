"""The pairs of text encoder and tokenizers of a pipeline: what reads a prompt."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .multitoken import trigger_table


@dataclass(frozen=True)
class TokenizerSlot:
    """A tokenizer and the pipeline component that holds it (itself, or a processor around it)."""

    component_name: str
    tokenizer: PreTrainedTokenizerBase
    in_processor: bool


@dataclass(frozen=True)
class TextPair:
    """A text encoder of a pipeline with every tokenizer that makes ids for it."""

    encoder_name: str
    encoder: PreTrainedModel
    slots: tuple[TokenizerSlot, ...]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The first tokenizer; all of them know the same tokens."""
        return self.slots[0].tokenizer

    @property
    def hidden_size(self) -> int:
        """Width of one row."""
        return self.embedding.weight.shape[-1]

    @property
    def embedding(self) -> nn.Embedding:
        """The input embedding module, whose weight is ``(num_rows, hidden_size)``."""
        return cast(nn.Embedding, self.encoder.get_input_embeddings())

    def row_ids(self, trigger: str) -> list[int]:
        """Token ids of a loaded concept's rows, in order."""
        return cast(list[int], self.tokenizer.convert_tokens_to_ids(trigger_table(self.tokenizer)[trigger]))

    def rows(self, trigger: str) -> Tensor:
        """A copy of a loaded concept's rows, ``(num_vectors, hidden_size)``, in the encoder's dtype."""
        weight = self.embedding.weight.detach()
        return weight[torch.tensor(self.row_ids(trigger), device=weight.device)].clone()


@dataclass(frozen=True)
class EncoderIdentity:
    """What has to be equal for rows of one text encoder to mean the same in another.

    Attributes:
        class_name: E.g. ``"CLIPTextModel"``.
        hidden_size: Width of a row.
        vocabulary: SHA-256 over the tokenizer's own vocabulary, without added tokens.
    """

    class_name: str
    hidden_size: int
    vocabulary: str


def find_text_pairs(pipe: Any) -> list[TextPair]:
    """Return a pipeline's text encoders with their tokenizers, in the order of the pipeline's components."""
    components = pipe.components
    pairs = []
    for name, encoder in components.items():
        if "text_encoder" not in name or not isinstance(encoder, PreTrainedModel):
            continue
        slots: list[TokenizerSlot] = []
        for slot_name in (name.replace("text_encoder", "tokenizer"), "processor", "text_processor"):
            holder = components.get(slot_name)
            inner = getattr(holder, "tokenizer", holder) if holder is not None else None
            if isinstance(inner, PreTrainedTokenizerBase) and all(inner is not slot.tokenizer for slot in slots):
                slots.append(TokenizerSlot(slot_name, inner, in_processor=inner is not holder))
        if slots:
            pairs.append(TextPair(name, encoder, tuple(slots)))
    return pairs


def identify_encoder(pair: TextPair) -> EncoderIdentity:
    """Return the identity of a pair; concepts and other added tokens do not change it."""
    backend = getattr(pair.tokenizer, "_tokenizer", None)
    added = pair.tokenizer.added_tokens_encoder
    vocabulary = (
        {token: index for token, index in pair.tokenizer.get_vocab().items() if token not in added}
        if backend is None
        else backend.get_vocab(with_added_tokens=False)
    )
    digest = hashlib.sha256(json.dumps(sorted(vocabulary.items()), ensure_ascii=False).encode()).hexdigest()
    return EncoderIdentity(type(pair.encoder).__name__, pair.hidden_size, digest)
