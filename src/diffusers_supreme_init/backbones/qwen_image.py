"""Qwen-Image: Qwen2.5-VL behind a template whose beginning is cut off, packed latents, a video autoencoder."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import (
    QwenImageControlNetInpaintPipeline,
    QwenImageControlNetPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    QwenImagePipeline,
)
from torch import Tensor

from . import defaults
from .autoencoders import encode_as_frame
from .base import LatentDistribution
from .chat import ChatBackbone
from .packing import PATCH_SIDE, pack, unpack


class QwenImageBackbone(ChatBackbone):
    """See `Backbone`."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        QwenImagePipeline,
        QwenImageImg2ImgPipeline,
        QwenImageInpaintPipeline,
        QwenImageControlNetPipeline,
        QwenImageControlNetInpaintPipeline,
    )
    defaults = defaults.LANGUAGE_MODEL
    patch_side = PATCH_SIDE
    max_sequence_length = 512
    cuts_prefix = True

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels(PATCH_SIDE**2)
        self.check_prefix(pipe.prompt_template_encode_start_idx)
        self.resolution = pipe.default_sample_size * pipe.vae_scale_factor
        self.resolution_multiple = PATCH_SIDE * pipe.vae_scale_factor
        self.architecture = "qwen-image/textual-inversion"

    def written(self, prompt: str) -> str:  # noqa: D102 - see `ChatBackbone`
        return str(self.drawing_pipe.prompt_template_encode.format(prompt))

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor) -> LatentDistribution:  # noqa: D102 - see `Backbone`
        return encode_as_frame(self.autoencoder, pixel_values)

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        embeds, mask = self.drawing_pipe.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return embeds, mask

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, Tensor | None], geometry: Tensor
    ) -> Tensor:
        (embeds, mask), (height, width) = conditioning, noisy_latents.shape[-2:]
        packed = self.denoiser(
            hidden_states=pack(noisy_latents).to(self.compute_dtype),
            timestep=timesteps / self.num_train_timesteps,
            encoder_hidden_states=embeds.to(self.compute_dtype),
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, height // PATCH_SIDE, width // PATCH_SIDE)]] * len(noisy_latents),
        ).sample
        return unpack(packed, height, width)
