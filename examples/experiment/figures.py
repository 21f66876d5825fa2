"""Measurements -> the paper's figures, with spread, in colors that anybody can tell apart."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from diffusers_supreme_init.metrics import mean_interval

from .settings import AUTO, CAPTION, CLASS, STAR, STARS, Setting
from .statistics import Curves

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLORS = {  # Okabe and Ito's, distinguishable with any colour vision
    "star": "#d55e00",
    "class": "#e69f00",
    "stars": "#cc79a7",
    "caption": "#0072b2",
    "auto": "#009e73",
}
MARKERS = {"star": "o", "class": "s", "stars": "^", "caption": "D", "auto": "v"}
STARTS, ABLATION = (STAR, CLASS, CAPTION, AUTO), (STAR, STARS, CAPTION)


def plot_curves(curves: Curves, settings: Sequence[Setting], label: str, title: str, path: Path) -> None:
    """Draw the mean of each setting, and beside it the paired difference to ``"*"``; bands are 95 % intervals.

    Concepts differ more from each other than settings do, so the bands of the means overlap where the differences are
    clear: every concept and seed is its own control.
    """
    shown = [setting for setting in settings if setting.name in curves.values]
    figure, (means, differences) = plt.subplots(1, 2, figsize=(10, 4.5), constrained_layout=True)
    for setting in shown:
        values = curves.values[setting.name]
        _draw(means, curves.steps, values, setting, with_band=False)
        _draw(differences, curves.steps, values - curves.values[STAR.name], setting, with_band=setting != STAR)
    if CAPTION in shown and curves.steps[0] == 0:
        untrained = curves.values[CAPTION.name][..., 0].mean()
        means.axhline(
            untrained, color=COLORS["caption"], linestyle=":", linewidth=1.2, label=f"{CAPTION.label}, untrained"
        )
    num_concepts, num_seeds = values.shape[:2]
    means.set_ylabel(label)
    differences.set_ylabel('difference to the run from "*"')
    means.set_title("mean over concepts and seeds")
    differences.set_title("paired difference, 95 % interval")
    for axes in (means, differences):
        axes.set_xlabel("optimizer steps")
        axes.set_xscale("symlog", linthresh=10, linscale=0.6)
        axes.set_xticks(ticks := _ticks(curves.steps), [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    differences.axhline(0, color="0.4", linewidth=0.8)
    figure.legend(*means.get_legend_handles_labels(), loc="outside lower center", ncols=len(shown), frameon=False)
    seeds = "one seed" if num_seeds == 1 else f"{num_seeds} seeds"
    figure.suptitle(f"{title} ({num_concepts} concepts, {seeds})")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw(axes: Axes, steps: Sequence[int], values: np.ndarray, setting: Setting, *, with_band: bool) -> None:
    color, marker = COLORS[setting.name], MARKERS[setting.name]
    axes.plot(
        steps, values.mean(axis=(0, 1)), marker=marker, color=color, label=setting.label, markersize=4, linewidth=1.5
    )
    if with_band:
        intervals = [mean_interval(values[..., index]) for index in range(len(steps))]
        axes.fill_between(
            steps,
            [one.low for one in intervals],
            [one.high for one in intervals],
            color=color,
            alpha=0.15,
            linewidth=0,
        )


def _ticks(steps: Sequence[int]) -> list[int]:
    return [step for step in (0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if step <= steps[-1]]
