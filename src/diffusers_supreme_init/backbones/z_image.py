"""Z-Image: Qwen3 behind its chat template, prompts of different lengths, time that runs from noise to picture."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import ZImageImg2ImgPipeline, ZImagePipeline
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from . import defaults
from .chat import ChatBackbone
from .packing import PATCH_SIDE, num_squares

_SAMPLE_SIZE = 128
"""Latents along one side of the pictures that the pipeline draws by default."""


class ZImageBackbone(ChatBackbone):
    """See `Backbone`. The transformer reads the last but one hidden state of each token, the template's included.

    It is told how much of the way from noise to picture is done (arXiv:2511.22699), and predicts latents minus noise.
    """

    pipeline_classes: ClassVar[tuple[type, ...]] = (ZImagePipeline, ZImageImg2ImgPipeline)
    defaults = defaults.LANGUAGE_MODEL
    max_sequence_length = 512

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels()
        self.resolution = _SAMPLE_SIZE * pipe.vae_scale_factor
        self.resolution_multiple = PATCH_SIDE * pipe.vae_scale_factor
        self.call_options = {"height": self.resolution, "width": self.resolution}
        self.architecture = "z-image/textual-inversion"

    def num_image_tokens(self, latent_size: tuple[int, int]) -> int:  # noqa: D102 - see `FlowBackbone`
        return num_squares(latent_size)

    def written(self, prompt: str) -> str:  # noqa: D102 - see `ChatBackbone`
        messages = [{"role": "user", "content": prompt}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        return str(self.pipe.tokenizer.apply_chat_template(messages, **options))

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:  # noqa: D102 - see `Backbone`
        # The pipeline writes the template into the list that it is given.
        embeds, _ = self.pipe.encode_prompt(
            list(prompts),
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        mask = pad_sequence([torch.ones_like(one[:, 0], dtype=torch.bool) for one in embeds], batch_first=True)
        return pad_sequence(embeds, batch_first=True), mask

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, Tensor], geometry: Tensor
    ) -> Tensor:
        embeds, mask = conditioning
        velocities = self.denoiser(
            list(noisy_latents.to(self.compute_dtype).unsqueeze(2)),
            1 - timesteps / self.num_train_timesteps,
            [one[kept].to(self.compute_dtype) for one, kept in zip(embeds, mask, strict=True)],
        ).sample
        return -torch.stack(velocities).squeeze(2)
