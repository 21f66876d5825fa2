"""HiDream-I1: two CLIPs for a pooled vector, T5 and every layer of Llama 3.1 for the sequence, layers of experts."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from diffusers import HiDreamImagePipeline
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from torch import Tensor

from ..text.text_pairs import TextPair
from . import defaults
from .flow import FlowBackbone


class HiDreamBackbone(FlowBackbone):
    """See `Backbone`. The transformer predicts latents minus noise."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (HiDreamImagePipeline,)
    defaults = defaults.HIDREAM
    required = (
        *("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        *("text_encoder_3", "tokenizer_3", "text_encoder_4", "tokenizer_4", "transformer", "scheduler"),
    )
    max_sequence_length = 128

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        config = pipe.transformer.config
        self.check_latent_channels()
        self.resolution = pipe.default_sample_size * pipe.vae_scale_factor
        self.resolution_multiple = config.patch_size * pipe.vae_scale_factor
        self.max_resolution = min(config.max_resolution) * pipe.vae_scale_factor
        self.architecture = "hidream-i1/textual-inversion"

    def window(self, pair: TextPair) -> int:  # noqa: D102 - see `Backbone`
        # All four read as many tokens: the CLIPs are variants with 248 positions.
        return self.max_sequence_length

    def num_image_tokens(self, latent_size: tuple[int, int]) -> int:  # noqa: D102 - see `FlowBackbone`
        # The pipeline's dynamic shift is that of the largest picture.
        return int(self.denoiser.max_seq)

    @contextlib.contextmanager
    def passing_gradient(self) -> Iterator[None]:
        """Let the experts pass a gradient, which in evaluation mode they do not.

        Only the layers of experts are put into training mode. Their gates stay in evaluation mode and compute no
        loss for the balance of experts, and no dropout is switched on.
        """
        layers = [part for part in self.denoiser.modules() if isinstance(part, MOEFeedForwardSwiGLU)]
        before = [(layer.training, layer._force_inference_output) for layer in layers]
        try:
            for layer in layers:
                layer.training, layer._force_inference_output = True, False
            yield
        finally:
            for layer, (was_training, was_forced) in zip(layers, before, strict=True):
                layer.training, layer._force_inference_output = was_training, was_forced

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor]:  # noqa: D102 - see `Backbone`
        t5, _, llama, _, pooled, _ = self.encoded(prompts)
        return t5, llama.transpose(0, 1), pooled

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, Tensor, Tensor], geometry: Tensor
    ) -> Tensor:
        t5, llama, pooled = (part.to(self.compute_dtype) for part in conditioning)
        return -self.denoiser(
            hidden_states=noisy_latents.to(self.compute_dtype),
            timesteps=timesteps,
            encoder_hidden_states_t5=t5,
            encoder_hidden_states_llama3=llama.transpose(0, 1),
            pooled_embeds=pooled,
        ).sample
