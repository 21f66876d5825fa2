"""Sana: Gemma alone, prompts after an instruction, flow matching, a deterministic autoencoder."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import SanaControlNetPipeline, SanaPAGPipeline, SanaPipeline
from torch import Tensor

from ..text.text_pairs import TextPair
from . import defaults
from .base import LatentDistribution
from .flow import FlowBackbone


class SanaBackbone(FlowBackbone):
    """See `Backbone`. Prompts follow the instruction that the pipeline puts before them when it draws."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        SanaPipeline,
        SanaPAGPipeline,
        SanaControlNetPipeline,
    )
    defaults = defaults.SANA
    max_sequence_length = 300

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        config = pipe.transformer.config
        self.check_latent_channels()
        self.resolution = config.sample_size * pipe.vae_scale_factor
        self.resolution_multiple = config.patch_size * pipe.vae_scale_factor
        # The pipeline draws 1024 px by default, whatever the model.
        self.call_options = {
            "height": self.resolution,
            "width": self.resolution,
            "use_resolution_binning": False,
        }
        self.architecture = "sana/textual-inversion"
        arguments = inspect.signature(type(pipe).__call__).parameters
        self._instruction = arguments["complex_human_instruction"].default

    def window(self, pair: TextPair) -> int:  # noqa: D102 - see `Backbone`
        # The pipeline takes two tokens off the prompt's room, for the start and end tokens of its instruction.
        return super().window(pair) - 2

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor) -> LatentDistribution:  # noqa: D102
        parameter = next(self.autoencoder.parameters())
        latents = self.autoencoder.encode(pixel_values.to(parameter)).latent.float()
        latents = latents * self.autoencoder.config.scaling_factor
        return LatentDistribution(mean=latents, std=torch.zeros_like(latents))

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:  # noqa: D102
        embeds, mask, _, _ = self.encoded(prompts, complex_human_instruction=self._instruction)
        return embeds, mask

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, Tensor], geometry: Tensor
    ) -> Tensor:
        embeds, mask = conditioning
        prediction = self.denoiser(
            noisy_latents.to(self.compute_dtype),
            encoder_hidden_states=embeds.to(self.compute_dtype),
            encoder_attention_mask=mask,
            timestep=timesteps * self.denoiser.config.timestep_scale,
        ).sample
        return prediction[:, : noisy_latents.shape[1]]
