"""Chroma: Flux without its CLIP; the transformer reads the tokens of T5 and one of their padding."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from diffusers import ChromaImg2ImgPipeline, ChromaInpaintPipeline, ChromaPipeline
from torch import Tensor

from . import defaults
from .flow import FlowBackbone
from .packing import PATCH_SIDE, pack, positions, unpack

_POSITION_AXES = 3
_GIVEN_WITHOUT_MASK = 3
"""To a block of one stream: hidden states, the embedding of the time, positions."""


class ChromaBackbone(FlowBackbone):
    """See `Backbone`."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        ChromaPipeline,
        ChromaImg2ImgPipeline,
        ChromaInpaintPipeline,
    )
    defaults = defaults.CHROMA
    patch_side = PATCH_SIDE
    max_sequence_length = 512

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels(PATCH_SIDE**2)
        self.resolution = pipe.default_sample_size * pipe.vae_scale_factor
        self.resolution_multiple = PATCH_SIDE * pipe.vae_scale_factor
        self.architecture = "chroma/textual-inversion"

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:  # noqa: D102 - see `Backbone`
        embeds, _, mask, *_ = self.encoded(prompts)
        return embeds, mask

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, Tensor], geometry: Tensor
    ) -> Tensor:
        dtype, (height, width) = self.compute_dtype, noisy_latents.shape[-2:]
        embeds, mask = (part.to(dtype) for part in conditioning)
        tokens = pack(noisy_latents).to(dtype)
        places = positions(height // PATCH_SIDE, width // PATCH_SIDE, _POSITION_AXES)
        with _padding_masked_in_all_blocks(self.denoiser):
            packed = self.denoiser(
                hidden_states=tokens,
                timestep=timesteps / self.num_train_timesteps,
                encoder_hidden_states=embeds,
                txt_ids=embeds.new_zeros(embeds.shape[1], _POSITION_AXES),
                img_ids=places.to(embeds),
                attention_mask=torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1),
            ).sample
        return unpack(packed, height, width)


@contextlib.contextmanager
def _padding_masked_in_all_blocks(denoiser: Any) -> Iterator[None]:
    """Give the mask to all blocks that are recomputed; diffusers (0.42) forgets it in those of one stream.

    Without it they attend to the padding, and another objective is minimised than without recomputing.
    """
    if not denoiser.gradient_checkpointing:
        yield
        return
    recompute: Any = denoiser._gradient_checkpointing_func
    masks: list[Tensor] = []

    def with_mask(block: Any, *given: Any) -> Any:
        if block in denoiser.transformer_blocks:
            masks[:] = given[-1:]
        elif len(given) == _GIVEN_WITHOUT_MASK:
            given = (*given, *masks)
        return recompute(block, *given)

    denoiser._gradient_checkpointing_func = with_mask
    try:
        yield
    finally:
        denoiser._gradient_checkpointing_func = recompute
