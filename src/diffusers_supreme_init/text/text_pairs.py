"""Find the text encoders of a pipeline, each with the tokenizers that make token ids for it."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from ..triggers import trigger_table
from .encoder_identity import EncoderIdentity

_ENCODER_NAME = re.compile(r"text_encoder|\Abert\Z")
"""Names of components that read a prompt: ``text_encoder``, ``text_encoder_2``, ``prior_text_encoder``; ``bert`` in
latent diffusion."""

_PLANNER_NAME = "vision_language_encoder"
"""GLM-Image's language model, which reads the prompt through ``processor``."""

_EMBEDDING_NAME = re.compile(r"(\A|\.)(token_embedding|word_embeddings|embed_tokens|shared)\Z")
"""Names that models give to their input embedding module."""


@dataclass(frozen=True)
class TokenizerSlot:
    """A tokenizer, and the pipeline component that holds it: the tokenizer itself, or a processor around it.

    Attributes:
        component_name: Name of the component in the pipeline.
        tokenizer: The tokenizer.
        processor: The processor around it, or None.
    """

    component_name: str
    tokenizer: PreTrainedTokenizerBase
    processor: ProcessorMixin | None


@dataclass(frozen=True)
class TextPair:
    """A text encoder of a pipeline, with every tokenizer that makes token ids for it."""

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
        embedding = _input_embedding(self.encoder)
        if embedding is None:
            raise TypeError(f"{type(self.encoder).__name__} has no input embedding matrix")
        return embedding

    @property
    def label(self) -> str:
        """The encoder's name in messages: ``text_encoder_2 (CLIPTextModelWithProjection of width 1280)``."""
        return f"{self.encoder_name} ({type(self.encoder).__name__} of width {self.hidden_size})"

    def row_ids(self, trigger: str) -> list[int]:
        """Return the token ids of a loaded concept's rows, in order."""
        names = cast(list[str], trigger_table(self.tokenizer)[trigger])
        return cast(list[int], self.tokenizer.convert_tokens_to_ids(names))

    def rows(self, trigger: str) -> Tensor:
        """Return a copy of a loaded concept's rows, ``(num_vectors, hidden_size)``, in the encoder's dtype."""
        weight = self.embedding.weight.detach()
        return weight[torch.tensor(self.row_ids(trigger), device=weight.device)].clone()


def find_text_pairs(pipe: Any) -> list[TextPair]:
    """Return a pipeline's text encoders with their tokenizers, in the order of the pipeline's components.

    The rule holds for the pipelines of diffusers: ``text_encoder_k`` reads the token ids of ``tokenizer_k``, which may
    be a processor around a tokenizer. ``processor`` and ``text_processor`` hold another tokenizer for that encoder.
    """
    components = pipe.components
    pairs = []
    for name, component in components.items():
        encoder = getattr(component, "_orig_mod", component)  # `torch.compile(encoder)` wraps it
        is_planner = name == _PLANNER_NAME
        if not (is_planner or _ENCODER_NAME.search(name)) or not isinstance(encoder, PreTrainedModel):
            continue
        slots: list[TokenizerSlot] = []
        own_name = "processor" if is_planner else _ENCODER_NAME.sub("tokenizer", name)
        for slot_name in (own_name, "processor", "text_processor"):
            holder = components.get(slot_name)
            is_processor = isinstance(holder, ProcessorMixin)
            inner = getattr(holder, "tokenizer", None) if is_processor else holder
            if not isinstance(inner, PreTrainedTokenizerBase) or any(inner is slot.tokenizer for slot in slots):
                continue
            if slots and inner.vocab_size != slots[0].tokenizer.vocab_size:
                continue  # GLM-Image's processor belongs to its language model, not to this encoder
            if not slots and slot_name != own_name and name != "text_encoder":
                continue
            slots.append(TokenizerSlot(slot_name, inner, holder if is_processor else None))
        if slots and _input_embedding(encoder) is not None:
            pairs.append(TextPair(name, encoder, tuple(slots)))
    return pairs


def identify_encoder(pair: TextPair) -> EncoderIdentity:
    """Return the identity of a text encoder; concepts and other added tokens do not change it."""
    backend = getattr(pair.tokenizer, "_tokenizer", None)
    added = pair.tokenizer.added_tokens_encoder
    vocabulary = (
        {token: index for token, index in pair.tokenizer.get_vocab().items() if token not in added}
        if backend is None
        else backend.get_vocab(with_added_tokens=False)
    )
    digest = hashlib.sha256(json.dumps(sorted(vocabulary.items()), ensure_ascii=False).encode()).hexdigest()
    return EncoderIdentity(type(pair.encoder).__name__, pair.hidden_size, digest)


def _input_embedding(encoder: PreTrainedModel) -> nn.Embedding | None:
    """Return the input embedding module, found by its name if the model has no accessor (CLAP, M-CLIP, BLIP)."""
    try:
        module = encoder.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        module = None
    if isinstance(module, nn.Embedding | BaseTunerLayer):
        return module
    named = [part for name, part in encoder.named_modules() if _EMBEDDING_NAME.search(name)]
    found = [part for part in named if isinstance(part, nn.Embedding)]
    return found[0] if len(found) == 1 else None
