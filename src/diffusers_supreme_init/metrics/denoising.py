"""Fixed-noise denoising error: equation 1 of the paper, over the same noises every time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backbones import backbone_for
from ..config import SupremeInitConfig
from ..errors import ConfigError
from ..objective.draws import PromptedPictures
from ..objective.latents import encode_concept
from ..objective.losses import fixed_noise_losses
from ..objective.phases import check_trainable, ready_to_encode, ready_to_step
from ..pictures import PictureSource, TrainingPictures, find_pictures


@torch.no_grad()
def denoising_mse(
    pipe: object,
    images: PictureSource | Sequence[PictureSource],
    prompt: str,
    *,
    num_samples: int = 64,
    seed: int = 0,
    resolution: int | None = None,
    center_crop: bool = True,
    batch_size: int = 8,
    snr_gamma: float | None = None,
) -> Tensor:
    """Measure the error of a model that predicts the noise in pictures, given a prompt; lower is better.

    The mean over the samples estimates the loss of the paper's equation 1. Noises and timesteps are the same every
    time, and timesteps are evenly spread, so two prompts, or two steps of training, can be compared in pairs. For the
    same seed, number of samples and `snr_gamma`, training records the same values at `validation_steps`.

    Args:
        pipe: A pipeline that can be trained on; it is used on its current device and left as it was.
        images: One or more pictures; each pair of samples uses the next, in turns.
        prompt: Text, with or without placeholder tokens.
        num_samples: Number of noises, in pairs of opposite ones with one timestep each; raised to twice the number of
            pictures if it is lower.
        seed: Seed of the noises.
        resolution: Side in pixels; None: the model's own.
        center_crop: As in training.
        batch_size: Number of samples that go through the model at once.
        snr_gamma: As in training; None: the plain error.

    Returns:
        Mean squared errors of latents, one per sample, ``(num_samples,)``, float64, on the CPU, at least 0.

    Raises:
        UnsupportedPipelineError: The pipeline cannot be trained on, or is offloaded.
        PictureError: A picture is unusable.
        ConfigError: A number is out of range, or the model cannot read pictures of that resolution.
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples: expected at least 1, got {num_samples}")
    backbone = backbone_for(pipe)
    check_trainable(backbone)
    pictures = find_pictures(images)
    config = SupremeInitConfig(
        seed=seed,
        validation_samples=max(num_samples, 2 * len(pictures)),
        resolution=resolution,
        center_crop=center_crop,
        max_forward_batch_size=batch_size,
        snr_gamma=snr_gamma,
    )
    backbone.check_config(config)
    device = next(backbone.denoiser.parameters()).device
    with ready_to_encode(backbone, device):
        latents = encode_concept(backbone, TrainingPictures(pictures, None, masked=False), config, progress_bar=False)
    with ready_to_step(backbone, device, [prompt]):
        losses = fixed_noise_losses(backbone, PromptedPictures(prompt, latents), config, device)
    return torch.tensor(losses, dtype=torch.float64)
