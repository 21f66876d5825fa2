"""All tiny pipelines, and concepts that fit each of their text encoders."""

from pathlib import Path
from typing import Any

import torch

from diffusers_supreme_init import LearnedEmbedding, write_embedding
from diffusers_supreme_init.text.text_pairs import TextPair, find_text_pairs, identify_encoder

from . import (
    audio_families,
    image_families,
    language_model_families,
    more_families,
    prior_families,
    video_families,
)
from .families import Family

FAMILIES: list[Family] = [
    *image_families.FAMILIES,
    *prior_families.FAMILIES,
    *more_families.FAMILIES,
    *video_families.FAMILIES,
    *audio_families.FAMILIES,
    *language_model_families.FAMILIES,
]
FAMILY: dict[str, Family] = {family.name: family for family in FAMILIES}


def pair_of(pipe: Any, encoder_name: str) -> TextPair:
    """Return one text encoder of a pipeline, with its tokenizers."""
    return next(pair for pair in find_text_pairs(pipe) if pair.encoder_name == encoder_name)


def rows_for(pair: TextPair, num_vectors: int = 3, seed: int = 0) -> torch.Tensor:
    """Return random rows ``(num_vectors, hidden_size)``."""
    return torch.randn(num_vectors, pair.hidden_size, generator=torch.Generator().manual_seed(seed)) * 0.1


def concept_for(pair: TextPair, token: str = "<mug>", num_vectors: int = 3, **changes: Any) -> LearnedEmbedding:
    """Return a concept as the trainer would save it for one text encoder."""
    values: dict[str, Any] = {
        "placeholder_token": token,
        "rows": rows_for(pair, num_vectors),
        "description": "a skull and bones mug",
        "encoder": identify_encoder(pair),
    }
    return LearnedEmbedding(**(values | changes))


def load_everywhere(pipe: Any, folder: Path, token: str = "<mug>") -> dict[str, torch.Tensor]:
    """Load one concept into every text encoder of a pipeline, one file each; return the rows by encoder."""
    expected = {}
    for number, pair in enumerate(find_text_pairs(pipe)):
        concept = concept_for(pair, token, num_vectors=3 + number)  # another number of rows in every encoder
        file = write_embedding(folder / f"{pair.encoder_name}.safetensors", concept)
        pipe.load_multitoken_inversion(file, text_encoder=pair.encoder_name)
        expected[pair.encoder_name] = concept.rows
    return expected
