"""`Backbone`: the interface between the trainer and a model family."""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..config import SupremeInitConfig
from ..errors import ConfigError, UnsupportedPipelineError
from ..text.encoder_identity import EncoderIdentity
from ..text.prompt_cleaning import as_written
from ..text.text_pairs import TextPair, find_text_pairs, identify_encoder
from .defaults import FamilyDefaults
from .text_to_image import text_to_image


@dataclass(frozen=True)
class LatentDistribution:
    """The autoencoder's posterior for a batch of pictures, in the denoiser's scale.

    Attributes:
        mean: ``(batch, channels, height, width)``, float32.
        std: The same shape; latents are drawn as ``mean + std * standard normal``. Zeros if the autoencoder is
            deterministic.
    """

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class PooledConditioning:
    """Prompt embeddings of families that also use a pooled text vector.

    Attributes:
        embeds: One vector per token, ``(batch, tokens, width)``.
        pooled: One vector per prompt, ``(batch, width)``.
    """

    embeds: Tensor
    pooled: Tensor

    def to(self, dtype: torch.dtype) -> "PooledConditioning":
        """Return both tensors in another dtype."""
        return PooledConditioning(self.embeds.to(dtype), self.pooled.to(dtype))


class Backbone(ABC):
    """One model family on one pipeline; the rest of the package is the same for every family.

    A family is a subclass that sets the class attributes below and implements the abstract methods. `FlowBackbone` and
    `DiffusionBackbone` implement those that all flow-matching and all noise-schedule models share. See
    ``docs/backbones.md``.

    Attributes:
        pipeline_classes: The pipeline classes it trains on: exactly these, and subclasses outside diffusers. The first
            draws from a prompt alone; the others are for other tasks, and have its parts.
        defaults: Learning rate and other defaults, each with its source.
        required: Components without which it cannot train.
        denoiser_name: Component name of the denoiser.
        max_sequence_length: Tokens that text encoders other than CLIP read, as in the default of the pipeline's
            ``__call__``; None if the family has only CLIPs.
        resolution_multiple: The side of training pictures must be a multiple of this, in pixels.
        max_resolution: Largest side of training pictures in pixels; None: no limit.
        call_options: Further arguments for drawing pictures like those trained on, see `drawing_options`.
        supports_min_snr: Whether the family accepts `snr_gamma`.
        pipe: The user's pipeline.
        pairs: The text encoders that read the prompt, in the order of the pipeline's components.
        trained: Those text encoders whose rows are trained.
        autoencoder: The module that encodes pictures; the steps do not need it.
        denoiser: The module that predicts noise, velocity or latents.
        resolution: Side of the pictures the model was made for, in pixels.
        architecture: ModelSpec name of the model and the file, e.g. ``"stable-diffusion-v1/textual-inversion"``.
    """

    pipeline_classes: ClassVar[tuple[type, ...]]
    defaults: ClassVar[FamilyDefaults]
    required: ClassVar[tuple[str, ...]] = ("vae", "text_encoder", "tokenizer", "transformer", "scheduler")
    denoiser_name: ClassVar[str] = "transformer"
    max_sequence_length: ClassVar[int | None] = None
    resolution_multiple: int = 1
    max_resolution: int | None = None
    call_options: Mapping[str, Any] = {}
    supports_min_snr: ClassVar[bool] = False

    resolution: int
    architecture: str

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        """Read the components of a pipeline.

        Args:
            pipe: An instance of one of `pipeline_classes`.
            train_text_encoders: Components whose rows are trained; empty: the family's default.

        Raises:
            UnsupportedPipelineError: The pipeline lacks a component that training needs, or differs from its family.
            ConfigError: `train_text_encoders` names something other than text encoders of the pipeline, or only one of
                two that share a tokenizer object.
        """
        missing = [name for name in self.required if getattr(pipe, name, None) is None]
        if missing:
            raise UnsupportedPipelineError(f"expected a complete pipeline, got one without {', '.join(missing)}")
        self.pipe = pipe
        self.autoencoder: Any = pipe.vae
        self.denoiser: Any = getattr(self.drawing_pipe, self.denoiser_name)
        self._dtypes: tuple[torch.dtype, torch.dtype] | None = None
        self.pairs: tuple[TextPair, ...] = tuple(find_text_pairs(pipe))
        self.trained: tuple[TextPair, ...] = self._choose(train_text_encoders)
        readers = {pair.encoder_name for pair in self.pairs}
        for name, part in pipe.components.items():
            if name.startswith("text_encoder") and part is not None and name not in readers:
                own = name.replace("text_encoder", "tokenizer")
                tokenizer = pipe.components.get(own)
                what = f"no {own}" if tokenizer is None else f"{type(tokenizer).__name__} as {own}"
                raise UnsupportedPipelineError(
                    f"{name}: expected a text encoder of transformers with its tokenizer, got {type(part).__name__} "
                    f"with {what}"
                )

    def check_latent_channels(self, channels_per_token: int = 1) -> None:
        """Check that the denoiser takes latents and no further channels.

        Args:
            channels_per_token: Latent pixels that the denoiser reads as one token, stacked as channels.

        Raises:
            UnsupportedPipelineError: The denoiser takes further channels (inpainting, fill, depth, control, ...).
        """
        expected, got = channels_per_token * self.latent_channels, self.denoiser.config.in_channels
        if got != expected:
            raise UnsupportedPipelineError(
                f"expected a {self.denoiser_name} that reads {expected} latent channels, got {got}: the others are a "
                "picture, mask or depth (inpainting, fill, control, editing), which training does not have; train on "
                "the text-to-image model of the same family, and load the concept into this one"
            )

    @property
    def latent_channels(self) -> int:
        """Number of channels of the autoencoder's latents."""
        config = self.autoencoder.config
        return int(config["z_dim"] if "z_dim" in config else config["latent_channels"])

    @property
    def described(self) -> tuple[TextPair, ...]:
        """The text encoders whose rows are not trained; they read a concept's description instead."""
        return tuple(pair for pair in self.pairs if pair not in self.trained)

    @functools.cached_property
    def identities(self) -> dict[str, EncoderIdentity]:
        """The identity of each trained text encoder, by component name; loading concepts does not change it."""
        return {pair.encoder_name: identify_encoder(pair) for pair in self.trained}

    @property
    def device(self) -> torch.device:
        """The device on which prompts are encoded: that of the first trained text encoder."""
        return self.trained[0].embedding.weight.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """Floating-point dtype of the denoiser's inputs."""
        # diffusers walks through all modules for it, which takes milliseconds; a cast changes the first weight too.
        first = next(self.denoiser.parameters()).dtype
        if self._dtypes is None or self._dtypes[0] != first:
            self._dtypes = (first, self.denoiser.dtype)
        return self._dtypes[1]

    @functools.cached_property
    def drawing_pipe(self) -> Any:
        """A pipeline that draws from a prompt alone: the user's own, or a new one with the same parts."""
        cls = self.pipeline_classes[0]
        return self.pipe if isinstance(self.pipe, cls) else text_to_image(cls, self.pipe)

    @property
    def drawing_options(self) -> dict[str, Any]:
        """Arguments with which `drawing_pipe` reads a prompt as training does: as written, without cleaning."""
        return {**as_written(self.drawing_pipe), **self.call_options}

    def window(self, pair: TextPair) -> int:
        """Return how many tokens of a prompt a text encoder reads, including start and end tokens."""
        if is_clip(pair) or self.max_sequence_length is None:
            return pair.tokenizer.model_max_length
        return self.max_sequence_length

    def learning_rate(self, config: SupremeInitConfig) -> float:
        """Return the learning rate of a run: the configured one, else the family's default."""
        return self.defaults.learning_rate if config.learning_rate is None else config.learning_rate

    def check_config(self, config: SupremeInitConfig) -> None:
        """Check the settings that depend on the family.

        Raises:
            ConfigError: The family does not support `snr_gamma` or `gradient_checkpointing`, or cannot train at
                `resolution`.
        """
        name = type(self.pipe).__name__
        if config.snr_gamma is not None and not self.supports_min_snr:
            raise ConfigError(
                f"snr_gamma: expected None for {name}, got {config.snr_gamma}; Min-SNR weights are defined for noise "
                "schedules, not for flow matching"
            )
        if config.gradient_checkpointing and not getattr(self.denoiser, "_supports_gradient_checkpointing", True):
            raise ConfigError(
                f"gradient_checkpointing: expected False for {name}, whose {self.denoiser_name} cannot recompute its "
                "activations; pass max_forward_batch_size=1 to save memory"
            )
        resolution = config.resolution or self.resolution
        if resolution % self.resolution_multiple:
            raise ConfigError(
                f"resolution: expected a multiple of {self.resolution_multiple} for {name}, got {resolution}"
            )
        if self.max_resolution is not None and resolution > self.max_resolution:
            raise ConfigError(f"resolution: expected at most {self.max_resolution} for {name}, got {resolution}")

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor) -> LatentDistribution:
        """Return the posterior, in float32, of pictures ``(batch, 3, height, width)`` in [-1, 1]; without gradient."""
        parameter = next(self.autoencoder.parameters())
        posterior = self.autoencoder.encode(pixel_values.to(parameter)).latent_dist
        config = self.autoencoder.config
        shift, scale = config.get("shift_factor") or 0.0, config.scaling_factor
        return LatentDistribution(mean=(posterior.mean.float() - shift) * scale, std=posterior.std.float() * scale)

    @abstractmethod
    def encode_prompts(self, prompts: list[str]) -> Any:
        """Encode prompts for `predict`, with the pipeline's own code and with gradient to the rows.

        Args:
            prompts: Different prompts.

        Returns:
            A tensor, or a tuple or dataclass of tensors, each with one entry per prompt; or a list of them, for
            prompts of different lengths.
        """

    def encoded(self, prompts: Sequence[str] | str, **options: Any) -> Any:
        """Return what the pipeline's own `encode_prompt` makes of prompts, without the empty prompt of guidance."""
        return self.drawing_pipe.encode_prompt(
            prompts,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
            **options,
        )

    @abstractmethod
    def timestep_at(self, quantile: float, latent_size: tuple[int, int]) -> float:
        """Return a quantile, in [0, 1], of the density that timesteps are trained with.

        The density is that of the model's own training; uniform quantiles give timesteps drawn from it.

        Args:
            quantile: Share of the density below the timestep.
            latent_size: Size of the sample's latents, (height, width).
        """

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noisy latents z_t of paper section 3, ``(batch, channels, height, width)``."""

    @abstractmethod
    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Any, geometry: Tensor) -> Tensor:
        """Return the denoiser's prediction, of the shape of `noisy_latents`.

        Args:
            noisy_latents: ``(batch, channels, height, width)``.
            timesteps: ``(batch,)``, as returned by `timestep_at`.
            conditioning: The result of `encode_prompts`.
            geometry: ``(batch, 6)``: height and width of the whole picture, top and left of the crop after scaling,
                height and width of the crop, all in pixels.
        """

    def passing_gradient(self) -> AbstractContextManager[None]:
        """Return a context in which the denoiser, in evaluation mode, passes a gradient to what it is told."""
        return contextlib.nullcontext()

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the target of `predict`: noise, velocity or latents."""

    def min_snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """Return Min-SNR loss weights ``(batch,)`` for this family's target (arXiv:2303.09556)."""
        raise NotImplementedError(f"{type(self).__name__} has no Min-SNR weights")

    def _choose(self, names: Sequence[str]) -> tuple[TextPair, ...]:
        known = {pair.encoder_name: pair for pair in self.pairs}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ConfigError(
                f"train_text_encoders: expected some of {', '.join(known)}, got {', '.join(map(repr, unknown))}"
            )
        clips = [name for name, pair in known.items() if is_clip(pair)]
        wanted = names or clips or list(known)[:1]
        chosen = tuple(pair for name, pair in known.items() if name in wanted)
        for pair in chosen:
            for other in self.pairs:
                if other not in chosen and other.tokenizer is pair.tokenizer:
                    raise ConfigError(
                        f"train_text_encoders: expected {other.encoder_name} beside {pair.encoder_name}, which shares "
                        "its tokenizer object; train both, or give each a tokenizer of its own (copy.deepcopy)"
                    )
        return chosen


def is_clip(pair: TextPair) -> bool:
    """Whether a text encoder is a CLIP: it is small, and its tokenizer sets its window."""
    return type(pair.encoder).__name__.startswith("CLIP")
