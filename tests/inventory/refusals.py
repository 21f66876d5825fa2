"""What the loader says about the pipeline classes that it refuses, from a minimal object of each."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from tiny.language_tokenizers import llama_tokenizer

from diffusers_supreme_init import ConceptLoadError

from .classes import modular_classes, readers_of, readers_of_modular, text_taking_classes

REASONS: Mapping[str, str] = {
    "Cosmos3OmniPipeline": "its transformer embeds the tokens itself",
    "Cosmos3DistilledModularPipeline": "its transformer embeds the tokens itself",
    "Cosmos3OmniModularPipeline": "its transformer embeds the tokens itself",
    "DiffusionGemmaPipeline": "a language model that writes text; there is no picture to put a concept into",
    "LLaDA2Pipeline": "a language model that writes text; there is no picture to put a concept into",
    "MiniMaxMusic3ModularPipeline": "its language model writes the music's tokens; it has no text encoder",
    "OmniGenPipeline": "its transformer embeds the tokens itself",
}
"""Why a pipeline class has no text encoder to put rows into."""


@functools.cache
def refused_classes() -> frozenset[type]:
    """Return the classes without a text encoder that the loader finds."""
    plain = [one for one in text_taking_classes() if not readers_of(one)]
    return frozenset(plain) | {one for one in modular_classes() if not readers_of_modular(one)}


def bare_pipeline(pipeline_class: type) -> Any:
    """Return a pipeline with all its components, where those that no text passes through are empty modules.

    Its ``__init__`` is not called: some want packages that are not installed here, or look into their components.
    """
    tokenizers = {"tokenizer": llama_tokenizer(), "text_tokenizer": llama_tokenizer()}
    if hasattr(pipeline_class, "default_blocks_name"):
        pipe = pipeline_class()
        own = {name: part for name, part in tokenizers.items() if name in pipe._component_specs}
        pipe.update_components(**own)
        return pipe
    parts: dict[str, Any] = {**tokenizers, "processor": llama_tokenizer()}
    pipe = pipeline_class.__new__(pipeline_class)
    names = pipeline_class._get_signature_keys(pipeline_class)[0]
    pipe.register_modules(**{name: parts.get(name, torch.nn.Identity()) for name in sorted(names)})
    return pipe


def refusal_of(pipeline_class: type) -> str:
    """Return the message of the error that loading a concept raises."""
    try:
        bare_pipeline(pipeline_class).load_multitoken_inversion({"<mug>": torch.zeros(2, 32)})
    except ConceptLoadError as error:
        return str(error)
    raise AssertionError(f"{pipeline_class.__name__} takes concepts")
