"""PixArt-alpha and PixArt-Sigma: T5 alone, and a transformer that predicts noise and its variance."""

from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers import PixArtAlphaPipeline, PixArtSigmaPAGPipeline, PixArtSigmaPipeline
from torch import Tensor

from ..errors import UnsupportedPipelineError
from . import defaults
from .diffusion import DiffusionBackbone


class PixArtSigmaBackbone(DiffusionBackbone):
    """See `Backbone`. The transformer also predicts the variance, which the loss ignores."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        PixArtSigmaPipeline,
        PixArtSigmaPAGPipeline,
    )
    defaults = defaults.PIXART
    max_sequence_length = 300
    name: ClassVar[str] = "pixart-sigma"
    knows_sizes: ClassVar[bool] = False

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        config = pipe.transformer.config
        self.check_latent_channels()
        if pipe.transformer.use_additional_conditions and not self.knows_sizes:
            raise UnsupportedPipelineError(
                "expected a transformer without size conditioning, got one of PixArt-alpha; train on a "
                "PixArtAlphaPipeline"
            )
        self.resolution = config.sample_size * pipe.vae_scale_factor
        self.resolution_multiple = config.patch_size * pipe.vae_scale_factor
        self.call_options = {"use_resolution_binning": False}
        self.architecture = f"{self.name}/textual-inversion"

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:  # noqa: D102 - see `Backbone`
        embeds, mask, _, _ = self.encoded(prompts)
        return embeds, mask

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, Tensor], geometry: Tensor
    ) -> Tensor:
        embeds, mask = conditioning
        prediction = self.denoiser(
            noisy_latents.to(self.compute_dtype),
            encoder_hidden_states=embeds.to(self.compute_dtype),
            encoder_attention_mask=mask,
            timestep=timesteps,
            added_cond_kwargs=self._sizes(geometry),
        ).sample
        return prediction[:, : noisy_latents.shape[1]]

    def _sizes(self, geometry: Tensor) -> dict[str, Tensor | None]:
        if not self.denoiser.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        sizes = geometry[:, -2:].to(self.compute_dtype)
        return {"resolution": sizes, "aspect_ratio": sizes[:, :1] / sizes[:, 1:]}


class PixArtAlphaBackbone(PixArtSigmaBackbone):
    """See `Backbone`. At 1024 px the transformer is told height, width and their ratio (arXiv:2310.00426)."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (PixArtAlphaPipeline,)
    max_sequence_length = 120
    name = "pixart-alpha"
    knows_sizes = True
