"""Measurements -> tables, figures and a report that says what holds and what does not."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from diffusers_supreme_init import versions, write_atomically
from diffusers_supreme_init.metrics import Interval, mean_interval

from .figures import ABLATION, STARTS, plot_curves
from .runs import Measurement
from .settings import AUTO, BEYOND, CAPTION, CLASS, FOLLOWED, PAPER, STAR, STARS, Group
from .statistics import Curves, curves_of, speedup, steps_in_runs, steps_of_mean

LOSS = "validation_loss"
LOSS_LABEL = "fixed-noise denoising loss (MSE of latents)"
ORDER_STEP = 30
RATIOS = ((STAR, CAPTION), (STAR, CLASS), (STARS, CAPTION), (STAR, STARS), (STAR, AUTO))
PAPER_FIGURES = (("3", "6"), ("4", "7"), ("5", "8"))
"""Of the starts and of the ablation: loss, LPIPS, SIFID in the paper; here the loss and the first two metrics."""


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
        _training(measurements, facts, folder),
        _pictures(measurements, facts, curves.steps[-1]),
        _beyond(measurements, facts),
        _words(measurements),
    ]
    return write_atomically(folder / "report.md", ("\n\n".join(part for part in parts if part) + "\n").encode())


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
        f"its last step, {last}; 0: it begins there. Seconds are those steps times {wall:.3f} s, a step of a run of "
        f"20 steps of one concept alone, its setup included ({processor:.3f} s of processor time). The last columns "
        "look at each concept and seed by itself.\n",
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
    """Draw the loss and the first two metrics as the paper's figures 3 to 8, all others in a figure of their own."""
    measured = {LOSS: LOSS_LABEL, **{f"reconstruction/{name}": label for name, label in facts.labels.items()}}
    lines, numbers = ["## Figures, numbered as in the paper"], iter(PAPER_FIGURES)
    for metric, label in measured.items():
        curves = _complete_curves(measurements, PAPER, metric)
        if curves is None:
            continue
        name = metric.rpartition("/")[2]
        of_starts, of_ablation = next(numbers, (None, None))
        wanted = [
            (f"figure_{of_starts}_{name}", STARTS, "Starts"),
            (f"figure_{of_ablation}_{name}", ABLATION, "Ablation"),
        ]
        for file_name, settings, title in (
            wanted if of_starts else [(f"figure_{name}", PAPER.settings, "All settings")]
        ):
            plot_curves(curves, settings, label, title, folder / f"{file_name}.png")
            lines.append(f"![{title}: {label}]({file_name}.png)")
    return "\n\n".join(lines)


def _training(measurements: Sequence[Measurement], facts: Facts, folder: Path) -> str:
    """Say what training adds to the caption's words, in the followed groups; draw their curves."""
    lines = [
        "## What training adds to the caption's words\n\nPictures of the caption alone, and of its rows after "
        "training; differences are paired, with their intervals, bold where told apart from none.\n",
        "| settings | steps | measured | untrained | trained | difference |",
        "|:---|---:|:---|---:|---:|---:|",
    ]
    for group in FOLLOWED:
        step = _last_step(measurements, group, facts)
        for name in _picture_metrics(facts):
            before = _values(measurements, PAPER.name, CAPTION.name, name, 0)
            after = _values(measurements, group.name, CAPTION.name, name, step)
            if before is not None and after is not None:
                difference = _difference(mean_interval(after - before))
                cells = (group.label, str(step), name, f"{before.mean():.3f}", f"{after.mean():.3f}", difference)
                lines.append(f"| {' | '.join(cells)} |")
    return "\n\n".join(["\n".join(lines), *_followed_figures(measurements, facts, folder)])


def _followed_figures(measurements: Sequence[Measurement], facts: Facts, folder: Path) -> list[str]:
    lines = []
    for group in FOLLOWED:
        if group.is_paper:
            continue  # has figures of its own
        title = group.label.capitalize()
        for name, label in facts.labels.items():
            curves = _complete_curves(measurements, group, f"reconstruction/{name}")
            if curves is not None:
                path = folder / f"figure_{name}_{group.name}.png"
                plot_curves(curves, group.settings, label, title, path)
                lines.append(f"![{title}: {label}]({path.name})")
    return lines


def _last_step(measurements: Sequence[Measurement], group: Group, facts: Facts) -> int:
    """Return the last step of a group, or of the paper's the one that the others are compared with."""
    return min(facts.steps_beyond, max((one.step for one in measurements if one.group == group.name), default=0))


def _pictures(measurements: Sequence[Measurement], facts: Facts, last: int) -> str:
    asked = [(CAPTION, 0), *((setting, step) for step in (facts.steps_beyond, last) for setting in PAPER.settings)]
    columns = {
        name: [_values(measurements, PAPER.name, setting.name, name, step) for setting, step in asked]
        for name in _picture_metrics(facts)
    }
    columns = {name: values for name, values in columns.items() if any(one is not None for one in values)}
    lines = [
        "## What the pictures show\n\nMeans over concepts and seeds. Reconstruction: pictures of the paper's three "
        "prompts. Editing: pictures of prompts that ask for something else. The first row is the caption without any "
        "training.\n"
    ]
    lines += [f"- `{name}`: {label}" for name, label in facts.labels.items()]
    lines += ["", "| setting | step | " + " | ".join(columns) + " |", "|:---|---:|" + "---:|" * len(columns)]
    for row, (setting, step) in enumerate(asked):
        label = f"{setting.label}, untrained" if step == 0 else setting.label
        chosen = [values[row] for values in columns.values()]
        cells = ["" if one is None else f"{one.mean():.3f}" for one in chosen]
        lines.append(f"| {label} | {step} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _complete_curves(measurements: Sequence[Measurement], group: Group, metric: str) -> Curves | None:
    """Return the curves of a metric, or None if it was not measured for every setting and concept."""
    curves = curves_of(measurements, group.name, metric)
    complete = [one for one in curves.values.values() if not np.isnan(one).any()]
    return curves if len(complete) == len(group.settings) else None


def _picture_metrics(facts: Facts) -> list[str]:
    return [f"{kind}/{name}" for kind in ("reconstruction", "editing") for name in facts.labels]


def _beyond(measurements: Sequence[Measurement], facts: Facts) -> str:
    measured = {(one.group, one.setting) for one in measurements}
    rows = [(group, one) for group in BEYOND for one in group.settings if (group.name, one.name) in measured]
    if not rows:
        return ""
    metrics = [LOSS, "held_out_loss", *_picture_metrics(facts)]
    metrics = [name for name in metrics if any(one.metric == name and one.group != PAPER.name for one in measurements)]
    lines = [
        "## Beyond the paper\n\nEach row is compared with the run of the same start in the paper's settings after "
        f"{facts.steps_beyond} steps; cells are paired differences with their intervals, bold where told apart from "
        "none. `validation_loss` is measured on the picture that was trained on, without masks, `held_out_loss` on a "
        "picture of the same object that no run has seen.\n",
        "| what | steps | start | " + " | ".join(metrics) + " |",
        "|:---|---:|:---|" + "---:|" * len(metrics),
    ]
    for group, setting in rows:
        same_words = next(one for one in PAPER.settings if one.words == setting.words)
        start = setting if setting in PAPER.settings else same_words
        cells, step = [], _last_step(measurements, group, facts)
        for metric in metrics:
            own = _values(measurements, group.name, setting.name, metric, step)
            usual = _values(measurements, PAPER.name, start.name, metric, facts.steps_beyond)
            cells.append("" if own is None or usual is None else _difference(mean_interval(own - usual)))
        what = group.label if setting == start else f"{group.label}: {setting.label}"
        lines.append(f"| {what} | {step} | {start.label} | " + " | ".join(cells) + " |")
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


def _values(
    measurements: Sequence[Measurement], group: str, setting: str, metric: str, step: int
) -> np.ndarray | None:
    """Return ``(num_concepts, num_seeds)``, or None if it was not measured for every concept and seed.

    A prompt that happens to name a background for a single concept says nothing of the others.
    """
    wanted = {(one.concept, one.seed) for one in measurements if one.group == PAPER.name}
    chosen = [
        one for one in measurements if (one.group, one.setting, one.metric, one.step) == (group, setting, metric, step)
    ]
    if {(one.concept, one.seed) for one in chosen} != wanted:
        return None
    return curves_of(chosen, group, metric).values[setting][..., 0]


def _difference(interval: Interval) -> str:
    text = f"{interval.value:+.2g} [{interval.low:+.2g}, {interval.high:+.2g}]"
    return f"**{text}**" if interval.excludes_zero else text


def _loss_interval(interval: Interval) -> str:
    return f"{interval.value:+.5f} [{interval.low:+.5f}, {interval.high:+.5f}]"


def _number(value: float, digits: int) -> str:
    return "never" if np.isinf(value) else f"{value:.{digits}f}"


def _share(chosen: np.ndarray) -> str:
    return f"{int(chosen.sum())} of {chosen.size}"
