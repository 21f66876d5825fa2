"""Stable Diffusion 3 and 3.5: two CLIPs, optionally T5, flow matching."""

from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers import (
    StableDiffusion3ControlNetInpaintingPipeline,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3PAGImg2ImgPipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
)
from torch import Tensor

from . import defaults
from .base import PooledConditioning
from .flow import FlowBackbone


class StableDiffusion3Backbone(FlowBackbone):
    """See `Backbone`. T5 (``text_encoder_3``) may be missing; the pipeline then replaces its output with zeros."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        StableDiffusion3Pipeline,
        StableDiffusion3Img2ImgPipeline,
        StableDiffusion3InpaintPipeline,
        StableDiffusion3ControlNetPipeline,
        StableDiffusion3ControlNetInpaintingPipeline,
        StableDiffusion3PAGPipeline,
        StableDiffusion3PAGImg2ImgPipeline,
    )
    defaults = defaults.STABLE_DIFFUSION_3
    required = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer", "scheduler")
    max_sequence_length = 256

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels()
        config = pipe.transformer.config
        self.resolution = config.sample_size * pipe.vae_scale_factor
        self.resolution_multiple = config.patch_size * pipe.vae_scale_factor
        self.max_resolution = config.pos_embed_max_size * self.resolution_multiple
        version = "3-5" if config.get("qk_norm") else "3"
        self.architecture = f"stable-diffusion-{version}/textual-inversion"

    def encode_prompts(self, prompts: list[str]) -> PooledConditioning:  # noqa: D102 - see `Backbone`
        embeds, _, pooled, _ = self.encoded(prompts, prompt_2=None, prompt_3=None)
        return PooledConditioning(embeds, pooled)

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: PooledConditioning, geometry: Tensor
    ) -> Tensor:
        conditioning = conditioning.to(self.compute_dtype)
        return self.denoiser(
            noisy_latents.to(self.compute_dtype),
            timestep=timesteps,
            encoder_hidden_states=conditioning.embeds,
            pooled_projections=conditioning.pooled,
        ).sample
