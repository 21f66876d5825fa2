"""Stable Diffusion XL: two CLIPs, a pooled vector, and the size and crop of each picture as inputs."""

from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers import (
    LEditsPPPipelineStableDiffusionXL,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPAGImg2ImgPipeline,
    StableDiffusionXLControlNetPAGPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
    StableDiffusionXLControlNetUnionInpaintPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPAGImg2ImgPipeline,
    StableDiffusionXLPAGInpaintPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from ..errors import UnsupportedPipelineError
from . import defaults
from .base import PooledConditioning
from .diffusion import DiffusionBackbone
from .stable_diffusion import check_no_guidance_input

_NUM_SIZE_IDS = 6


class StableDiffusionXLBackbone(DiffusionBackbone):
    """See `Backbone`. The UNet also takes the size and crop of each picture (arXiv:2307.01952, section 2.2)."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        StableDiffusionXLPipeline,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLInpaintPipeline,
        StableDiffusionXLControlNetPipeline,
        StableDiffusionXLControlNetImg2ImgPipeline,
        StableDiffusionXLControlNetInpaintPipeline,
        StableDiffusionXLControlNetUnionPipeline,
        StableDiffusionXLAdapterPipeline,
        StableDiffusionXLPAGPipeline,
        LEditsPPPipelineStableDiffusionXL,
        StableDiffusionXLControlNetUnionImg2ImgPipeline,
        StableDiffusionXLControlNetUnionInpaintPipeline,
        StableDiffusionXLControlNetPAGPipeline,
        StableDiffusionXLControlNetPAGImg2ImgPipeline,
        StableDiffusionXLPAGImg2ImgPipeline,
        StableDiffusionXLPAGInpaintPipeline,
        StableDiffusionXLInstructPix2PixPipeline,
    )
    defaults = defaults.STABLE_DIFFUSION_XL
    required = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "unet", "scheduler")
    denoiser_name = "unet"

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels()
        check_no_guidance_input(pipe)
        config = pipe.unet.config
        width = pipe.text_encoder_2.config.projection_dim + _NUM_SIZE_IDS * (config.addition_time_embed_dim or 0)
        if config.addition_embed_type != "text_time" or config.projection_class_embeddings_input_dim != width:
            raise UnsupportedPipelineError(
                f"expected a UNet that reads a pooled vector and {_NUM_SIZE_IDS} sizes, got another (a refiner?); "
                "train on the base model"
            )
        self.resolution = config.sample_size * pipe.vae_scale_factor
        self.architecture = "stable-diffusion-xl-v1-base/textual-inversion"

    def encode_prompts(self, prompts: list[str]) -> PooledConditioning:  # noqa: D102 - see `Backbone`
        embeds, _, pooled, _ = self.drawing_pipe.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        return PooledConditioning(embeds, pooled)

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: PooledConditioning, geometry: Tensor
    ) -> Tensor:
        conditioning = conditioning.to(self.compute_dtype)
        return self.denoiser(
            noisy_latents.to(self.compute_dtype),
            timesteps,
            encoder_hidden_states=conditioning.embeds,
            added_cond_kwargs={"text_embeds": conditioning.pooled, "time_ids": geometry},
        ).sample
