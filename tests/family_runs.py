"""A training run on a tiny pipeline of each family, and which of them `make test` tries."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import random_picture
from training_families import TRAINING_FAMILIES, side_of

from diffusers_supreme_init import Concept, SupremeInitConfig, SupremeInitTextualInversionTrainer
from diffusers_supreme_init.backbones import Backbone, backbone_for

CAPTION = "a red mug with white boats"
SIDE = 16
"""Of training pictures, in pixels."""

each_family = pytest.mark.parametrize("case", TRAINING_FAMILIES, ids=lambda case: case.name)


def each_family_in_turn(*fast: str) -> pytest.MarkDecorator:
    """All families, of which `make test` tries those that are named, and `make test-slow` the others.

    Each test names others, so that none of them is slow in `make test` and none is left out of it.
    """
    cases = [
        pytest.param(case, id=case.name, marks=[] if case.name in fast else pytest.mark.slow)
        for case in TRAINING_FAMILIES
    ]
    return pytest.mark.parametrize("case", cases)


def each_family_with(name: str, values: Sequence[Any], fast: Any) -> pytest.MarkDecorator:
    """Give each family each value; `make test` tries one of them."""
    cases = [
        pytest.param(case, value, id=f"{case.name}-{value}", marks=[] if value == fast else pytest.mark.slow)
        for case in TRAINING_FAMILIES
        for value in values
    ]
    return pytest.mark.parametrize(("case", name), cases)


def make_trainer(
    pipe: Any, *, token: str = "<mug>", initializer: Any = CAPTION, concepts: Any = None, **options: Any
) -> SupremeInitTextualInversionTrainer:
    settings = {
        "max_train_steps": 2,
        "validation_samples": 0,
        "resolution": side_of(pipe),
        "train_batch_size": 2,
    } | options
    if concepts is None:
        concepts = [Concept(images=random_picture(), placeholder_token=token, initializer=initializer)]
    return SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=SupremeInitConfig(**settings))


def conditioning(pipe: Any, prompt: str) -> list[torch.Tensor]:
    """Return all that a denoiser is told of a prompt."""
    with torch.no_grad():
        encoded = backbone_for(pipe).encode_prompts([prompt])
    parts = vars(encoded).values() if hasattr(encoded, "__dict__") and not torch.is_tensor(encoded) else encoded
    return [encoded] if torch.is_tensor(encoded) else [part for part in parts if part is not None]


def random_latents(backbone: Backbone, num: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    side = side_of(backbone.pipe)
    shape = backbone.encode_pictures(torch.zeros(1, 3, side, side)).mean.shape[1:]
    return torch.randn(num, *shape, generator=generator)
