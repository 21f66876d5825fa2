"""Kolors: a UNet like that of SDXL, which reads ChatGLM."""

from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers import KolorsImg2ImgPipeline, KolorsPAGPipeline, KolorsPipeline
from torch import Tensor

from . import defaults
from .base import PooledConditioning
from .diffusion import DiffusionBackbone


class KolorsBackbone(DiffusionBackbone):
    """See `Backbone`. The last hidden state of the last token is the pooled vector."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        KolorsPipeline,
        KolorsImg2ImgPipeline,
        KolorsPAGPipeline,
    )
    defaults = defaults.KOLORS
    required = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    denoiser_name = "unet"
    max_sequence_length = 256

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels()
        self.resolution = pipe.unet.config.sample_size * pipe.vae_scale_factor
        self.architecture = "kolors/textual-inversion"

    def encode_prompts(self, prompts: list[str]) -> PooledConditioning:  # noqa: D102 - see `Backbone`
        embeds, _, pooled, _ = self.encoded(prompts)
        return PooledConditioning(embeds, pooled)

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: PooledConditioning, geometry: Tensor
    ) -> Tensor:
        dtype = self.compute_dtype
        conditioning = conditioning.to(dtype)
        return self.denoiser(
            noisy_latents.to(dtype),
            timesteps,
            encoder_hidden_states=conditioning.embeds,
            added_cond_kwargs={"text_embeds": conditioning.pooled, "time_ids": geometry.to(dtype)},
        ).sample
