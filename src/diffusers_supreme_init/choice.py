"""Candidates -> the best one: the words with which the untouched model predicts the picture's noise best."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from tqdm.auto import tqdm

from .backbones import Backbone
from .candidates import Candidates, with_losses
from .config import SupremeInitConfig
from .errors import TrainingError
from .latents import PictureLatents
from .sampling import Sample, denoising_losses, draw_validation_sample
from .templates import fill_template

_BATCH_SIZE = 8


@dataclass(frozen=True)
class _Described:
    """A concept that stands for its own words; see `ValidatedConcept`."""

    validation_prompt: str
    latents: PictureLatents


@torch.no_grad()
def score_candidates(
    backbone: Backbone,
    latents: PictureLatents,
    candidates: Candidates,
    config: SupremeInitConfig,
    *,
    template: str,
    num_samples: int,
    device: torch.device,
    autocast_dtype: torch.dtype | None = None,
    progress_bar: bool = True,
) -> Candidates:
    """Measure the fixed-noise loss of each candidate and put the lowest first. Nothing is trained.

    The rows of a concept start as copies of its words' embeddings, so this is the loss at step 0, before any concept
    exists: the same noises and timesteps, for every candidate, as in validation.

    Args:
        backbone: The untouched model.
        latents: The concept's pictures, encoded.
        candidates: At least one.
        config: Seed and largest batch.
        template: The validation template, with one ``{}``.
        num_samples: Noises and timesteps per candidate; never fewer than pictures, so that all of them count.
        device: Where text encoder and denoiser are.
        autocast_dtype: As in training; None: none.
        progress_bar: Whether to show one.

    Raises:
        TrainingError: No candidate has a finite loss.
    """
    settings = replace(config, validation_samples=max(num_samples, len(latents)))
    batch_size = config.max_forward_batch_size or _BATCH_SIZE
    losses: list[list[float]] = []
    for candidate in tqdm(candidates.usable, desc="comparing words", unit="text", disable=not progress_bar):
        concept = _Described(fill_template(template, candidate.text, candidate.text), latents)
        values: list[float] = []
        for samples in _batches(backbone, concept, settings, batch_size):
            with _autocast(device, autocast_dtype):
                values += denoising_losses(backbone, samples, device).double().tolist()
        losses.append(values)
    if not any(math.isfinite(sum(values)) for values in losses):
        raise TrainingError(
            "initializer: expected finite losses, got NaN or infinity for every candidate; load the pipeline in "
            "float32 or bfloat16"
        )
    return with_losses(candidates, losses)


def _batches(
    backbone: Backbone, concept: _Described, config: SupremeInitConfig, batch_size: int
) -> Iterator[Sequence[Sample]]:
    for start in range(0, config.validation_samples, batch_size):
        indices = range(start, min(start + batch_size, config.validation_samples))
        yield [draw_validation_sample(backbone, concept, index, config) for index in indices]


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
