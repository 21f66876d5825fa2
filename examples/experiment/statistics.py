"""Measurements -> curves, steps needed, ratios with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .runs import Measurement

NUM_RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Curves:
    """One metric of several settings of one group.

    Attributes:
        steps: Where it was measured, ascending.
        values: ``{setting: (num_concepts, num_seeds, num_steps)}``, concepts and seeds in the same order for all.
    """

    steps: tuple[int, ...]
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % bootstrap interval over concepts and seeds."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is told apart from none."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{_short(self.value)} [{_short(self.low)}, {_short(self.high)}]"


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


def mean_interval(values: np.ndarray) -> Interval:
    """Return the mean over concepts and seeds, ``(num_concepts, num_seeds)``."""
    means = _resampled_means(values)
    return _interval(float(values.mean()), means)


def steps_to_reach(steps: Sequence[int], losses: np.ndarray, target: float) -> float:
    """Return after how many steps a curve is first at or below a target.

    Between two measurements it is taken to be straight. 0: it begins there; infinity: it never gets there.
    """
    for index, loss in enumerate(losses):
        if loss <= target:
            if index == 0:
                return float(steps[0])
            before = losses[index - 1]
            share = (before - target) / (before - loss)
            return float(steps[index - 1] + share * (steps[index] - steps[index - 1]))
    return float("inf")


def steps_of_mean(curves: Curves, setting: str, target: str) -> float:
    """Return after how many steps a setting's mean curve is at the last loss of another's."""
    goal = curves.values[target][..., -1].mean()
    return steps_to_reach(curves.steps, curves.values[setting].mean(axis=(0, 1)), float(goal))


def speedup(curves: Curves, slow: str, fast: str, target: str) -> Interval:
    """Return how many times fewer steps `fast` needs than `slow` to reach the last loss of `target`, by mean curves.

    A curve that begins at or below that loss needs no step; it is counted as one, so that a ratio exists and does not
    flatter. It is infinite where `slow` never gets there, and 0 where `fast` does not.
    """
    resampled = {name: _resampled_means(curves.values[name]) for name in {slow, fast, target}}
    found = [
        _ratio(curves.steps, resampled[slow][index], resampled[fast][index], float(resampled[target][index, -1]))
        for index in range(NUM_RESAMPLES)
    ]
    means = {name: curves.values[name].mean(axis=(0, 1)) for name in {slow, fast, target}}
    return _interval(_ratio(curves.steps, means[slow], means[fast], float(means[target][-1])), np.array(found))


def steps_to_equal(steps: Sequence[int], losses: np.ndarray, goals: np.ndarray) -> Interval:
    """Return after how many steps a mean curve is as low as the mean of other runs; infinity: it does not get there.

    Args:
        steps: Where the curve was measured, ascending.
        losses: ``(num_concepts, num_seeds, num_steps)``.
        goals: ``(num_concepts, num_seeds)``, of the same concepts and seeds.
    """
    curves, targets = _resampled_means(losses), _resampled_means(goals)
    found = [steps_to_reach(steps, curve, float(goal)) for curve, goal in zip(curves, targets, strict=True)]
    return _interval(steps_to_reach(steps, losses.mean(axis=(0, 1)), float(goals.mean())), np.array(found))


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


def _resampled_means(values: np.ndarray) -> np.ndarray:
    """Return means over concepts and seeds that were drawn anew, ``(NUM_RESAMPLES, ...)``.

    Concepts and seeds are drawn with replacement, each as a whole; the draws are the same for all settings, so that
    what varies between concepts but is common to all settings does not widen the interval of a difference or ratio.
    With one seed an interval only tells of concepts.
    """
    generator = np.random.default_rng(0)
    num_concepts, num_seeds = values.shape[:2]
    concepts = generator.integers(num_concepts, size=(NUM_RESAMPLES, num_concepts, 1))
    seeds = generator.integers(num_seeds, size=(NUM_RESAMPLES, 1, num_seeds))
    return values[concepts, seeds].mean(axis=(1, 2))


def _interval(value: float, resampled: np.ndarray) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail), method="nearest")  # infinities cannot be interpolated
    return Interval(value, float(low), float(high))


def _short(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value if abs(value) > 1e-12 else 0:.3g}"  # sums of zero
