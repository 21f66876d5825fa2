"""Candidates -> the best one: the words with which the untouched model predicts the picture's noise best."""

import math
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from .backbones import Backbone
from .candidates import Candidates, with_losses
from .config import SupremeInitConfig
from .errors import TrainingError
from .latents import PictureLatents
from .sampling import PromptedPictures, fixed_noise_losses
from .templates import fill_template


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
    losses: list[list[float]] = []
    for candidate in tqdm(candidates.usable, desc="comparing words", unit="text", disable=not progress_bar):
        asked = PromptedPictures(fill_template(template, candidate.text, candidate.text), latents)
        losses.append(fixed_noise_losses(backbone, asked, settings, device, autocast_dtype=autocast_dtype))
    if not any(math.isfinite(sum(values)) for values in losses):
        raise TrainingError(
            "initializer: expected finite losses, got NaN or infinity for every candidate; load the pipeline in "
            "float32 or bfloat16"
        )
    return with_losses(candidates, losses)
