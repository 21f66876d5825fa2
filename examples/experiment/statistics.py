"""Measurements -> curves, steps needed, ratios with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusers_supreme_init.metrics import (
    NUM_RESAMPLES,
    Interval,
    interval_of,
    resampled_means,
    steps_to_reach,
)

from .runs import Measurement


@dataclass(frozen=True)
class Curves:
    """One metric of several settings of one group.

    Attributes:
        steps: Where it was measured, ascending.
        values: ``{setting: (num_concepts, num_seeds, num_steps)}``, concepts and seeds in the same order for all.
    """

    steps: tuple[int, ...]
    values: dict[str, np.ndarray]


def curves_of(measurements: Sequence[Measurement], group: str, metric: str) -> Curves:
    """Arrange the measurements of one metric; only steps that every setting has are kept, NaN is where one lacks."""
    chosen = [one for one in measurements if one.group == group and one.metric == metric]
    concepts = list(dict.fromkeys(one.concept for one in chosen))
    seeds = sorted({one.seed for one in chosen})
    settings = list(dict.fromkeys(one.setting for one in chosen))
    of_settings = [{one.step for one in chosen if one.setting == name} for name in settings]
    steps = sorted(set.intersection(*of_settings)) if of_settings else []
    values = {name: np.full((len(concepts), len(seeds), len(steps)), np.nan) for name in settings}
    for one in chosen:
        if one.step in steps:
            at = concepts.index(one.concept), seeds.index(one.seed), steps.index(one.step)
            values[one.setting][at] = one.value
    return Curves(tuple(steps), values)


def steps_of_mean(curves: Curves, setting: str, target: str) -> float:
    """Return after how many steps a setting's mean curve is at the last loss of another's."""
    goal = curves.values[target][..., -1].mean()
    return steps_to_reach(curves.steps, curves.values[setting].mean(axis=(0, 1)), float(goal))


def speedup(curves: Curves, slow: str, fast: str, target: str) -> Interval:
    """Return how many times fewer steps `fast` needs than `slow` to reach the last loss of `target`, by mean curves.

    A curve that begins at or below that loss needs no step; it is counted as one, so that a ratio exists and does not
    flatter. It is infinite where `slow` never gets there, and 0 where `fast` does not.
    """
    resampled = {name: resampled_means(curves.values[name]) for name in {slow, fast, target}}
    found = [
        _ratio(curves.steps, resampled[slow][index], resampled[fast][index], float(resampled[target][index, -1]))
        for index in range(NUM_RESAMPLES)
    ]
    means = {name: curves.values[name].mean(axis=(0, 1)) for name in {slow, fast, target}}
    return interval_of(_ratio(curves.steps, means[slow], means[fast], float(means[target][-1])), np.array(found))


def steps_to_equal(steps: Sequence[int], losses: np.ndarray, goals: np.ndarray) -> Interval:
    """Return after how many steps a mean curve is as low as the mean of other runs; infinity: it does not get there.

    Args:
        steps: Where the curve was measured, ascending.
        losses: ``(num_concepts, num_seeds, num_steps)``.
        goals: ``(num_concepts, num_seeds)``, of the same concepts and seeds.
    """
    curves, targets = resampled_means(losses), resampled_means(goals)
    found = [steps_to_reach(steps, curve, float(goal)) for curve, goal in zip(curves, targets, strict=True)]
    return interval_of(steps_to_reach(steps, losses.mean(axis=(0, 1)), float(goals.mean())), np.array(found))


def steps_in_runs(curves: Curves, setting: str, target: str) -> np.ndarray:
    """Return the steps that each run needs to reach the last loss of the `target` run of its concept and seed.

    Returns:
        ``(num_concepts, num_seeds)``, 0 where it begins there, infinity where it never gets there.
    """
    own, last = curves.values[setting], curves.values[target][..., -1]
    return np.array(
        [
            [steps_to_reach(curves.steps, own[c, s], last[c, s]) for s in range(own.shape[1])]
            for c in range(own.shape[0])
        ]
    )


def _ratio(steps: Sequence[int], slow: np.ndarray, fast: np.ndarray, goal: float) -> float:
    needed_slow, needed_fast = (max(steps_to_reach(steps, curve, goal), 1.0) for curve in (slow, fast))
    if np.isinf(needed_slow) and np.isinf(needed_fast):
        return 1.0  # neither gets there within the steps that were made
    return needed_slow / needed_fast
