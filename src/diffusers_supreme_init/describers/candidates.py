"""Candidate descriptions of a concept, and which of them is best by the losses of the untouched model."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .wording import tells_surroundings

_LABEL_MARGIN = 2.0
"""Standard errors by which a class label has to be ahead of captions."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Words that a concept could start from.

    Attributes:
        text: The words.
        source: ``"class"``, ``"caption"``, ``"refined caption"`` or ``"text"`` (the user's own).
        raw: The uncleaned answer of the describer, or of the refiner for a refined caption.
        score: The describer's own score, see `Description`; None for the user's text and for refined captions.
        removed: Boilerplate that was removed from `raw`.
        num_cut: Number of tokens that were cut because they do not fit.
        losses: Fixed-noise losses of the untouched model, one per noise; empty if there was nothing to choose.
    """

    text: str
    source: str
    raw: str
    score: float | None = None
    removed: tuple[str, ...] = ()
    num_cut: int = 0
    losses: tuple[float, ...] = field(default=(), repr=False)

    @property
    def loss(self) -> float | None:
        """Mean of `losses`."""
        return sum(self.losses) / len(self.losses) if self.losses else None


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The candidates for one concept.

    Attributes:
        usable: Candidates with different texts, in the order in which they were found, or `ranked`.
        notes: Why an answer was refused or a describer failed, one line each.
        num_tied: Number of leading candidates that the noises cannot tell apart; 0 before they were compared.
    """

    usable: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()
    num_tied: int = 0


def ranked(candidates: Candidates, losses: Sequence[Sequence[float]], *, object_alone: bool = False) -> Candidates:
    """Return the candidates with their fixed-noise losses; training starts from the first.

    A candidate is tied with the best if its mean loss is at most one standard error of the paired differences above
    it: other noises could have swapped the two. Tied candidates come first: those that do not mention surroundings
    before the rest, otherwise in the order in which they were found. The others follow by their loss.

    A class label has to be ahead of all other words by more than two standard errors. It is a row or two, which learn
    far less than a caption's (``docs/initializers.md``), so a little luck with the noises should not decide for it.

    Args:
        candidates: In the order in which they were found.
        losses: One loss per noise for each candidate, over the same noises, in pairs of opposite ones.
        object_alone: Whether words that mention surroundings are passed over as long as others have finite losses.
            Told the surroundings, a denoiser predicts the object better as well, so a low loss is no reason to take
            them into the words of the object.
    """
    scored = [replace(c, losses=tuple(values)) for c, values in zip(candidates.usable, losses, strict=True)]
    finite = [one for one in scored if math.isfinite(finite_loss(one))]
    passed_over = [one for one in finite if object_alone and tells_surroundings(one.text)]
    compared = [one for one in finite if one not in passed_over] or scored
    compared = _without_doubtful_labels(compared)
    best = min(compared, key=finite_loss)
    tied = [one for one in compared if _is_tied(one, best)]
    tied.sort(key=lambda one: tells_surroundings(one.text))
    others = sorted((one for one in scored if one not in tied), key=finite_loss)
    return replace(candidates, usable=(*tied, *others), num_tied=len(tied))


def paired_difference(losses: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard error of losses minus others over the same noises; infinity for a single pair.

    The losses of opposite noises, 2k and 2k + 1, are one measurement: their errors are not independent.
    """
    every = [a - b for a, b in zip(losses, others, strict=True)]
    differences = [statistics.fmean(every[first : first + 2]) for first in range(0, len(every), 2)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    return statistics.fmean(every), error


def _without_doubtful_labels(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Leave out class labels that are not clearly ahead of all other words, unless there are no others."""
    others = [one for one in candidates if one.source != "class"]
    if not others:
        return list(candidates)
    best = min(others, key=finite_loss)
    return [one for one in candidates if one.source != "class" or not _is_tied(best, one, _LABEL_MARGIN)]


def _is_tied(candidate: Candidate, best: Candidate, num_errors: float = 1.0) -> bool:
    """Whether a loss is at most so many standard errors of the paired differences above another."""
    if not math.isfinite(finite_loss(candidate)):
        return False
    mean, error = paired_difference(candidate.losses, best.losses)
    return mean <= num_errors * error


def finite_loss(candidate: Candidate) -> float:
    """Return a candidate's loss; infinity if it has none, or none that is a number."""
    return candidate.loss if candidate.loss is not None and math.isfinite(candidate.loss) else math.inf
