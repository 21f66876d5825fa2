"""Krea 2: twelve hidden states of Qwen3-VL, padding inside the template, the autoencoder of Qwen-Image."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import Krea2Pipeline
from torch import Tensor

from . import defaults
from .autoencoders import encode_as_frame
from .base import LatentDistribution
from .chat import ChatBackbone
from .packing import PATCH_SIDE, pack, unpack

_SAMPLE_SIZE = 128
"""Latents along one side of the pictures that the pipeline draws by default."""
_DISTILLED_SHIFT = 1.15
"""Logarithm of the shift with which the pipeline draws from the distilled checkpoint, whatever the resolution."""


class Krea2Backbone(ChatBackbone):
    """See `Backbone`."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (Krea2Pipeline,)
    defaults = defaults.LANGUAGE_MODEL
    patch_side = PATCH_SIDE
    max_sequence_length = 512
    cuts_prefix = True

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels(PATCH_SIDE**2)
        self.check_prefix(pipe.prompt_template_encode_start_idx)
        self.resolution = _SAMPLE_SIZE * pipe.vae_scale_factor
        self.resolution_multiple = PATCH_SIDE * pipe.vae_scale_factor
        self.call_options = {"height": self.resolution, "width": self.resolution}
        self.architecture = "krea-2/textual-inversion"

    def log_shift(self, latent_size: tuple[int, int]) -> float:  # noqa: D102 - see `FlowBackbone`
        return _DISTILLED_SHIFT if self.drawing_pipe.config.is_distilled else super().log_shift(latent_size)

    def written(self, prompt: str) -> str:  # noqa: D102 - see `ChatBackbone`
        pipe = self.drawing_pipe
        return f"{pipe.prompt_template_encode_prefix}{prompt}{pipe.prompt_template_encode_suffix}"

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor) -> LatentDistribution:  # noqa: D102 - see `Backbone`
        return encode_as_frame(self.autoencoder, pixel_values)

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:  # noqa: D102
        embeds, mask = self.drawing_pipe.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return embeds, mask

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, Tensor], geometry: Tensor
    ) -> Tensor:
        (embeds, mask), (height, width) = conditioning, noisy_latents.shape[-2:]
        places = self.drawing_pipe.prepare_position_ids(
            embeds.shape[1], height // PATCH_SIDE, width // PATCH_SIDE, noisy_latents.device
        )
        packed = self.denoiser(
            hidden_states=pack(noisy_latents).to(self.compute_dtype),
            encoder_hidden_states=embeds.to(self.compute_dtype),
            timestep=timesteps / self.num_train_timesteps,
            position_ids=places,
            encoder_attention_mask=mask,
        ).sample
        return unpack(packed, height, width)
