"""Pictures -> latents, for autoencoders whose latents are normalised channel by channel."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from .base import LatentDistribution
from .packing import PATCH_SIDE


def encode_as_frame(autoencoder: Any, pixel_values: Tensor) -> LatentDistribution:
    """Encode pictures as videos of one frame, with the autoencoders of Wan and Qwen-Image.

    Their configuration has the mean and the deviation of each latent channel. Pictures are opaque where the
    autoencoder also reads transparency.

    Args:
        autoencoder: The autoencoder.
        pixel_values: ``(batch, 3, height, width)`` in [-1, 1].
    """
    if autoencoder.config.get("in_channels") == 4:
        pixel_values = torch.cat([pixel_values, torch.ones_like(pixel_values[:, :1])], dim=1)
    posterior = autoencoder.encode(pixel_values.to(next(autoencoder.parameters())).unsqueeze(2)).latent_dist
    center, scale = (
        torch.tensor(autoencoder.config[name], dtype=torch.float32, device=pixel_values.device).view(1, -1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    mean, std = posterior.mean.squeeze(2).float(), posterior.std.squeeze(2).float()
    return LatentDistribution((mean - center) / scale, std / scale)


def encode_with_batch_norm(autoencoder: Any, pixel_values: Tensor, epsilon: float | None = None) -> LatentDistribution:
    """Encode pictures with the autoencoder of Flux.2, whose batch norm has the statistics of 2 x 2 squares of latents.

    Args:
        autoencoder: The autoencoder.
        pixel_values: ``(batch, 3, height, width)`` in [-1, 1].
        epsilon: Added to the variances; None: as configured.
    """
    posterior = autoencoder.encode(pixel_values.to(next(autoencoder.parameters()))).latent_dist
    norm, epsilon = autoencoder.bn, autoencoder.config.batch_norm_eps if epsilon is None else epsilon
    center = norm.running_mean.float().view(1, -1, 1, 1)
    scale = (norm.running_var.float() + epsilon).sqrt().view(1, -1, 1, 1)
    mean, std = (pixel_unshuffle(values.float(), PATCH_SIDE) for values in (posterior.mean, posterior.std))
    return LatentDistribution(
        pixel_shuffle((mean - center) / scale, PATCH_SIDE), pixel_shuffle(std / scale, PATCH_SIDE)
    )
