"""Families with a noise schedule: Stable Diffusion 1 and 2, SDXL, PixArt-Sigma."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from ..errors import UnsupportedPipelineError
from .base import Backbone


class DiffusionBackbone(Backbone):
    """Adds noise along a schedule of integer timesteps; the denoiser predicts noise, velocity or latents.

    The loss is the mean squared error of equation 1, at uniformly drawn timesteps (arXiv:2006.11239, equation 14).

    Attributes:
        noise_scheduler: The noise levels, from the configuration of the pipeline's scheduler.
        num_train_timesteps: Number of timesteps of the schedule.
        prediction_type: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
    """

    supports_min_snr: ClassVar[bool] = True

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        config = pipe.scheduler.config
        is_flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
        if is_flow or "sigma_data" in config or not {"beta_schedule", "trained_betas"} & set(config):
            raise UnsupportedPipelineError(
                f"expected a scheduler with a noise schedule (betas) for {type(pipe).__name__}, got "
                f"{type(pipe.scheduler).__name__} of another kind of model (prediction_type "
                f"{config.get('prediction_type')!r})"
            )
        # The pipeline's own scheduler holds the state of sampling, and some lack `get_velocity`.
        # `DDPMScheduler` is used for its noise levels only.
        self.noise_scheduler = DDPMScheduler.from_config(config)
        self.num_train_timesteps: int = self.noise_scheduler.config.num_train_timesteps
        self.prediction_type: str = self.noise_scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise UnsupportedPipelineError(
                f"expected prediction_type epsilon, v_prediction or sample, got {self.prediction_type!r}"
            )

    def timestep_at(self, quantile: float, latent_size: tuple[int, int]) -> float:  # noqa: D102
        return min(int(quantile * self.num_train_timesteps), self.num_train_timesteps - 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:  # noqa: D102
        return self.noise_scheduler.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:  # noqa: D102
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            return self.noise_scheduler.get_velocity(latents, noise, timesteps)
        return latents

    def min_snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:  # noqa: D102
        snr = compute_snr(self.noise_scheduler, timesteps)
        capped = snr.clamp(max=gamma)
        if self.prediction_type == "epsilon":
            # A zero-terminal-SNR schedule reaches snr = 0, where min(snr, gamma) / snr has the limit 1.
            return torch.where(snr > 0, capped / snr.clamp(min=torch.finfo(snr.dtype).tiny), torch.ones_like(snr))
        return capped / (snr + 1) if self.prediction_type == "v_prediction" else capped
