"""Lumina 2: Gemma 2 after an instruction, time that runs from noise to picture."""

from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers import Lumina2Pipeline
from torch import Tensor

from . import defaults
from .chat import ChatBackbone


class Lumina2Backbone(ChatBackbone):
    """See `Backbone`. The transformer predicts latents minus noise (arXiv:2503.21758)."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (Lumina2Pipeline,)
    defaults = defaults.LANGUAGE_MODEL
    max_sequence_length = 256

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        config = pipe.transformer.config
        self.check_latent_channels()
        self.resolution = pipe.default_image_size
        self.resolution_multiple = config.patch_size * pipe.vae_scale_factor
        self.architecture = "lumina-2/textual-inversion"

    def written(self, prompt: str) -> str:  # noqa: D102 - see `ChatBackbone`
        return f"{self.drawing_pipe.system_prompt} <Prompt Start> {prompt}"

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:  # noqa: D102 - see `Backbone`
        embeds, mask, _, _ = self.encoded(prompts)
        return embeds, mask

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, Tensor], geometry: Tensor
    ) -> Tensor:
        embeds, mask = conditioning
        return -self.denoiser(
            hidden_states=noisy_latents.to(self.compute_dtype),
            timestep=1 - timesteps / self.num_train_timesteps,
            encoder_hidden_states=embeds.to(self.compute_dtype),
            encoder_attention_mask=mask,
        ).sample
