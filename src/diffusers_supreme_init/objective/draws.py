"""Latents and prompts -> the samples of a step, and those of the fixed-noise loss, drawn without state.

*Antithetic* samples come in pairs of one picture, prompt and timestep with opposite noises. What a denoiser gets wrong
is nearly odd in the noise, so that most of what the noise adds to the gradient cancels within a pair. Timesteps are
spread evenly over those that the family draws from: one stratum for each pair of a step, shifted from step to step by
the golden ratio, so that those of successive steps are spread evenly too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..randomness import choose, generator_for
from .latents import PictureLatents

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class ValidatedConcept(Protocol):
    """The part of a concept that the fixed-noise loss uses."""

    @property
    def validation_prompt(self) -> str:
        """The prompt of the fixed-noise loss."""
        ...

    @property
    def latents(self) -> PictureLatents:
        """The concept's pictures, encoded."""
        ...


@dataclass(frozen=True)
class PromptedPictures:
    """A prompt and the pictures its loss is measured on: a `ValidatedConcept` without a concept."""

    validation_prompt: str
    latents: PictureLatents


class SampledConcept(ValidatedConcept, Protocol):
    """The part of a concept that drawing training samples uses."""

    @property
    def random_key(self) -> str:
        """Part of the key of every draw: the placeholder token, unless paired comparisons share another key."""
        ...

    @property
    def prompts(self) -> Sequence[str]:
        """Training prompts."""
        ...


@dataclass(frozen=True)
class DenoisingSample:
    """One element of a batch.

    Attributes:
        latents: z of equation 1, ``(channels, height, width)``.
        noise: Standard normal, the same shape.
        timestep: Timestep, on the backbone's scale.
        prompt: Text with the placeholder token.
        mask: Loss weights ``(1, height, width)``, or None.
        geometry: ``(6,)``; see `PictureLatents`.
    """

    latents: Tensor
    noise: Tensor
    timestep: float
    prompt: str
    mask: Tensor | None
    geometry: Tensor


def draw_training_sample(
    backbone: Backbone, concept: SampledConcept, step: int, sample_index: int, config: SupremeInitConfig
) -> DenoisingSample:
    """Draw one training sample, as a pure function of the seed, the concept's key, the step and the index."""
    is_antithetic = config.draws == "antithetic"
    first = _first_of_pair(sample_index) if is_antithetic else sample_index

    def generator(purpose: str) -> torch.Generator:
        return generator_for(config.seed, concept.random_key, step, first, purpose)

    if is_antithetic:
        whole_run = generator_for(config.seed, concept.random_key, 0, 0, "timesteps")
        begin = torch.rand((), generator=whole_run, dtype=torch.float64)
        place = (float(begin) + step * _GOLDEN_RATIO) % 1.0
        quantile = _quantile(first, config.samples_per_step, place)
    else:
        quantile = float(torch.rand((), generator=generator("timestep"), dtype=torch.float64))
    picture = choose(range(len(concept.latents)), generator("picture"))
    mirrored = int(torch.rand((), generator=generator("flip")) < config.flip_probability)
    mean, std = concept.latents.mean[picture, mirrored], concept.latents.std[picture, mirrored]
    noise = torch.randn(mean.shape, generator=generator("noise"))
    return DenoisingSample(
        latents=mean + std * torch.randn(mean.shape, generator=generator("latents")),
        noise=noise if sample_index == first else -noise,
        timestep=backbone.timestep_at(quantile, _size(mean)),
        prompt=choose(concept.prompts, generator("template")),
        mask=None if concept.latents.mask is None else concept.latents.mask[picture, mirrored],
        geometry=concept.latents.geometry[picture],
    )


def draw_validation_sample(
    backbone: Backbone, concept: ValidatedConcept, sample_index: int, config: SupremeInitConfig
) -> DenoisingSample:
    """Draw one sample of the fixed-noise loss.

    The sample is the same at every step, and its noise and timestep are the same for every concept, which allows
    paired comparisons of losses. Samples come in antithetic pairs, timesteps are spread evenly, latents are the
    posterior's mean, and no picture is mirrored.
    """
    first = _first_of_pair(sample_index)
    picture = first // 2 % len(concept.latents)
    mean = concept.latents.mean[picture, 0]
    noise = torch.randn(mean.shape, generator=generator_for(config.seed, "", 0, first, "validation noise"))
    return DenoisingSample(
        latents=mean,
        noise=noise if sample_index == first else -noise,
        timestep=backbone.timestep_at(_quantile(first, config.validation_samples, 0.5), _size(mean)),
        prompt=concept.validation_prompt,
        mask=None if concept.latents.mask is None else concept.latents.mask[picture, 0],
        geometry=concept.latents.geometry[picture],
    )


def _first_of_pair(sample_index: int) -> int:
    return sample_index - sample_index % 2


def _quantile(first: int, num_samples: int, place: float) -> float:
    """Return where a pair's timestep lies, in [0, 1]: at `place` of its stratum, which is as wide as the pair's share.

    A single last sample has half the share, so that timesteps keep their density.
    """
    return (first + place * min(2, num_samples - first)) / num_samples


def _size(latents: Tensor) -> tuple[int, int]:
    return latents.shape[-2], latents.shape[-1]
