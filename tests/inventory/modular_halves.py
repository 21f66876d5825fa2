"""The text block of modular pipelines, with the text encoders of a family that runs whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tiny.families import Family
from tiny.language_models import qwen3_vl_encoder
from tiny.language_tokenizers import qwen_processor
from tiny.text import t5_tokenizer
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLModel, Qwen3VLProcessor

from .classes import Reader, modular_classes, module_of, readers_of_modular
from .text_halves import PICTURE, lender_of, tensors_in


def _deep(model_class: type, layers: int = 36) -> Callable[[], Any]:
    return lambda: qwen3_vl_encoder(layers=layers, model_class=model_class)


FLUX_3 = {
    "text_encoder": _deep(Qwen3VLForConditionalGeneration),
    "tokenizer": lambda: qwen_processor(Qwen3VLProcessor),
}
NEEDED: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "AnimaModularPipeline": {"t5_tokenizer": t5_tokenizer},
    "Flux3DistilledModularPipeline": FLUX_3,
    "Flux3ModularPipeline": FLUX_3,
    "Ideogram4ModularPipeline": {"text_encoder": _deep(Qwen3VLModel)},
    "Krea2ModularPipeline": {"text_encoder": _deep(Qwen3VLModel)},
    "Krea2TurboModularPipeline": {"text_encoder": _deep(Qwen3VLModel)},
    "MiniMaxH3ModularPipeline": {"text_encoder": _deep(Qwen3VLForConditionalGeneration, 51)},
}
"""Components that the family with the same text encoders lacks, or has with fewer layers than are looked into."""

BORROWED = "connectors"
"""What is no text encoder and still a part of the text block, in LTX-2 and Echo."""

NOT_RUN = {"HunyuanVideo15ModularPipeline": "its text block reads `transformer`, which is not among its components"}
"""Text blocks that do not run alone, and why."""


@dataclass(frozen=True)
class ModularHalf:
    """A modular pipeline class and the family whose text encoders it borrows."""

    pipeline_class: type
    readers: tuple[Reader, ...]
    family: Family | None

    @property
    def lender(self) -> str | None:
        """The name of the family whose text encoder this is; None if it was made for this class."""
        is_own = "text_encoder" in NEEDED.get(self.pipeline_class.__name__, {})
        return None if self.family is None or is_own else self.family.name

    def build(self) -> Any:
        """Return a fresh pipeline with nothing but what reads prompts."""
        pipe = self.pipeline_class()
        lent = self.family.build().components if self.family else {}
        names = {BORROWED} | {
            name for one in self.readers for name in (one.encoder_name, *(slot for slot, _ in one.tokenizers))
        }
        needed = {name: make() for name, make in NEEDED.get(self.pipeline_class.__name__, {}).items()}
        parts = {name: part for name, part in lent.items() if name in names and part is not None}
        pipe.update_components(**{**parts, **needed})
        return pipe

    def encode(self, pipe: Any, prompt: str) -> list[torch.Tensor]:
        """Return every tensor that the pipeline's text block makes of a prompt."""
        blocks = pipe.blocks.sub_blocks["text_encoder"]
        own = blocks.init_pipeline()
        parts = {name: part for name, part in pipe.components.items() if name in own.components and part is not None}
        own.update_components(**parts)
        known = {
            **(self.family.call if self.family else {}),
            "prompt": prompt,
            "image": PICTURE,
            "max_sequence_length": 256,
        }
        with torch.no_grad():
            state = own(**{name: value for name, value in known.items() if name in blocks.input_names})
        return [tensor for made in state.values.values() for tensor in tensors_in(made)]


def modular_halves() -> list[ModularHalf]:
    """Return the text block of every modular class that runs with text encoders alone."""
    found = [(one, readers_of_modular(one)) for one in modular_classes() if one.__name__ not in NOT_RUN]
    halves = [ModularHalf(one, readers, lender_of(readers, module_of(one))) for one, readers in found if readers]
    return [half for half in halves if half.family or half.pipeline_class.__name__ in NEEDED]
