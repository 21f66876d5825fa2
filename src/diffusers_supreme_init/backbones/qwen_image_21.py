"""Qwen-Image 2.1: Qwen3-VL, text and picture in one sequence, an autoencoder that also reads transparency."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import QwenImage21Pipeline
from torch import Tensor

from . import defaults
from .autoencoders import encode_as_frame
from .base import LatentDistribution
from .chat import ChatBackbone

_RESOLUTION = 1024
_SLOT_SIDE = 2
"""The mask of the sequence has one place for each 2 x 2 tokens of a picture."""


class QwenImage21Backbone(ChatBackbone):
    """See `Backbone`. Each latent is a token; prompts are not cut, whatever their length.

    Samples of a batch share one layout in the transformer, so each goes through it alone, with a prompt of its own
    length.
    """

    pipeline_classes: ClassVar[tuple[type, ...]] = (QwenImage21Pipeline,)
    defaults = defaults.LANGUAGE_MODEL
    required = ("vae", "text_encoder", "processor", "transformer", "scheduler")

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels()
        self.resolution = _RESOLUTION
        self.resolution_multiple = _SLOT_SIDE * pipe.vae_scale_factor
        self.architecture = "qwen-image-2-1/textual-inversion"

    def written(self, prompt: str) -> str:  # noqa: D102 - see `ChatBackbone`
        return str(self.drawing_pipe.prompt_template_t2i.format(prompt))

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor) -> LatentDistribution:  # noqa: D102 - see `Backbone`
        return encode_as_frame(self.autoencoder, pixel_values)

    def encode_prompts(self, prompts: list[str]) -> list[Tensor]:  # noqa: D102
        # One by one: beside a longer prompt, the pipeline moves all positions of a shorter one.
        return [self.drawing_pipe.encode_prompt(prompt, device=self.device)[0] for prompt in prompts]

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: list[Tensor], geometry: Tensor
    ) -> Tensor:
        samples = zip(noisy_latents.split(1), timesteps.split(1), conditioning, strict=True)
        return torch.cat([self._predict_one(*sample) for sample in samples])

    def _predict_one(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        height, width = noisy_latents.shape[-2:]
        num_slots = (height // _SLOT_SIDE) * (width // _SLOT_SIDE)
        num_text = embeds.shape[1]
        sequence = self.denoiser(
            hidden_states=noisy_latents.flatten(2).transpose(1, 2).to(self.compute_dtype),
            timestep=timesteps / self.num_train_timesteps,
            encoder_hidden_states=embeds.to(self.compute_dtype),
            img_shapes=[[(1, height, width)]],
            img_mask=torch.arange(num_text + num_slots, device=embeds.device)[None] >= num_text,
        ).sample
        return sequence[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
