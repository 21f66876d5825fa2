"""The seam between the trainer and a model family."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ..text_pairs import TextPair


@dataclass(frozen=True)
class LatentDistribution:
    """The autoencoder's posterior of some pictures, in the scale the denoiser works in.

    Attributes:
        mean: ``(batch, channels, height, width)``, float32.
        std: The same shape; a latent sample is ``mean + std * standard normal``.
    """

    mean: Tensor
    std: Tensor


class Backbone(Protocol):
    """One model family. Everything that is not said here is the same for all of them.

    Attributes:
        pipeline_classes: The pipelines it trains on.
        pipe: The user's pipeline.
        pair: The text encoder whose rows are trained.
        autoencoder: The module that makes latents; it is not needed after that.
        denoiser: The module that predicts.
        resolution: Side in pixels of the pictures the model was made for.
        num_train_timesteps: Timesteps are integers in [0, this).
        architecture: ModelSpec name of the model and the file, e.g. ``"stable-diffusion-v1/textual-inversion"``.
    """

    pipeline_classes: ClassVar[tuple[type, ...]]
    pipe: Any
    pair: TextPair
    autoencoder: nn.Module
    denoiser: nn.Module
    resolution: int
    num_train_timesteps: int
    architecture: str

    def __init__(self, pipe: Any) -> None: ...

    def encode_pictures(self, pixel_values: Tensor) -> LatentDistribution:
        """Encode pictures ``(batch, 3, height, width)`` in [-1, 1]; float32, no gradient."""
        ...

    def encode_prompts(self, prompts: list[str]) -> Any:
        """Encode prompts with gradient to the rows; the result goes to `predict` as it is."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noisy latents z_t of paper section 3, ``(batch, channels, height, width)``."""
        ...

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Any) -> Tensor:
        """Return the denoiser's prediction, of the shape of `noisy_latents`."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what `predict` should have said: noise, velocity or latents."""
        ...

    def min_snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """Return Min-SNR loss weights ``(batch,)`` for this family's target (arXiv:2303.09556)."""
        ...
