"""Measurements -> tables, figures and a report that says what holds and what does not."""

import csv
import io
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import numpy as np
import peft
import torch
import transformers

from diffusers_supreme_init import __version__
from diffusers_supreme_init.files import write_atomically

from .figures import ABLATION, STARTS, plot_curves
from .runs import Measurement
from .settings import AUTO, CAPTION, CLASS, PAPER, STAR, STARS
from .statistics import Curves, Interval, curves_of, mean_interval, speedup, steps_in_runs, steps_of_mean

LOSS = "validation_loss"
LOSS_LABEL = "fixed-noise denoising loss (MSE of latents)"
ORDER_STEP = 30
RATIOS = ((STAR, CAPTION), (STAR, CLASS), (STARS, CAPTION), (STAR, STARS), (STAR, AUTO))
FIGURES = (("3", "6", LOSS), ("4", "7", None), ("5", "8", None))
"""Numbers of the paper's figures: of the starts, of the ablation; the metric is that of the loss or the next one."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a report tells besides measurements.

    Attributes:
        command: What made it.
        model: Name of the pipeline.
        pictures: Name of the folder of pictures.
        options: Options of training and sampling.
        labels: ``{metric: label}`` of the metrics of pictures, in order.
        seconds: See `seconds_per_step`.
        steps_beyond: Steps of the groups that are not the paper's.
    """

    command: str
    model: str
    pictures: str
    options: Mapping[str, Any]
    labels: Mapping[str, str]
    seconds: Mapping[str, float]
    steps_beyond: int


def write_report(measurements: Sequence[Measurement], facts: Facts, folder: Path) -> Path:
    """Write ``results.csv``, the figures and ``report.md``; return the report."""
    write_atomically(folder / "results.csv", _csv(measurements).encode())
    curves = curves_of(measurements, PAPER.name, LOSS)
    parts = [
        _head(measurements, facts),
        _convergence(curves, facts),
        _order(curves),
        _figures(measurements, facts, folder),
        _pictures(measurements, facts, curves.steps[-1]),
        _beyond(measurements, facts),
        _words(measurements),
    ]
    return write_atomically(folder / "report.md", ("\n\n".join(part for part in parts if part) + "\n").encode())


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    packages = (accelerate, diffusers, peft, torch, transformers)
    return {
        "python": platform.python_version(),
        "diffusers_supreme_init": __version__,
        **{package.__name__: package.__version__ for package in packages},
    }


def _csv(measurements: Sequence[Measurement]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(Measurement)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**asdict(one), "value": f"{one.value:.6g}"} for one in measurements)
    return text.getvalue()


def _head(measurements: Sequence[Measurement], facts: Facts) -> str:
    seeds = sorted({one.seed for one in measurements})
    concepts = {one.concept for one in measurements}
    options = ", ".join(f"{name} {value}" for name, value in facts.options.items())
    made_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"""# The paper's experiment

*An Image is Worth One Sentence* trains the rows of a new word from one picture, beginning with `"*"`, with a class
label or with a caption, and claims that the caption converges far faster. This page is that experiment and what it
finds.

`{facts.command}`

{len(concepts)} concepts ({facts.pictures}), seeds {", ".join(map(str, seeds))}, model {facts.model}.
{options}.
Made with {made_with}.
All figures of this page are in `results.csv`.

Every setting of a concept and seed sees the same noises, timesteps and templates at every step, so settings are
compared in pairs. Intervals are 95 % bootstrap intervals over concepts and seeds."""


def _convergence(curves: Curves, facts: Facts) -> str:
    last, wall, processor = curves.steps[-1], facts.seconds["wall"], facts.seconds["processor"]
    lines = [
        '## How much faster\n\nSteps that the mean curve of each setting needs to reach the loss that `"*"` has after '
        f"its last step, {last}; 0: it begins there. Seconds are those steps times {wall:.3f} s, a step of one "
        f"concept alone ({processor:.3f} s of processor time). The last columns look at each concept and seed by "
        "itself.\n",
        "| setting | steps | seconds | runs that begin there | median of the runs | runs that never get there |",
        "|:---|---:|---:|---:|---:|---:|",
    ]
    for setting in PAPER.settings:
        needed = steps_of_mean(curves, setting.name, STAR.name)
        runs = steps_in_runs(curves, setting.name, STAR.name)
        seconds = _number(needed * facts.seconds["wall"], 1)
        lines.append(
            f"| {setting.label} | {_number(needed, 1)} | {seconds} | {_share(runs == 0)} | "
            f"{_number(float(np.median(runs)), 1)} | {_share(np.isinf(runs))} |"
        )
    lines += [
        "\nHow many times fewer steps, with its interval. A curve that begins below the goal needs no step at all and "
        "is counted with one: such a ratio is a lower bound. ∞: the slower one does not get there within the steps "
        "made; 0: the other does not.\n",
        "| compared | times fewer steps |",
        "|:---|---:|",
    ]
    for slow, fast in RATIOS:
        lines.append(f"| {fast.label} against {slow.label} | {speedup(curves, slow.name, fast.name, STAR.name)} |")
    return "\n".join(lines)


def _order(curves: Curves) -> str:
    at = curves.steps.index(ORDER_STEP) if ORDER_STEP in curves.steps else len(curves.steps) - 1
    losses = {setting: curves.values[setting.name][..., at] for setting in (CAPTION, CLASS, STARS, STAR)}
    steps = f"after {curves.steps[at]} steps"
    told = " < ".join(
        f"{setting.label} ({values.mean():.5f})"
        for setting, values in sorted(losses.items(), key=lambda x: x[1].mean())
    )
    lines = [
        f"## Which is ahead {steps}\n\nMean loss {steps}: {told}.\n",
        "| difference | loss | is told apart |",
        "|:---|---:|:---|",
    ]
    for low, high in ((CAPTION, CLASS), (CLASS, STAR), (CAPTION, STARS), (STARS, STAR)):
        difference = mean_interval(losses[low] - losses[high])
        verdict = (
            ("yes: the first is lower" if difference.high < 0 else "yes: the first is higher")
            if difference.excludes_zero
            else "no"
        )
        lines.append(f"| {low.label} minus {high.label} | {_loss_interval(difference)} | {verdict} |")
    first = {setting: curves.values[setting.name][..., 0].mean() for setting in PAPER.settings}
    final = {setting: curves.values[setting.name][..., -1].mean() for setting in PAPER.settings}
    lines += ["", "| setting | before training | " + f"{steps} | after {curves.steps[-1]} |", "|:---|---:|---:|---:|"]
    for setting in PAPER.settings:
        middle = curves.values[setting.name][..., at].mean()
        lines.append(f"| {setting.label} | {first[setting]:.5f} | {middle:.5f} | {final[setting]:.5f} |")
    return "\n".join(lines)


def _figures(measurements: Sequence[Measurement], facts: Facts, folder: Path) -> str:
    lines = ["## Figures, numbered as in the paper"]
    metrics = iter(facts.labels.items())
    for of_starts, of_ablation, metric in FIGURES:
        name, label = (metric, LOSS_LABEL) if metric else next(metrics, (None, ""))
        if name is None:
            continue
        curves = curves_of(measurements, PAPER.name, name if metric else f"reconstruction/{name}")
        for number, settings, title in ((of_starts, STARTS, "Starts"), (of_ablation, ABLATION, "Ablation")):
            file_name = f"figure_{number}_{name}.png"
            plot_curves(curves, settings, label, title, folder / file_name)
            lines.append(f"![figure {number}: {label}]({file_name})")
    return "\n\n".join(lines)


def _pictures(measurements: Sequence[Measurement], facts: Facts, last: int) -> str:
    names = sorted(
        {one.metric for one in measurements if "/" in one.metric},
        key=lambda name: (name.split("/")[0] != "reconstruction", name),
    )
    lines = [
        "## What the pictures show\n\nMeans over concepts and seeds. Reconstruction: pictures of the paper's three "
        "prompts. Editing: pictures of prompts that ask for something else. The first row is the caption without any "
        "training.\n"
    ]
    lines += [f"- `{name}`: {facts.labels[name.split('/')[1]]}" for name in names if name.startswith("reconstruction")]
    lines += ["", "| setting | step | " + " | ".join(names) + " |", "|:---|---:|" + "---:|" * len(names)]
    asked = [(CAPTION, 0), *((setting, step) for step in (facts.steps_beyond, last) for setting in PAPER.settings)]
    for setting, step in asked:
        label = f"{setting.label}, untrained" if step == 0 else setting.label
        values = [_values(measurements, PAPER.name, setting.name, name, step) for name in names]
        cells = ["" if not len(one) else f"{one.mean():.3f}" for one in values]
        lines.append(f"| {label} | {step} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _beyond(measurements: Sequence[Measurement], facts: Facts) -> str:
    step = facts.steps_beyond
    groups = list(dict.fromkeys((one.group, one.setting) for one in measurements if one.group != PAPER.name))
    if not groups:
        return ""
    metrics = [
        LOSS,
        "held_out_loss",
        *(f"{kind}/{name}" for kind in ("reconstruction", "editing") for name in facts.labels),
    ]
    metrics = [name for name in metrics if any(one.metric == name and one.group != PAPER.name for one in measurements)]
    lines = [
        "## Beyond the paper\n\nEach row differs in one thing from the run of the same start with the experiment's "
        f"options, after {step} steps; cells are paired differences with their intervals, bold where told apart from "
        "none. `validation_loss` is measured on the picture that was trained on, without masks, `held_out_loss` on a "
        "picture of the same object that no run has seen.\n",
        "| what | start | " + " | ".join(metrics) + " |",
        "|:---|:---|" + "---:|" * len(metrics),
    ]
    for group, setting in groups:
        start = setting.split("-")[0]
        cells = []
        for metric in metrics:
            own, usual = (
                _values(measurements, g, s, metric, step) for g, s in ((group, setting), (PAPER.name, start))
            )
            cells.append("" if own.shape != usual.shape or not own.size else _difference(mean_interval(own - usual)))
        what = group if setting == start else f"{group}: {setting}"
        lines.append(f"| {what} | {start} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _words(measurements: Sequence[Measurement]) -> str:
    seed = min(one.seed for one in measurements)
    found: dict[str, dict[str, str]] = {}
    for one in measurements:
        if one.seed == seed and one.group == PAPER.name:
            found.setdefault(one.concept, {})[one.setting] = one.words
    lines = [f"## The words (seed {seed})\n", "| concept | class | caption | auto |", "|:---|:---|:---|:---|"]
    for concept, words in found.items():
        lines.append(f"| `{concept}` | {words[CLASS.name]} | {words[CAPTION.name]} | {words[AUTO.name]} |")
    return "\n".join(lines)


def _values(measurements: Sequence[Measurement], group: str, setting: str, metric: str, step: int) -> np.ndarray:
    """Return ``(num_concepts, num_seeds)``, empty if it was not measured."""
    chosen = [
        one for one in measurements if (one.group, one.setting, one.metric, one.step) == (group, setting, metric, step)
    ]
    curves = curves_of(chosen, group, metric) if chosen else None
    return np.empty((0, 0)) if curves is None else curves.values[setting][..., 0]


def _difference(interval: Interval) -> str:
    text = f"{interval.value:+.2g} [{interval.low:+.2g}, {interval.high:+.2g}]"
    return f"**{text}**" if interval.excludes_zero else text


def _loss_interval(interval: Interval) -> str:
    return f"{interval.value:+.5f} [{interval.low:+.5f}, {interval.high:+.5f}]"


def _number(value: float, digits: int) -> str:
    return "never" if np.isinf(value) else f"{value:.{digits}f}"


def _share(chosen: np.ndarray) -> str:
    return f"{int(chosen.sum())} of {chosen.size}"
