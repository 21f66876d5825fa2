"""Stable Diffusion 1 and 2: one CLIP text encoder, a UNet, epsilon, velocity or sample prediction."""

from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers.training_utils import compute_snr
from torch import Tensor

from ..errors import UnsupportedPipelineError
from ..text_pairs import find_text_pairs
from .base import LatentDistribution

_ARCHITECTURES = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2-512"}
_V2_VELOCITY = "stable-diffusion-v2-768-v"


class StableDiffusionBackbone:
    """See `Backbone`."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (StableDiffusionPipeline, StableDiffusionImg2ImgPipeline)

    def __init__(self, pipe: Any) -> None:
        missing = [
            n for n in ("vae", "text_encoder", "tokenizer", "unet", "scheduler") if getattr(pipe, n, None) is None
        ]
        if missing:
            raise UnsupportedPipelineError(f"expected a complete pipeline, got one without {', '.join(missing)}")
        if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
            raise UnsupportedPipelineError(
                f"expected a UNet that reads {pipe.vae.config.latent_channels} latent channels, got "
                f"{pipe.unet.config.in_channels} (inpainting?); train on the text-to-image model of the same family"
            )
        self.pipe = pipe
        self.pair = find_text_pairs(pipe)[0]
        self.autoencoder = pipe.vae
        self.denoiser = pipe.unet
        self.resolution = pipe.unet.config.sample_size * pipe.vae_scale_factor
        # The pipeline's own scheduler holds the state of sampling; this one only knows the noise levels.
        self.noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        self.num_train_timesteps = self.noise_scheduler.config.num_train_timesteps
        self.prediction_type = self.noise_scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise UnsupportedPipelineError(
                f"expected prediction_type epsilon, v_prediction or sample, got {self.prediction_type!r}"
            )
        family = _ARCHITECTURES.get(self.pair.hidden_size, "stable-diffusion")
        if family == _ARCHITECTURES[1024] and self.prediction_type == "v_prediction":
            family = _V2_VELOCITY
        self.architecture = f"{family}/textual-inversion"

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor) -> LatentDistribution:  # noqa: D102 - see `Backbone`
        parameter = next(self.autoencoder.parameters())
        posterior = self.autoencoder.encode(pixel_values.to(parameter)).latent_dist
        scale = self.autoencoder.config.scaling_factor
        return LatentDistribution(mean=posterior.mean.float() * scale, std=posterior.std.float() * scale)

    def encode_prompts(self, prompts: list[str]) -> Tensor:  # noqa: D102
        device = next(self.pair.encoder.parameters()).device
        embeds, _ = self.pipe.encode_prompt(
            prompts, device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return embeds

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:  # noqa: D102
        return self.noise_scheduler.add_noise(latents, noise, timesteps)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:  # noqa: D102
        dtype = self.denoiser.dtype
        return self.denoiser(noisy_latents.to(dtype), timesteps, encoder_hidden_states=conditioning.to(dtype)).sample

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
            # Zero-terminal-SNR schedules reach snr = 0, where the limit of min(snr, gamma) / snr is 1.
            return torch.where(snr > 0, capped / snr.clamp(min=torch.finfo(snr.dtype).tiny), torch.ones_like(snr))
        return capped / (snr + 1) if self.prediction_type == "v_prediction" else capped
