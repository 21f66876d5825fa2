"""Ernie-Image: Mistral 3 reads the prompt as it is, the autoencoder of Flux.2."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import ErnieImagePipeline
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.nn.utils.rnn import pad_sequence

from . import defaults
from .autoencoders import encode_with_batch_norm
from .base import LatentDistribution
from .flow import FlowBackbone
from .packing import PATCH_SIDE

_NUM_SQUARES = 64
"""Squares of latents along one side of the pictures that the pipeline draws by default."""
_EPSILON = 1e-5
"""Of the batch norm; the pipeline has it in its code, because the published configuration says otherwise."""


class ErnieImageBackbone(FlowBackbone):
    """See `Backbone`. The model that rewrites prompts before they are drawn (``pe``) takes no part."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (ErnieImagePipeline,)
    defaults = defaults.LANGUAGE_MODEL
    patch_side = PATCH_SIDE

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels(PATCH_SIDE**2)
        self.resolution = _NUM_SQUARES * pipe.vae_scale_factor
        self.resolution_multiple = pipe.vae_scale_factor
        self.call_options = {"height": self.resolution, "width": self.resolution}
        self.architecture = "ernie-image/textual-inversion"

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor) -> LatentDistribution:  # noqa: D102 - see `Backbone`
        return encode_with_batch_norm(self.autoencoder, pixel_values, _EPSILON)

    def encode_prompts(self, prompts: list[str]) -> list[Tensor]:  # noqa: D102
        # The pipeline's own `encode_prompt` runs without gradient, inside as well; this is what it does.
        (pair,) = self.trained
        embeds = []
        for prompt in prompts:
            ids = pair.tokenizer(prompt, add_special_tokens=True, truncation=True).input_ids
            read = pair.encoder(input_ids=torch.tensor([ids], device=self.device), output_hidden_states=True)
            embeds.append(read.hidden_states[-2][0])
        return embeds

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: list[Tensor], geometry: Tensor
    ) -> Tensor:
        squares = self.denoiser(
            hidden_states=pixel_unshuffle(noisy_latents, PATCH_SIDE).to(self.compute_dtype),
            timestep=timesteps.to(self.compute_dtype),
            text_bth=pad_sequence(conditioning, batch_first=True).to(self.compute_dtype),
            text_lens=torch.tensor([len(embeds) for embeds in conditioning], device=noisy_latents.device),
        ).sample
        return pixel_shuffle(squares, PATCH_SIDE)
