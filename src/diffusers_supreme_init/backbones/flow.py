"""Families with flow matching: Stable Diffusion 3, Flux and nearly all that came after."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UnsupportedPipelineError
from .base import Backbone


class FlowBackbone(Backbone):
    """Mixes latents and noise along a straight line; the denoiser predicts the velocity, noise minus latents.

    The loss is the mean squared error of the velocity. Timesteps are drawn from a logit-normal density, and shifted
    towards noise as the scheduler shifts those of sampling. This is the density of Stable Diffusion 3
    (arXiv:2403.03206, equations 19 and 23). Flux uses it with a mode that moves with the resolution
    (arXiv:2506.15742, section 3), Sana with a fixed mode and the scheduler's shift (its published training
    configurations).

    Attributes:
        patch_side: Latents along one side of the square that is a token of the denoiser; None: as its configuration
            says.
        num_train_timesteps: The timestep of pure noise.
    """

    patch_side: ClassVar[int | None] = None

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        config = pipe.scheduler.config
        if not (type(pipe.scheduler).__name__.startswith("FlowMatch") or config.get("use_flow_sigmas")):
            raise UnsupportedPipelineError(
                f"expected a flow-matching scheduler for {type(pipe).__name__}, got {type(pipe.scheduler).__name__}"
            )
        self.num_train_timesteps: int = config.num_train_timesteps

    def num_image_tokens(self, latent_size: tuple[int, int]) -> int:
        """Return the number of tokens the denoiser makes of latents, on which a dynamic shift depends."""
        side = self.patch_side or self.denoiser.config.get("patch_size") or 1
        return (latent_size[0] // side) * (latent_size[1] // side)

    def timestep_at(self, quantile: float, latent_size: tuple[int, int]) -> float:  # noqa: D102
        normal = torch.special.ndtri(torch.tensor(quantile, dtype=torch.float64))
        # Shifting t to s t / (1 + (s - 1) t) adds log s to its logit.
        return float(torch.sigmoid(normal + self.log_shift(latent_size))) * self.num_train_timesteps

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:  # noqa: D102
        sigmas = (timesteps.to(latents) / self.num_train_timesteps).view(-1, 1, 1, 1)
        return (1 - sigmas) * latents + sigmas * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:  # noqa: D102
        return noise - latents

    def log_shift(self, latent_size: tuple[int, int]) -> float:
        """Return by how much the logit of timesteps is shifted towards noise, as the pipeline shifts its own.

        A dynamic shift grows linearly with the number of image tokens, as in diffusers. `shift_terminal`, with which
        some schedulers end before the picture is free of noise, is left out: it says where sampling stops.
        """
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return math.log(config.get("shift") or config.get("flow_shift") or 1.0)
        first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        mu = low + (high - low) * (self.num_image_tokens(latent_size) - first) / (last - first)
        return mu if config.get("time_shift_type", "exponential") == "exponential" else math.log(mu)
