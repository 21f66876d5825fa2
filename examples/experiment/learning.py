"""Ways to train x concepts -> what their rows are worth: details kept, prompts obeyed, loss on views never learned."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from diffusers_supreme_init import (
    VALIDATION_TEMPLATE,
    Concept,
    SupremeInitTextualInversionTrainer,
    evaluate,
    fill_template,
    read_embedding,
    write_atomically,
)
from diffusers_supreme_init.backbones import DiffusionBackbone
from diffusers_supreme_init.metrics import denoising_mse

from .runs import Experiment, pictures_of, snapshot_path

MEASURES = {
    "held_out_loss": "held-out loss",
    "reconstruction/untold_kept": "untold",
    "reconstruction/told_kept": "told",
    "editing/background_obeyed": "background",
    "editing/edit_obeyed": "edits",
}
"""What is measured of rows, and its name in tables."""
HELD_OUT_SAMPLES = 32
DRAWN = {"num_image_seeds": 2, "num_inference_steps": 12}
"""How pictures are drawn to be measured, in options of `reproduce_paper.py`."""


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Attributes:
        name: In files and tables.
        steps: After which rows are measured.
        options: Fields of `SupremeInitConfig` that differ from the experiment's.
        num_averaged: How many steps' rows are averaged, the measured one's and those before it.
        timesteps: Quantiles of the model's timesteps that are trained, from least to most noise.
    """

    name: str
    steps: Sequence[int]
    options: Mapping[str, Any] = field(default_factory=dict)
    num_averaged: int = 1
    timesteps: tuple[float, float] = (0.0, 1.0)


def run_recipe(
    experiment: Experiment,
    recipe: Recipe,
    words: Mapping[str, str],
    seed: int,
    folder: Path,
    *,
    masks: Mapping[str, Image.Image] | None = None,
) -> list[dict[str, Any]]:
    """Train concepts on their first pictures and measure their rows, or read what an earlier call has measured.

    Args:
        experiment: Model, concepts and metrics.
        recipe: How to train.
        words: What each concept starts from, by its placeholder token; concepts without words are left out.
        seed: Of the training and of the pictures drawn afterwards.
        folder: Written by the training, which resumes there.
        masks: Of the first pictures, for ``masked_loss``.

    Returns:
        A record for each concept and step: ``setting``, ``seed``, ``concept``, ``step``, and the names of `MEASURES`.
    """
    path = folder / "measured.json"
    if path.is_file():
        return list(json.loads(path.read_text(encoding="utf-8")))
    concepts = [one for one in experiment.concepts if one.placeholder_token in words]
    trained = [
        Concept(
            images=pictures_of(one)[0],
            placeholder_token=token,
            initializer=words[token],
            mask=None if masks is None else masks[token],
        )
        for one in concepts
        for token in [one.placeholder_token]
    ]
    snapshots = sorted({step for last in (0, *recipe.steps) for step in _averaged(recipe, last)})
    options: dict[str, Any] = {
        "max_train_steps": max(recipe.steps),
        "snapshot_steps": [str(step) for step in snapshots],
        "validation_samples": 0,
        "seed": seed,
        "output_dir": str(folder),
        "resume_from_checkpoint": "latest",
    }
    config = replace(experiment.config, **{**recipe.options, **options})
    with trained_timesteps(*recipe.timesteps):
        SupremeInitTextualInversionTrainer(experiment.pipe, concepts=trained, config=config).train()
    experiment.pipe.unload_multitoken_inversion()
    measured = []
    for one in tqdm(concepts, desc=f"{recipe.name}, seed {seed}", unit="concept"):
        for step in recipe.steps:
            paths = [snapshot_path(folder, one.placeholder_token, at) for at in _averaged(recipe, step)]
            about = {"setting": recipe.name, "seed": seed, "concept": one.placeholder_token, "step": step}
            measured.append(about | measure(experiment, one, paths, seed))
    write_atomically(path, json.dumps(measured, indent=1).encode())
    return measured


def measure(experiment: Experiment, concept: Concept, paths: Sequence[Path], seed: int) -> dict[str, float]:
    """Return the measures of a concept's rows, by the names of `MEASURES`; those of several files are averaged."""
    pipe = experiment.pipe
    embeddings = [read_embedding(path) for path in paths]
    token, description = str(embeddings[-1].placeholder_token), embeddings[-1].description or ""
    first, *held_out = pictures_of(concept)
    pipe.load_multitoken_inversion({token: torch.stack([one.rows for one in embeddings]).mean(dim=0)})
    try:
        result = evaluate(
            pipe,
            token,
            first,
            description=description,
            metrics=experiment.metrics,
            editing_prompts=experiment.editing_prompts,
            seeds=[seed * experiment.num_image_seeds + index for index in range(experiment.num_image_seeds)],
            denoising_samples=0,
            **experiment.sampling,
        )
        text = fill_template(VALIDATION_TEMPLATE, token, description)
        losses = denoising_mse(
            pipe,
            held_out,
            text,
            num_samples=HELD_OUT_SAMPLES,
            seed=seed,
            snr_gamma=experiment.config.snr_gamma,
        )
    finally:
        pipe.unload_multitoken_inversion(token)
    scores = {f"reconstruction/{name}": score.mean for name, score in result.reconstruction.items()}
    scores |= {f"editing/{name}": score.mean for name, score in result.editing.items()}
    scores["held_out_loss"] = float(losses.mean())
    return {name: scores[name] for name in MEASURES}


def values_of(measured: Sequence[Mapping[str, Any]], setting: str, step: int, name: str) -> np.ndarray:
    """Return one measure of one setting after a step, ``(num_concepts, num_seeds)``."""
    own = [one for one in measured if (one["setting"], one["step"]) == (setting, step)]
    concepts, seeds = (list(dict.fromkeys(one[key] for one in own)) for key in ("concept", "seed"))
    values = np.full((len(concepts), len(seeds)), np.nan)
    for one in own:
        values[concepts.index(one["concept"]), seeds.index(one["seed"])] = one[name]
    return values


@contextlib.contextmanager
def trained_timesteps(low: float, high: float) -> Iterator[None]:
    """Train on a part of the timesteps; an experiment, not an option."""
    whole = DiffusionBackbone.timestep_at

    def part(self: DiffusionBackbone, quantile: float, latent_size: tuple[int, int]) -> float:
        return whole(self, low + (high - low) * quantile, latent_size)

    with mock.patch.object(DiffusionBackbone, "timestep_at", part):
        yield


def _averaged(recipe: Recipe, step: int) -> range:
    """Return the steps whose rows are averaged."""
    return range(max(step - recipe.num_averaged + 1, min(step, 1)), step + 1)
