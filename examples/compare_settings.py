"""Which settings learn most from how many samples? Trains the toys of the toybox with each, from their captions.

    python examples/compare_settings.py --output_dir out/settings
    python examples/compare_settings.py --output_dir out/confirmed --other_toys --seeds 5 6 \
        --settings paper 'antithetic 1e-2'

Of every concept the first picture is learned, and the others are measured. Writes table.md and results.json; an
interrupted run goes on where it was.

- held-out loss: fixed-noise loss on views of the toy that no run has learned from;
- told, untold: share of the details that the caption tells, or does not, in pictures of the paper's prompts;
- background, edits: share of what prompts ask for that pictures obey.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from experiment.pipelines import TOYBOX, TOYBOX_GUIDANCE_SCALE, TOYBOX_OPTIONS, load_pipeline
from experiment.runs import pictures_of, snapshot_path
from experiment.statistics import steps_to_equal
from reproduce_paper import TOYBOX_EDITING_PROMPTS
from tqdm import tqdm

from diffusers_supreme_init import (
    PAPER_SETTINGS,
    VALIDATION_TEMPLATE,
    Concept,
    DescriberConfig,
    Describers,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    evaluate,
    fill_template,
    load_concepts,
    propose_initializer,
    read_embedding,
    write_atomically,
)
from diffusers_supreme_init.backbones import DiffusionBackbone
from diffusers_supreme_init.metrics import Interval, denoising_mse, mean_interval

sys.path.append(str(TOYBOX))  # the toybox is a folder of scripts
from concepts import other_toys, write_concepts
from judging import toybox_metrics
from views import write_views

MEASURES = {
    "held_out_loss": "held-out loss",
    "reconstruction/untold_kept": "untold",
    "reconstruction/told_kept": "told",
    "editing/background_obeyed": "background",
    "editing/edit_obeyed": "edits",
}
HELD_OUT_SAMPLES = 32
SAMPLING = {"num_inference_steps": 12, "guidance_scale": TOYBOX_GUIDANCE_SCALE}


@dataclass(frozen=True)
class Setting:
    """One way to train.

    Attributes:
        name: In the table.
        steps: After which rows are measured.
        options: Of `SupremeInitConfig`.
        num_averaged: How many steps' rows are averaged, the measured one's and those before it.
        timesteps: Quantiles of the model's timesteps that are trained, from least to most noise.
    """

    name: str
    steps: Sequence[int]
    options: Mapping[str, Any] = field(default_factory=dict)
    num_averaged: int = 1
    timesteps: tuple[float, float] = (0.0, 1.0)


def _setting(draws: str, learning_rate: float, *steps: int, **options: Any) -> Setting:
    others = "".join(f", {name} {value}" for name, value in options.items())
    name = f"{draws} {learning_rate:g}{others}"
    return Setting(name, steps, {"draws": draws, "learning_rate": learning_rate, **options})


def _pairs(what: str, *, options: Mapping[str, Any] | None = None, **values: Any) -> Setting:
    """Return what differs in one thing from a pair of samples a step at the paper's rate."""
    setting = _setting("antithetic", 2e-3, 75, train_batch_size=2, **(options or {}))
    return replace(setting, name=f"pairs, {what}", **values)


PAPER = replace(_setting("independent", 2e-3, 25, 50, 100), name="paper")
SETTINGS = (
    PAPER,
    _setting("antithetic", 2e-3, 25, 50, 75),
    _setting("antithetic", 3e-3, 25, 50),
    _setting("antithetic", 2e-3, 50, 75, 100, train_batch_size=2),
    _setting("antithetic", 2e-3, 50, 75, 100, train_batch_size=2, preserve_norm=True),
    _setting("antithetic", 3e-3, 50, 75, train_batch_size=2),
    _setting("antithetic", 5e-3, 15, 25, 50),
    _setting("antithetic", 1e-2, 15, 25, 50),
    _setting("independent", 2e-3, 50, 75, 100, train_batch_size=2),
    _pairs("cosine", options={"lr_scheduler": "cosine"}),
    _pairs("beta2 0.99", options={"adam_beta2": 0.99}),
    _pairs("norms preserved", options={"preserve_norm": True}),
    _pairs("mean of 10 steps", num_averaged=10),
    _pairs("less noise", timesteps=(0.0, 0.5)),
    _pairs("more noise", timesteps=(0.5, 1.0)),
)


def run_setting(
    pipe: Any, setting: Setting, concepts: Sequence[Concept], words: Mapping[str, str], seed: int, folder: Path
) -> list[dict[str, Any]]:
    """Train all concepts with a setting and measure their rows, or read what an earlier call has measured."""
    path = folder / "measured.json"
    if path.is_file():
        return list(json.loads(path.read_text(encoding="utf-8")))
    trained = [
        Concept(images=pictures_of(one)[0], placeholder_token=one.placeholder_token, initializer=words[token])
        for one in concepts
        for token in [one.placeholder_token]
    ]
    options: dict[str, Any] = {
        **PAPER_SETTINGS,
        **TOYBOX_OPTIONS,
        "max_train_steps": max(setting.steps),
        "snapshot_steps": [str(step) for last in (0, *setting.steps) for step in _averaged(setting, last)],
        "validation_samples": 0,
        "max_forward_batch_size": 16,
        "seed": seed,
        "output_dir": str(folder),
        "resume_from_checkpoint": "latest",
    }
    with trained_timesteps(*setting.timesteps):
        SupremeInitTextualInversionTrainer(
            pipe, concepts=trained, config=SupremeInitConfig(**{**options, **setting.options})
        ).train()
    pipe.unload_multitoken_inversion()
    steps = (0, *setting.steps) if setting.name == PAPER.name else setting.steps
    measured = []
    for one in tqdm(concepts, desc=f"{setting.name}, seed {seed}", unit="concept"):
        for step in steps:
            paths = [snapshot_path(folder, one.placeholder_token, at) for at in _averaged(setting, step)]
            about = {"setting": setting.name, "seed": seed, "concept": one.placeholder_token, "step": step}
            measured.append(about | measure(pipe, one, paths, seed))
    write_atomically(path, json.dumps(measured, indent=1).encode())
    return measured


def _averaged(setting: Setting, step: int) -> range:
    """Return the steps whose rows are averaged."""
    return range(max(step - setting.num_averaged + 1, min(step, 1)), step + 1)


@contextlib.contextmanager
def trained_timesteps(low: float, high: float) -> Iterator[None]:
    """Train on a part of the timesteps; an experiment, not an option."""
    whole = DiffusionBackbone.timestep_at

    def part(self: DiffusionBackbone, quantile: float, latent_size: tuple[int, int]) -> float:
        return whole(self, low + (high - low) * quantile, latent_size)

    with mock.patch.object(DiffusionBackbone, "timestep_at", part):
        yield


def measure(pipe: Any, concept: Concept, paths: Sequence[Path], seed: int) -> dict[str, float]:
    """Return the measures of a concept's rows, by the names of `MEASURES`; those of several files are averaged."""
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
            metrics=toybox_metrics(TOYBOX),
            editing_prompts=TOYBOX_EDITING_PROMPTS,
            seeds=[2 * seed, 2 * seed + 1],
            denoising_samples=0,
            **SAMPLING,
        )
        text = fill_template(VALIDATION_TEMPLATE, token, description)
        losses = denoising_mse(
            pipe, held_out, text, num_samples=HELD_OUT_SAMPLES, seed=seed, snr_gamma=TOYBOX_OPTIONS["snr_gamma"]
        )
    finally:
        pipe.unload_multitoken_inversion(token)
    scores = {f"reconstruction/{name}": score.mean for name, score in result.reconstruction.items()}
    scores |= {f"editing/{name}": score.mean for name, score in result.editing.items()}
    scores["held_out_loss"] = float(losses.mean())
    return {name: scores[name] for name in MEASURES}


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of means, and of paired differences from the paper's setting after its last step.

    The last column: how many times as many samples the paper's setting takes to the same held-out loss.
    """
    rows = list(dict.fromkeys((str(one["setting"]), int(one["step"])) for one in measured))
    reference = (PAPER.name, max(step for name, step in rows if name == PAPER.name))
    lines = [
        f"| setting | steps | samples | {' | '.join(MEASURES.values())} | times fewer samples |",
        "|:---|---:|---:|" + ":---|" * len(MEASURES) + "---:|",
    ]
    for row in rows:
        cells = []
        for measure_name in MEASURES:
            ours, theirs = (_values(measured, one, measure_name) for one in (row, reference))
            difference = "" if row == reference else f" ({mean_interval(ours - theirs)})"
            cells.append(f"{ours.mean():.3g}{difference}")
        samples = row[1] * _batch_size(row[0])
        lines.append(f"| {row[0]} | {row[1]} | {samples} | {' | '.join(cells)} | {_saved(measured, row, samples)} |")
    return "\n".join(lines) + "\n"


def _batch_size(name: str) -> int:
    (setting,) = (one for one in SETTINGS if one.name == name)
    return int(setting.options.get("train_batch_size", PAPER_SETTINGS["train_batch_size"]))


def _saved(measured: Sequence[Mapping[str, Any]], row: tuple[str, int], samples: int) -> str:
    if row[0] == PAPER.name or not samples:
        return ""
    steps = sorted({int(one["step"]) for one in measured if one["setting"] == PAPER.name})
    slow = np.stack([_values(measured, (PAPER.name, step), "held_out_loss") for step in steps], axis=-1)
    needed = steps_to_equal(steps, slow, _values(measured, row, "held_out_loss"))
    times = PAPER_SETTINGS["train_batch_size"] / samples
    return str(Interval(*(times * value for value in (needed.value, needed.low, needed.high))))


def _values(measured: Sequence[Mapping[str, Any]], row: tuple[str, int], name: str) -> np.ndarray:
    """Return ``(num_concepts, num_seeds)``."""
    own = [one for one in measured if (one["setting"], one["step"]) == row]
    concepts, seeds = (list(dict.fromkeys(one[key] for one in own)) for key in ("concept", "seed"))
    values = np.full((len(concepts), len(seeds)), np.nan)
    for one in own:
        values[concepts.index(one["concept"]), seeds.index(one["seed"])] = one[name]
    return values


def main() -> None:
    """Parse, run; print the table."""
    names = [setting.name for setting in SETTINGS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("out/settings"))
    parser.add_argument("--settings", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num_concepts", type=int)
    parser.add_argument("--other_toys", action="store_true", help="Toys that nothing was chosen by.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        images = TOYBOX / "views"
        if options.other_toys:
            images = Path(made) / "views"
            toys = other_toys()
            write_concepts(Path(made) / "concepts", toys)
            write_views(images, held_outs=toys)
        run_all(options, images)


def run_all(options: argparse.Namespace, images: Path) -> None:
    """Train and measure every setting; write the results after each, and the table at the end."""
    concepts = load_concepts(images, initializer="*")[: options.num_concepts]
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    describers = Describers(DescriberConfig(captioner=str(TOYBOX / "captioner")))
    words = {
        one.placeholder_token: propose_initializer(
            pictures_of(one)[0], "caption", pipe=pipe, describers=describers
        ).text
        for one in concepts
    }
    describers.release()
    measured = []
    for seed in options.seeds:
        for setting in (one for one in SETTINGS if one.name in options.settings):
            folder = options.output_dir / "runs" / f"seed-{seed}" / setting.name
            measured += run_setting(pipe, setting, concepts, words, seed, folder)
            write_atomically(options.output_dir / "results.json", json.dumps(measured, indent=1).encode())
    write_atomically(options.output_dir / "table.md", table(measured).encode())
    print((options.output_dir / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
