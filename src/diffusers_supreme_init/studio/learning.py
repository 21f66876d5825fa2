"""A lesson -> a learned word, in as many calls as the host needs; what there is to see after each step."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .lessons import Moment, Train, config_of
from .messages import VisitorError
from .settings import MAX_STEPS, PREVIEW_SIDE, StudioSettings
from .visits import Learned, Lesson, Visit, is_here
from .words import check_words_fit, named, read_words


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What the page shows of a run.

    Attributes:
        doing: See `Moment`.
        learned: What was learned so far.
        seconds_left: Until the last step; None before the first.
        is_over: Whether nothing more will come.
        notices: What the package reported.
    """

    doing: str
    learned: Learned
    seconds_left: float | None = None
    is_over: bool = False
    notices: tuple[str, ...] = ()


def prepare(
    settings: StudioSettings,
    visit: Visit,
    *,
    name: str,
    words: str,
    steps: float,
    preview_every: float,
    learning_rate: float | None,
    train_batch_size: float,
    unmasked_weight: float,
    seed: float,
) -> Learned:
    """Check everything that a visitor asks for, and return a run that has not begun.

    Raises:
        VisitorError: A value cannot be used.
        SupremeInitError: As the trainer.
    """
    if visit.picture is None:
        raise VisitorError("Choose a picture first.")
    token = named(name)
    check_words_fit(read_words(settings, words))
    if token in visit.others:
        raise VisitorError(f"A word named {token} was added below. Choose another name.")
    if not (_is_whole(steps) and 1 <= steps <= MAX_STEPS):
        raise VisitorError(f"The number of steps has to be a whole number from 1 to {MAX_STEPS}.")
    if not (_is_whole(preview_every) and preview_every >= 1):
        raise VisitorError("Previews: expected a whole number of steps, at least 1.")
    masked = {} if visit.mask is None else {"masked_loss": True, "unmasked_weight": unmasked_weight}
    chosen = {"learning_rate": learning_rate or None, "train_batch_size": train_batch_size, "seed": seed, **masked}
    lesson = Lesson(
        token=token,
        words=words.strip(),
        proposal=None if visit.proposal is None else visit.proposal.choose(words.strip()),
        picture=visit.picture,
        mask=visit.mask,
        settings={**settings.training, **chosen},
        preview_every=int(preview_every),
        number=visit.num_lessons,
    )
    config_of(lesson, visit.folder, int(steps))  # checks the values
    visit.num_lessons += 1
    return Learned(lesson, target=int(steps))


def learn(train: Train, visit: Visit, learned: Learned) -> Iterator[Watched]:
    """Train until the target or a stop, in as many calls as the host needs, and yield what there is to see.

    The visitor keeps the word learned before until this one is saved.

    Args:
        train: `trainer_of`, perhaps with a GPU of its own for each call.
        visit: The visitor, who gets the result.
        learned: The run: a new one, or one that goes on.
    """
    visit.stop_file.unlink(missing_ok=True)
    notices: dict[str, None] = {}
    while True:
        first, began = learned.steps, time.monotonic()
        before_call = learned.seconds
        for moment in train(learned.lesson, visit.folder, learned.target):
            learned.seconds = before_call + time.monotonic() - began
            _take(visit, learned, moment)
            notices |= dict.fromkeys(moment.notices)
            made, remaining = learned.steps - first, learned.target - learned.steps
            left = (time.monotonic() - began) / made * remaining if made else None
            yield Watched(doing=moment.doing, learned=learned, seconds_left=left, notices=tuple(notices))
        visit.keep(learned)
        has_ended = learned.steps >= learned.target or learned.steps == first or visit.stop_file.exists()
        if has_ended or not is_here(visit.folder):
            break
    yield Watched(doing="", learned=learned, is_over=True, notices=tuple(notices))


def _take(visit: Visit, learned: Learned, moment: Moment) -> None:
    learned.steps = max(learned.steps, moment.step)
    learned.losses += moment.losses
    if moment.before is not None:
        learned.before = _shown(visit, moment.before, "words-alone")
    if moment.after is not None:
        learned.after = _shown(visit, moment.after, f"learned-{moment.step}")
    if moment.validation is not None:
        learned.validation = moment.validation
    if moment.seconds is not None:
        learned.seconds = moment.seconds


def _shown(visit: Visit, pictures: tuple[Image.Image, ...], name: str) -> tuple[str, ...]:
    """Return paths of pictures, enlarged to whole multiples of their pixels if they are small."""
    factor = max(1, PREVIEW_SIDE // max(pictures[0].size))
    size = (pictures[0].width * factor, pictures[0].height * factor)
    return tuple(visit.show(picture.resize(size, Image.Resampling.BICUBIC), name) for picture in pictures)


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | float) and number == int(number)
