"""Means over concepts and seeds, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 10_000
LEVEL = 0.95


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


def mean_interval(values: np.ndarray) -> Interval:
    """Return the mean over concepts and seeds, ``(num_concepts, num_seeds)``."""
    return interval_of(float(values.mean()), resampled_means(values))


def resampled_means(values: np.ndarray) -> np.ndarray:
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


def interval_of(value: float, resampled: np.ndarray) -> Interval:
    """Return the interval that holds 95 % of the resampled values."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail), method="nearest")  # infinities cannot be interpolated
    return Interval(value, float(low), float(high))


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


def _short(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value if abs(value) > 1e-12 else 0:.3g}"  # sums of zero
