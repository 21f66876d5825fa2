"""CogView4: GLM-4 reads the prompt as it is, padded on the left; the picture's size and crop as inputs."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import CogView4ControlPipeline, CogView4Pipeline
from torch import Tensor

from . import defaults
from .flow import FlowBackbone

_SIZE, _CROP, _TARGET = slice(0, 2), slice(2, 4), slice(4, 6)
"""Of the geometry: size of the picture, top left of the crop, size of the crop."""


class CogView4Backbone(FlowBackbone):
    """See `Backbone`.

    The transformer attends to the padding, up to the longest prompt of a batch. So each prompt is encoded alone, and
    each sample goes through the transformer alone.
    """

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        CogView4Pipeline,
        CogView4ControlPipeline,
    )
    defaults = defaults.LANGUAGE_MODEL
    max_sequence_length = 1024

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        config = pipe.transformer.config
        self.check_latent_channels()
        self.resolution = config.sample_size * pipe.vae_scale_factor
        self.resolution_multiple = config.patch_size * pipe.vae_scale_factor
        self.architecture = "cogview-4/textual-inversion"

    def log_shift(self, latent_size: tuple[int, int]) -> float:  # noqa: D102 - see `FlowBackbone`
        config = self.drawing_pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return super().log_shift(latent_size)
        # The pipeline's shift grows with the side of the picture.
        growth = math.sqrt(self.num_image_tokens(latent_size) / config.base_image_seq_len)
        shift = growth * config.max_shift + config.base_shift
        return float(shift if config.time_shift_type == "exponential" else math.log(shift))

    def encode_prompts(self, prompts: list[str]) -> list[Tensor]:  # noqa: D102 - see `Backbone`
        return [self.encoded(prompt)[0] for prompt in prompts]

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: list[Tensor], geometry: Tensor
    ) -> Tensor:
        dtype = self.compute_dtype
        parts = noisy_latents.to(dtype).split(1), timesteps.split(1), conditioning, geometry.split(1)
        predictions = [
            self.denoiser(
                hidden_states=latents,
                encoder_hidden_states=embeds.to(dtype),
                timestep=timestep,
                original_size=sizes[:, _SIZE].to(dtype),
                target_size=sizes[:, _TARGET].to(dtype),
                crop_coords=sizes[:, _CROP].to(dtype),
            ).sample
            for latents, timestep, embeds, sizes in zip(*parts, strict=True)
        ]
        return torch.cat(predictions)
