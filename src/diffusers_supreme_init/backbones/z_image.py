"""Z-Image: Qwen3 behind its chat template, prompts of different lengths, time that runs from noise to picture."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import (
    ZImageControlNetInpaintPipeline,
    ZImageControlNetPipeline,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
    ZImagePipeline,
)
from torch import Tensor

from . import defaults
from .chat import ChatBackbone
from .packing import PATCH_SIDE

_SAMPLE_SIZE = 128
"""Latents along one side of the pictures that the pipeline draws by default."""


class ZImageBackbone(ChatBackbone):
    """See `Backbone`. The transformer reads the last but one hidden state of each token, the template's included.

    It is told how much of the way from noise to picture is done (arXiv:2511.22699), and predicts latents minus noise.
    """

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        ZImagePipeline,
        ZImageImg2ImgPipeline,
        ZImageInpaintPipeline,
        ZImageControlNetPipeline,
        ZImageControlNetInpaintPipeline,
    )
    defaults = defaults.LANGUAGE_MODEL
    patch_side = PATCH_SIDE
    max_sequence_length = 512

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels()
        self.resolution = _SAMPLE_SIZE * pipe.vae_scale_factor
        self.resolution_multiple = PATCH_SIDE * pipe.vae_scale_factor
        self.call_options = {"height": self.resolution, "width": self.resolution}
        self.architecture = "z-image/textual-inversion"

    def written(self, prompt: str) -> str:  # noqa: D102 - see `ChatBackbone`
        messages = [{"role": "user", "content": prompt}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        return str(self.drawing_pipe.tokenizer.apply_chat_template(messages, **options))

    def encode_prompts(self, prompts: list[str]) -> list[Tensor]:  # noqa: D102 - see `Backbone`
        # The pipeline writes the template into the list that it is given.
        embeds, _ = self.drawing_pipe.encode_prompt(
            list(prompts),
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return list(embeds)

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: list[Tensor], geometry: Tensor
    ) -> Tensor:
        velocities = self.denoiser(
            list(noisy_latents.to(self.compute_dtype).unsqueeze(2)),
            1 - timesteps / self.num_train_timesteps,
            [embeds.to(self.compute_dtype) for embeds in conditioning],
        ).sample
        return -torch.stack(velocities).squeeze(2)
