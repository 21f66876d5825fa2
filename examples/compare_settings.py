"""Which settings learn most from how many samples? Trains the toys of the toybox with each, from their captions.

    python examples/compare_settings.py --output_dir out/settings
    python examples/compare_settings.py --output_dir out/confirmed --other_toys --seeds 5 6 \
        --settings paper 'antithetic 0.01'

Of every concept the first picture is learned, and the others are measured. Writes table.md and results.json; an
interrupted run goes on where it was.

- held-out loss: fixed-noise loss on views of the toy that no run has learned from;
- told, untold: share of the details that the caption tells, or does not, in pictures of the paper's prompts;
- background, edits: share of what prompts ask for that pictures obey.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from experiment.learning import DRAWN, MEASURES, Recipe, run_recipe, values_of
from experiment.pipelines import TOYBOX
from experiment.runs import pictures_of
from experiment.statistics import steps_to_equal
from reproduce_paper import ReproduceArguments, set_up

from diffusers_supreme_init import (
    PAPER_SETTINGS,
    DescriberConfig,
    Describers,
    propose_initializer,
    write_atomically,
)
from diffusers_supreme_init.metrics import Interval, mean_interval

sys.path.append(str(TOYBOX))  # the toybox is a folder of scripts
from concepts import other_toys, write_concepts
from views import write_views


def _recipe(draws: str, learning_rate: float, *steps: int, **options: Any) -> Recipe:
    others = "".join(f", {name} {value}" for name, value in options.items())
    name = f"{draws} {learning_rate:g}{others}"
    return Recipe(name, steps, {"draws": draws, "learning_rate": learning_rate, **options})


def _pairs(what: str, *, options: Mapping[str, Any] | None = None, **values: Any) -> Recipe:
    """Return what differs in one thing from a pair of samples a step at the paper's rate."""
    recipe = _recipe("antithetic", 2e-3, 75, train_batch_size=2, **(options or {}))
    return replace(recipe, name=f"pairs, {what}", **values)


PAPER = replace(_recipe("independent", 2e-3, 0, 25, 50, 100), name="paper")
RECIPES = (
    PAPER,
    _recipe("antithetic", 2e-3, 25, 50, 75),
    _recipe("antithetic", 3e-3, 25, 50),
    _recipe("antithetic", 2e-3, 50, 75, 100, train_batch_size=2),
    _recipe("antithetic", 2e-3, 50, 75, 100, train_batch_size=2, preserve_norm=True),
    _recipe("antithetic", 3e-3, 50, 75, train_batch_size=2),
    _recipe("antithetic", 5e-3, 15, 25, 50),
    _recipe("antithetic", 1e-2, 15, 25, 50),
    _recipe("independent", 2e-3, 50, 75, 100, train_batch_size=2),
    _pairs("cosine", options={"lr_scheduler": "cosine"}),
    _pairs("beta2 0.99", options={"adam_beta2": 0.99}),
    _pairs("norms preserved", options={"preserve_norm": True}),
    _pairs("mean of 10 steps", num_averaged=10),
    _pairs("less noise", timesteps=(0.0, 0.5)),
    _pairs("more noise", timesteps=(0.5, 1.0)),
)


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
            ours, theirs = (values_of(measured, *one, measure_name) for one in (row, reference))
            difference = "" if row == reference else f" ({mean_interval(ours - theirs)})"
            cells.append(f"{ours.mean():.3g}{difference}")
        samples = row[1] * _batch_size(row[0])
        lines.append(f"| {row[0]} | {row[1]} | {samples} | {' | '.join(cells)} | {_saved(measured, row, samples)} |")
    return "\n".join(lines) + "\n"


def _batch_size(name: str) -> int:
    (recipe,) = (one for one in RECIPES if one.name == name)
    return int(recipe.options.get("train_batch_size", PAPER_SETTINGS["train_batch_size"]))


def _saved(measured: Sequence[Mapping[str, Any]], row: tuple[str, int], samples: int) -> str:
    if row[0] == PAPER.name or not samples:
        return ""
    steps = sorted({int(one["step"]) for one in measured if one["setting"] == PAPER.name})
    slow = np.stack([values_of(measured, PAPER.name, step, "held_out_loss") for step in steps], axis=-1)
    needed = steps_to_equal(steps, slow, values_of(measured, *row, "held_out_loss"))
    times = PAPER_SETTINGS["train_batch_size"] / samples
    return str(Interval(*(times * value for value in (needed.value, needed.low, needed.high))))


def main() -> None:
    """Parse, run; print the table."""
    names = [recipe.name for recipe in RECIPES]
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
    experiment = set_up(ReproduceArguments(images=str(images), num_concepts=options.num_concepts, **DRAWN))
    describers = Describers(DescriberConfig(captioner=str(TOYBOX / "captioner")))
    words = {
        one.placeholder_token: propose_initializer(
            pictures_of(one)[0], "caption", pipe=experiment.pipe, describers=describers
        ).text
        for one in experiment.concepts
    }
    describers.release()
    measured = []
    for seed in options.seeds:
        for recipe in (one for one in RECIPES if one.name in options.settings):
            folder = options.output_dir / "runs" / f"seed-{seed}" / recipe.name
            measured += run_recipe(experiment, recipe, words, seed, folder)
            write_atomically(options.output_dir / "results.json", json.dumps(measured, indent=1).encode())
    write_atomically(options.output_dir / "table.md", table(measured).encode())
    print((options.output_dir / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
