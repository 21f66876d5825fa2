"""AuraFlow: UMT5 alone, whose padding is set to zero."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers import AuraFlowPipeline
from torch import Tensor

from . import defaults
from .flow import FlowBackbone

_RESOLUTION = 1024
"""Side of the pictures that the pipeline draws by default, in pixels."""


class AuraFlowBackbone(FlowBackbone):
    """See `Backbone`."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (AuraFlowPipeline,)
    defaults = defaults.AURA_FLOW
    max_sequence_length = 256

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        config = pipe.transformer.config
        self.check_latent_channels()
        self.resolution_multiple = config.patch_size * pipe.vae_scale_factor
        self.max_resolution = math.isqrt(config.pos_embed_max_size) * self.resolution_multiple
        self.resolution = min(_RESOLUTION, self.max_resolution)
        self.call_options = {"height": self.resolution, "width": self.resolution}
        self.architecture = "aura-flow/textual-inversion"

    def encode_prompts(self, prompts: list[str]) -> Tensor:  # noqa: D102 - see `Backbone`
        embeds, *_ = self.encoded(prompts)
        return embeds

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Tensor, geometry: Tensor
    ) -> Tensor:
        return self.denoiser(
            noisy_latents.to(self.compute_dtype),
            encoder_hidden_states=conditioning.to(self.compute_dtype),
            timestep=timesteps / self.num_train_timesteps,
        ).sample
