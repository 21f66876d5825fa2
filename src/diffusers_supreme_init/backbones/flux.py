"""Flux.1: a CLIP-L for the pooled vector, T5, packed latents, flow matching, guidance as an input."""

from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers import (
    FluxControlImg2ImgPipeline,
    FluxControlInpaintPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetInpaintPipeline,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
)
from torch import Tensor

from . import defaults
from .base import PooledConditioning
from .flow import FlowBackbone
from .packing import PATCH_SIDE, pack, positions, unpack

_POSITION_AXES = 3


class FluxBackbone(FlowBackbone):
    """See `Backbone`."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        FluxPipeline,
        FluxImg2ImgPipeline,
        FluxInpaintPipeline,
        FluxControlNetPipeline,
        FluxControlNetImg2ImgPipeline,
        FluxControlNetInpaintPipeline,
        FluxFillPipeline,
        FluxControlPipeline,
        FluxKontextPipeline,
        FluxKontextInpaintPipeline,
        FluxControlImg2ImgPipeline,
        FluxControlInpaintPipeline,
    )
    defaults = defaults.FLUX
    patch_side = PATCH_SIDE
    required = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer", "scheduler")
    max_sequence_length = 512

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels(PATCH_SIDE**2)
        self.resolution = pipe.default_sample_size * pipe.vae_scale_factor
        self.resolution_multiple = PATCH_SIDE * pipe.vae_scale_factor
        variant = "dev" if pipe.transformer.config.guidance_embeds else "schnell"
        self.architecture = f"flux-1-{variant}/textual-inversion"

    def encode_prompts(self, prompts: list[str]) -> PooledConditioning:  # noqa: D102 - see `Backbone`
        embeds, pooled, _ = self.drawing_pipe.encode_prompt(
            prompts, None, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return PooledConditioning(embeds, pooled)

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: PooledConditioning, geometry: Tensor
    ) -> Tensor:
        dtype, (height, width) = self.compute_dtype, noisy_latents.shape[-2:]
        conditioning = conditioning.to(dtype)
        guidance = None
        if self.denoiser.config.guidance_embeds:
            assert self.defaults.guidance is not None, "the family's defaults have one"
            guidance = noisy_latents.new_full((len(noisy_latents),), self.defaults.guidance)
        places = positions(height // PATCH_SIDE, width // PATCH_SIDE, _POSITION_AXES)
        packed = self.denoiser(
            hidden_states=pack(noisy_latents).to(dtype),
            timestep=timesteps / self.num_train_timesteps,
            guidance=guidance,
            pooled_projections=conditioning.pooled,
            encoder_hidden_states=conditioning.embeds,
            txt_ids=conditioning.embeds.new_zeros(conditioning.embeds.shape[1], _POSITION_AXES),
            img_ids=places.to(noisy_latents.device, dtype),
        ).sample
        return unpack(packed, height, width)
