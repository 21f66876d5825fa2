"""Flux.2, dev and Klein: three hidden states of a language model side by side, packed latents, a batch norm."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import Flux2KleinInpaintPipeline, Flux2KleinPipeline, Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu, format_input
from torch import Tensor

from . import defaults
from .autoencoders import encode_with_batch_norm
from .base import LatentDistribution
from .chat import ChatBackbone
from .packing import PATCH_SIDE, pack, positions, unpack

_POSITION_AXES = 4
_NUM_STEPS = 50
"""Default steps of the pipeline, on which its shift depends."""


class Flux2Backbone(ChatBackbone):
    """See `Backbone`. The language model is Mistral Small 3; its tokenizer is in a processor."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (Flux2Pipeline,)
    defaults = defaults.FLUX_2
    patch_side = PATCH_SIDE
    max_sequence_length = 512
    variant: ClassVar[str] = "dev"

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels(PATCH_SIDE**2)
        self.resolution = pipe.default_sample_size * pipe.vae_scale_factor
        self.resolution_multiple = PATCH_SIDE * pipe.vae_scale_factor
        self.architecture = f"flux-2-{self.variant}/textual-inversion"

    def log_shift(self, latent_size: tuple[int, int]) -> float:  # noqa: D102 - see `FlowBackbone`
        # The pipeline's shift is no line through what the scheduler is configured with.
        if not self.drawing_pipe.scheduler.config.get("use_dynamic_shifting"):
            return super().log_shift(latent_size)
        return float(compute_empirical_mu(self.num_image_tokens(latent_size), _NUM_STEPS))

    def written(self, prompt: str) -> str:  # noqa: D102 - see `ChatBackbone`
        (text,) = self.drawing_pipe.tokenizer.apply_chat_template(
            format_input([prompt], self.drawing_pipe.system_message), tokenize=False, add_generation_prompt=False
        )
        return str(text)

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor) -> LatentDistribution:  # noqa: D102 - see `Backbone`
        return encode_with_batch_norm(self.autoencoder, pixel_values)

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:  # noqa: D102
        embeds, places = self.drawing_pipe.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return embeds, places

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, Tensor], geometry: Tensor
    ) -> Tensor:
        (embeds, text_places), (height, width) = conditioning, noisy_latents.shape[-2:]
        places = positions(height // PATCH_SIDE, width // PATCH_SIDE, _POSITION_AXES)
        guidance = None
        if self.denoiser.config.guidance_embeds and self.defaults.guidance is not None:
            guidance = noisy_latents.new_full((len(noisy_latents),), self.defaults.guidance)
        packed = self.denoiser(
            hidden_states=pack(noisy_latents).to(self.compute_dtype),
            timestep=timesteps / self.num_train_timesteps,
            guidance=guidance,
            encoder_hidden_states=embeds.to(self.compute_dtype),
            txt_ids=text_places,
            img_ids=places.to(text_places).expand(len(noisy_latents), -1, -1),
        ).sample
        return unpack(packed, height, width)


class Flux2KleinBackbone(Flux2Backbone):
    """See `Backbone`. The language model is Qwen3, told not to think."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        Flux2KleinPipeline,
        Flux2KleinInpaintPipeline,
    )
    defaults = defaults.LANGUAGE_MODEL
    variant = "klein"

    def written(self, prompt: str) -> str:  # noqa: D102 - see `ChatBackbone`
        messages = [{"role": "user", "content": prompt}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        return str(self.drawing_pipe.tokenizer.apply_chat_template(messages, **options))
