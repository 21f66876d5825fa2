"""Latents and prompts -> losses; the samples of each step are drawn without state.

The *fixed-noise loss* is the loss of one prompt over noises and timesteps that never change.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..errors import ConfigError
from ..randomness import choose, generator_for
from .latents import PictureLatents

AUTOCAST_DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Autocast dtype for each value of `mixed_precision`."""

_FIXED_NOISE_BATCH_SIZE = 8


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

    def generator(purpose: str) -> torch.Generator:
        return generator_for(config.seed, concept.random_key, step, sample_index, purpose)

    picture = choose(range(len(concept.latents)), generator("picture"))
    mirrored = int(torch.rand((), generator=generator("flip")) < config.flip_probability)
    mean, std = concept.latents.mean[picture, mirrored], concept.latents.std[picture, mirrored]
    return DenoisingSample(
        latents=mean + std * torch.randn(mean.shape, generator=generator("latents")),
        noise=torch.randn(mean.shape, generator=generator("noise")),
        timestep=backbone.draw_timestep(generator("timestep"), _size(mean)),
        prompt=choose(concept.prompts, generator("template")),
        mask=None if concept.latents.mask is None else concept.latents.mask[picture, mirrored],
        geometry=concept.latents.geometry[picture],
    )


def draw_validation_sample(
    backbone: Backbone, concept: ValidatedConcept, sample_index: int, config: SupremeInitConfig
) -> DenoisingSample:
    """Draw one sample of the fixed-noise loss.

    The sample is the same at every step, and its noise and timestep are the same for every concept, which allows
    paired comparisons of losses. Timesteps are spread evenly, latents are the posterior's mean, and no picture is
    mirrored.
    """
    picture = sample_index % len(concept.latents)
    mean = concept.latents.mean[picture, 0]
    return DenoisingSample(
        latents=mean,
        noise=torch.randn(mean.shape, generator=generator_for(config.seed, "", 0, sample_index, "validation noise")),
        timestep=backbone.spread_timestep(sample_index, config.validation_samples, _size(mean)),
        prompt=concept.validation_prompt,
        mask=None if concept.latents.mask is None else concept.latents.mask[picture, 0],
        geometry=concept.latents.geometry[picture],
    )


@torch.no_grad()
def fixed_noise_losses(
    backbone: Backbone,
    concept: ValidatedConcept,
    config: SupremeInitConfig,
    device: torch.device,
    *,
    autocast_dtype: torch.dtype | None = None,
) -> list[float]:
    """Return the fixed-noise losses of one prompt, one for each of `validation_samples`, without gradient.

    They are weighted as in training, by mask and `snr_gamma`: it is what training lowers that is followed.

    Args:
        backbone: Backbone with its text encoder and denoiser on `device`.
        concept: Prompt and pictures.
        config: Settings; the seed, `snr_gamma`, the number of samples and the largest batch matter here.
        device: Device of the model.
        autocast_dtype: Dtype of autocast, as in training; None: no autocast.
    """
    batch_size = config.max_forward_batch_size or _FIXED_NOISE_BATCH_SIZE
    losses: list[float] = []
    for start in range(0, config.validation_samples, batch_size):
        indices = range(start, min(start + batch_size, config.validation_samples))
        samples = [draw_validation_sample(backbone, concept, index, config) for index in indices]
        with nullcontext() if autocast_dtype is None else torch.autocast(device.type, autocast_dtype):
            found = denoising_losses(backbone, samples, device, snr_gamma=config.snr_gamma)
            losses += found.double().tolist()
    return losses


def denoising_losses(
    backbone: Backbone, samples: Sequence[DenoisingSample], device: torch.device, *, snr_gamma: float | None = None
) -> Tensor:
    """Return the loss of equation 1 for each sample, ``(batch,)``, at least float32, with gradient to the rows.

    Args:
        backbone: Backbone that encodes the prompts and predicts.
        samples: Any number of samples, of any concepts, all with the same latent size.
        device: Device of the model.
        snr_gamma: Gamma of the Min-SNR weights; None: the plain mean squared error.
    """
    dtype = torch.promote_types(backbone.compute_dtype, torch.float32)
    latents = torch.stack([sample.latents for sample in samples]).to(device, dtype)
    noise = torch.stack([sample.noise for sample in samples]).to(device, dtype)
    timesteps = torch.tensor([sample.timestep for sample in samples], device=device)
    conditioning = backbone.encode_prompts([sample.prompt for sample in samples])
    geometry = torch.stack([sample.geometry for sample in samples]).to(device)
    prediction = backbone.predict(backbone.add_noise(latents, noise, timesteps), timesteps, conditioning, geometry)
    squared_error = (prediction.to(dtype) - backbone.target(latents, noise, timesteps)) ** 2
    if all(sample.mask is None for sample in samples):
        losses = squared_error.mean(dim=(1, 2, 3))
    else:
        everywhere = torch.ones(1, *squared_error.shape[-2:])
        masks = [everywhere if sample.mask is None else sample.mask for sample in samples]
        mask = torch.stack(masks).to(device, dtype)
        weights = mask.expand_as(squared_error)
        losses = (squared_error * weights).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))
    if snr_gamma is not None:
        losses = losses * backbone.min_snr_weights(timesteps, snr_gamma).to(dtype)
    return losses


def autocast_dtype(config: SupremeInitConfig, accelerator: Accelerator) -> torch.dtype | None:
    """Return the dtype of autocast, from the config or else from `accelerate launch`; None for no autocast.

    Raises:
        ConfigError: accelerate is configured with a precision that rows cannot be trained in.
    """
    precision = config.mixed_precision or accelerator.mixed_precision
    if precision not in AUTOCAST_DTYPES:
        expected = tuple(AUTOCAST_DTYPES)
        raise ConfigError(f"mixed_precision: expected one of {expected}, got {precision!r} from accelerate")
    return AUTOCAST_DTYPES[precision]


def _size(latents: Tensor) -> tuple[int, int]:
    return latents.shape[-2], latents.shape[-1]
