"""Ideogram 4: thirteen hidden states of Qwen3-VL, text and picture in one sequence, the autoencoder of Flux.2."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import Ideogram4Pipeline
from torch import Tensor

from . import defaults
from .base import LatentDistribution
from .chat import ChatBackbone
from .packing import PATCH_SIDE

_SAMPLE_SIZE = 128
"""Latents along one side of training pictures: half of those that the pipeline draws by default."""
_DEVIATION = 1.5
_BASE_PIXELS = 512**2
"""Of the timesteps with which the pipeline draws: logit-normal, with a mean of zero at 512 x 512 px."""
_GUIDANCE = 7.0
"""The pipeline's own for most of its steps; its schedule has a length of its own."""


class Ideogram4Backbone(ChatBackbone):
    """See `Backbone`. Time runs from noise to picture, and the transformer predicts latents minus noise.

    Prompts are neither padded nor joined: each sample goes through the transformer alone. The second transformer,
    which draws without a prompt, takes no part.
    """

    pipeline_classes: ClassVar[tuple[type, ...]] = (Ideogram4Pipeline,)
    defaults = defaults.LANGUAGE_MODEL
    patch_side = PATCH_SIDE
    max_sequence_length = 2048

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels(PATCH_SIDE**2)
        self.resolution = _SAMPLE_SIZE * pipe.vae_scale_factor
        self.resolution_multiple = PATCH_SIDE * pipe.vae_scale_factor
        size = {"height": self.resolution, "width": self.resolution}
        self.call_options = {**size, "guidance_scale": _GUIDANCE, "guidance_schedule": None}
        self.architecture = "ideogram-4/textual-inversion"

    def timestep_at(self, quantile: float, latent_size: tuple[int, int]) -> float:  # noqa: D102 - see `Backbone`
        normal = torch.special.ndtri(torch.tensor(quantile, dtype=torch.float64))
        num_pixels = math.prod(latent_size) * self.drawing_pipe.vae_scale_factor**2
        mean = 0.5 * math.log(num_pixels / _BASE_PIXELS)
        return float(torch.sigmoid(mean + _DEVIATION * normal)) * self.num_train_timesteps

    def written(self, prompt: str) -> str:  # noqa: D102 - see `ChatBackbone`
        messages = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
        options = {"tokenize": False, "add_generation_prompt": True}
        return str(self.drawing_pipe.tokenizer.apply_chat_template(messages, **options))

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor) -> LatentDistribution:  # noqa: D102 - see `Backbone`
        posterior = self.autoencoder.encode(pixel_values.to(next(self.autoencoder.parameters()))).latent_dist
        norm, epsilon = self.autoencoder.bn, self.autoencoder.config.batch_norm_eps
        center, scale = norm.running_mean.float(), (norm.running_var.float() + epsilon).sqrt()
        size = posterior.mean.shape[-2:]
        mean, std = _pack(posterior.mean.float()), _pack(posterior.std.float())
        return LatentDistribution(_unpack((mean - center) / scale, *size), _unpack(std / scale, *size))

    def encode_prompts(self, prompts: list[str]) -> list[Tensor]:  # noqa: D102
        tokenizer, embeds = self.trained[0].tokenizer, []
        for prompt in prompts:
            num_tokens = len(tokenizer(self.written(prompt), add_special_tokens=False).input_ids)
            no_picture = {"grid_h": 0, "grid_w": 0}
            encoded = self.drawing_pipe.encode_prompt(
                prompt, max_sequence_length=num_tokens, device=self.device, **no_picture
            )
            embeds.append(encoded[0])
        return embeds

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: list[Tensor], geometry: Tensor
    ) -> Tensor:
        samples = zip(noisy_latents.split(1), timesteps.split(1), conditioning, strict=True)
        return torch.cat([self._predict_one(*sample) for sample in samples])

    def _predict_one(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        dtype, (height, width), num_text = self.compute_dtype, noisy_latents.shape[-2:], embeds.shape[1]
        places, segments, roles = self.drawing_pipe._prepare_ids(
            [num_text], height // PATCH_SIDE, width // PATCH_SIDE, num_text, noisy_latents.device
        )
        tokens = _pack(noisy_latents).to(dtype)
        sequence = self.denoiser(
            hidden_states=torch.cat([tokens.new_zeros(1, num_text, tokens.shape[-1]), tokens], dim=1),
            timestep=(1 - timesteps / self.num_train_timesteps).to(dtype),
            encoder_hidden_states=torch.cat(
                [embeds.to(dtype), embeds.new_zeros(1, tokens.shape[1], embeds.shape[-1]).to(dtype)], dim=1
            ),
            position_ids=places,
            segment_ids=segments,
            indicator=roles,
        ).sample
        return -_unpack(sequence[:, num_text:], height, width)


def _pack(latents: Tensor) -> Tensor:
    """Pack ``(batch, channels, height, width)`` into ``(batch, tokens, 4 * channels)``; here, channels come last."""
    squares = latents.unflatten(2, (-1, PATCH_SIDE)).unflatten(4, (-1, PATCH_SIDE))
    return squares.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `_pack`."""
    grid = tokens.unflatten(1, (height // PATCH_SIDE, width // PATCH_SIDE))
    squares = grid.unflatten(3, (PATCH_SIDE, PATCH_SIDE, -1))
    return squares.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
