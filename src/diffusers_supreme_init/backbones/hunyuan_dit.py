"""HunyuanDiT: a BERT trained as CLIP, T5 beside it, the picture's size and crop as inputs."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import HunyuanDiTControlNetPipeline, HunyuanDiTPAGPipeline, HunyuanDiTPipeline
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor

from ..text.text_pairs import TextPair
from . import defaults
from .diffusion import DiffusionBackbone

_BASE_LATENTS = 64
"""Latents along one side of the pictures whose positions the rotary embedding keeps."""
_NUM_TOKENS = {"text_encoder": 77, "text_encoder_2": 256}
_SIZES = [0, 1, 4, 5, 2, 3]
"""Order of the geometry: size of the picture, size of the crop, top left of the crop."""


class HunyuanDiTBackbone(DiffusionBackbone):
    """See `Backbone`. The transformer also predicts the variance, which the loss ignores."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        HunyuanDiTPipeline,
        HunyuanDiTControlNetPipeline,
        HunyuanDiTPAGPipeline,
    )
    defaults = defaults.HUNYUAN_DIT
    required = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer", "scheduler")

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        config = pipe.transformer.config
        self.check_latent_channels()
        self.resolution = config.sample_size * pipe.vae_scale_factor
        self.resolution_multiple = config.patch_size * pipe.vae_scale_factor
        self.call_options = {"use_resolution_binning": False}
        self.architecture = "hunyuan-dit/textual-inversion"

    def window(self, pair: TextPair) -> int:  # noqa: D102 - see `Backbone`
        return _NUM_TOKENS[pair.encoder_name]

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, ...]:  # noqa: D102
        read = [
            self.drawing_pipe.encode_prompt(
                prompts, device=self.device, do_classifier_free_guidance=False, text_encoder_index=index
            )
            for index in range(len(_NUM_TOKENS))
        ]
        return tuple(part for embeds, _, mask, _ in read for part in (embeds, mask))

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, ...], geometry: Tensor
    ) -> Tensor:
        dtype, patch_side = self.compute_dtype, self.denoiser.config.patch_size
        embeds, mask, embeds_t5, mask_t5 = conditioning
        grid = (noisy_latents.shape[-2] // patch_side, noisy_latents.shape[-1] // patch_side)
        positions = get_2d_rotary_pos_embed(
            self.denoiser.inner_dim // self.denoiser.num_heads,
            get_resize_crop_region_for_grid(grid, _BASE_LATENTS // patch_side),
            grid,
            device=noisy_latents.device,
            output_type="pt",
        )
        prediction = self.denoiser(
            noisy_latents.to(dtype),
            timesteps.to(dtype),
            encoder_hidden_states=embeds.to(dtype),
            text_embedding_mask=mask,
            encoder_hidden_states_t5=embeds_t5.to(dtype),
            text_embedding_mask_t5=mask_t5,
            image_meta_size=geometry[:, _SIZES].to(dtype),
            style=torch.zeros(len(noisy_latents), dtype=torch.long, device=noisy_latents.device),
            image_rotary_emb=positions,
        ).sample
        return prediction[:, : noisy_latents.shape[1]]
