"""Samples -> losses, with gradient to the rows.

The *fixed-noise loss* is the loss of one prompt over noises and timesteps that never change.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..errors import ConfigError
from .draws import DenoisingSample, ValidatedConcept, draw_validation_sample

AUTOCAST_DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Autocast dtype for each value of `mixed_precision`."""

_FIXED_NOISE_BATCH_SIZE = 8


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
            losses += found.tolist()
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
    conditioning = encode_each_once(backbone, [sample.prompt for sample in samples])
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


def encode_each_once(backbone: Backbone, prompts: Sequence[str]) -> Any:
    """Return the conditioning of all prompts; equal ones are encoded once, and share their gradient."""
    different = list(dict.fromkeys(prompts))
    conditioning = backbone.encode_prompts(different)
    places = [different.index(prompt) for prompt in prompts]
    return conditioning if len(different) == len(prompts) else _take(conditioning, places)


def _take(conditioning: Any, places: list[int]) -> Any:
    """Return entries of a batch of conditioning, whatever it is made of."""
    if isinstance(conditioning, Tensor):
        return conditioning[torch.tensor(places, device=conditioning.device)]
    if isinstance(conditioning, list):
        return [conditioning[place] for place in places]
    if isinstance(conditioning, tuple):
        return tuple(_take(one, places) for one in conditioning)
    if is_dataclass(conditioning) and not isinstance(conditioning, type):
        return replace(
            conditioning, **{one.name: _take(getattr(conditioning, one.name), places) for one in fields(conditioning)}
        )
    if conditioning is None:
        return None
    raise TypeError(
        f"encode_prompts: expected a tensor, or a list, tuple or dataclass of tensors, got "
        f"{type(conditioning).__name__}"
    )


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


def with_launched_precision(config: SupremeInitConfig, accelerator: Accelerator) -> SupremeInitConfig:
    """Return settings that say which precision `accelerate launch` chose, if they leave it to that.

    Rows depend on it. So checkpoints, records and keys of a catalogue, which are made from the settings, tell it.

    Raises:
        ConfigError: As `autocast_dtype`.
    """
    autocast_dtype(config, accelerator)
    is_left = config.mixed_precision is None and accelerator.mixed_precision != "no"
    return replace(config, mixed_precision=accelerator.mixed_precision) if is_left else config
