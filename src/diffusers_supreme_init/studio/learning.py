"""A lesson -> a learned word, step by step: losses and previews while it trains, and a checkpoint to go on from."""

import contextlib
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..config import SupremeInitConfig
from ..describers import Region
from ..errors import ConfigError, TrainingError
from ..file_names import RECORD_NAME, REPORT_NAME
from ..files import json_bytes, write_atomically
from ..templates import VALIDATION_TEMPLATE, fill_template
from ..trainer import SupremeInitTextualInversionTrainer
from ..training.checkpoint import find_checkpoint
from .drawing import draw_one
from .messages import VisitorError, as_sentence, heard
from .pointing import as_mask
from .settings import MAX_STEPS, NUM_PREVIEWS, PREVIEW_SIDE, StudioSettings
from .visits import Learned, Lesson, Visit, is_here
from .words import check_words_fit, named, read_words


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What happened since the moment before.

    Attributes:
        doing: What is being done now, for reading.
        step: Steps made, in all.
        losses: Losses of the steps since then.
        before: Pictures of the words alone; None: not drawn at this moment.
        after: Pictures of the learned word; None: not drawn at this moment.
        notices: What the package reported.
        validation: Mean fixed-noise losses, once the call is over; None before.
    """

    doing: str
    step: int
    losses: tuple[float, ...] = ()
    before: tuple[Image.Image, ...] | None = None
    after: tuple[Image.Image, ...] | None = None
    notices: tuple[str, ...] = ()
    validation: dict[int, float] | None = None


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


Train = Callable[[Lesson, Path, int], Iterator[Moment]]


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
        picture=visit.picture,
        mask=visit.mask,
        settings={**settings.training, **chosen},
        preview_every=int(preview_every),
    )
    _config_of(lesson, visit.folder, int(steps))  # checks the values
    return Learned(lesson, target=int(steps))


def learn(train: Train, visit: Visit, learned: Learned) -> Iterator[Watched]:
    """Train until the target or a stop, in as many calls as the host needs, and yield what there is to see.

    Args:
        train: `trainer_of`, perhaps with a GPU of its own for each call.
        visit: The visitor, who gets the result.
        learned: The run: a new one, or one that goes on.
    """
    visit.stop_file.unlink(missing_ok=True)
    if learned.steps == 0:
        for folder in (visit.run, visit.result):
            shutil.rmtree(folder, ignore_errors=True)
    visit.learned = learned
    notices: dict[str, None] = {}
    while True:
        first, began = learned.steps, time.monotonic()
        before_call = learned.seconds
        for moment in train(learned.lesson, visit.folder, learned.target):
            _take(visit, learned, moment)
            learned.seconds = before_call + time.monotonic() - began
            notices |= dict.fromkeys(moment.notices)
            made, remaining = learned.steps - first, learned.target - learned.steps
            left = (time.monotonic() - began) / made * remaining if made else None
            yield Watched(doing=moment.doing, learned=learned, seconds_left=left, notices=tuple(notices))
        learned.is_saved = True
        has_ended = learned.steps >= learned.target or learned.steps == first or visit.stop_file.exists()
        if has_ended or not is_here(visit.folder):
            break
    yield Watched(doing="", learned=learned, is_over=True, notices=tuple(notices))


def trainer_of(settings: StudioSettings) -> Train:
    """Return the function that trains: from the checkpoint if there is one, up to a step, saving what it learned.

    Everything that it needs is in its arguments and in a folder, so that it can run in another process.
    """

    def train(lesson: Lesson, folder: Path, target: int) -> Iterator[Moment]:
        moments: queue.SimpleQueue[Moment | BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                with settings.using_model:
                    _Call(settings, lesson, folder, target, moments.put).run()
            except BaseException as error:  # raised again by whoever reads the moments
                moments.put(error)
            finally:
                if not is_here(folder):  # the visitor has left, and the files were deleted before
                    shutil.rmtree(folder, ignore_errors=True)
                moments.put(None)

        threading.Thread(target=work, name="supreme-init-training", daemon=True).start()
        try:
            while (moment := moments.get()) is not None:
                if isinstance(moment, BaseException):
                    raise moment
                yield moment
        except GeneratorExit:  # the page was closed: the step that is running ends, and is saved
            if is_here(folder):
                (folder / "stop").touch()
            raise

    return train


def reporter_of(settings: StudioSettings) -> Callable[[Lesson, Path, int, float], Path]:
    """Return the function that writes the command's report on a run that has ended.

    The run is taken up again at its last step, and makes no further one.
    """

    def report(lesson: Lesson, folder: Path, steps: int, seconds: float) -> Path:
        config, target = _config_of(lesson, folder, steps), folder / "report"
        if find_checkpoint(config) is None:
            raise VisitorError("The run broke off, so there is nothing to report on.")
        with settings.using_model, heard():
            trainer = _trainer(settings, lesson, config)
            with _tidied(trainer):
                trainer.train()
                trainer.save(target, overwrite=True)
                record = json.loads((target / RECORD_NAME).read_text(encoding="utf-8"))
                write_atomically(target / RECORD_NAME, json_bytes(record | {"seconds": seconds}))
                trainer.write_report(
                    target, prompts=settings.report_prompts, model=settings.model, **settings.sampling
                )
        return target / REPORT_NAME

    return report


@dataclass
class _Call:
    """One call of training, in a thread of its own."""

    settings: StudioSettings
    lesson: Lesson
    folder: Path
    target: int
    tell: Callable[[Moment], None]
    began: float = field(default_factory=time.monotonic)
    losses: list[float] = field(default_factory=list)

    def run(self) -> None:
        config = _config_of(self.lesson, self.folder, self.target)
        with heard() as notices:
            if find_checkpoint(config) is None:
                self._draw_words_alone()
            trainer = _trainer(self.settings, self.lesson, config)
            with _tidied(trainer):
                self._train(trainer, notices)
                self._save(trainer, notices)

    def _draw_words_alone(self) -> None:
        self.tell(Moment(doing="Drawing what the words alone give", step=0))
        prompt = fill_template(VALIDATION_TEMPLATE, self.lesson.words, self.lesson.words)
        before = tuple(draw_one(self.settings, prompt, seed) for seed in range(NUM_PREVIEWS))
        self.tell(Moment(doing="Looking at the picture", step=0, before=before))

    def _train(self, trainer: SupremeInitTextualInversionTrainer, notices: list[str]) -> None:
        lesson = self.lesson
        prompt = fill_template(VALIDATION_TEMPLATE, lesson.token, lesson.words)

        def after_step(step: int, losses: Mapping[str, float]) -> None:
            self.losses.append(losses[lesson.token])
            after = None
            if step % lesson.preview_every == 0 or step == self.target:
                options = self.settings.sampling
                after = tuple(trainer.draw([prompt], seed=seed, **options)[0] for seed in range(NUM_PREVIEWS))
            self.tell(Moment(doing="Learning", step=step, losses=self._taken(), after=after))
            limit = self.settings.seconds_per_call
            is_late = limit is not None and time.monotonic() - self.began > limit
            if is_late or not is_here(self.folder) or (self.folder / "stop").exists():
                trainer.stop()

        try:
            trainer.train(after_step)
        except TrainingError as error:
            if not trainer.results:
                raise
            notices.append(as_sentence(str(error)))  # it diverged; the last good rows are there

    def _save(self, trainer: SupremeInitTextualInversionTrainer, notices: list[str]) -> None:
        (result,) = trainer.results
        self.tell(Moment(doing="Saving", step=result.step))
        trainer.save(self.folder / "result", overwrite=True)
        losses = result.mean_validation_losses()
        self.tell(Moment(doing="Done", step=result.step, notices=tuple(notices), validation=losses))

    def _taken(self) -> tuple[float, ...]:
        losses, self.losses = tuple(self.losses), []
        return losses


def _trainer(
    settings: StudioSettings, lesson: Lesson, config: SupremeInitConfig
) -> SupremeInitTextualInversionTrainer:
    return SupremeInitTextualInversionTrainer(
        settings.pipe,
        lesson.picture,
        lesson.token,
        lesson.words,
        region=None if lesson.mask is None else Region(mask=as_mask(lesson.mask)),
        config=config,
    )


@contextlib.contextmanager
def _tidied(trainer: SupremeInitTextualInversionTrainer) -> Iterator[None]:
    """Take the learned word off the pipeline again, and give the graphics card's memory back."""
    try:
        yield
    finally:
        if trainer.results:
            trainer.pipe.unload_multitoken_inversion([one.placeholder_token for one in trainer.results])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _config_of(lesson: Lesson, folder: Path, target: int) -> SupremeInitConfig:
    run = folder / "run"
    try:
        return SupremeInitConfig(
            **{
                "validation_steps": ["0", f"every:{lesson.preview_every}"],
                **lesson.settings,
                "max_train_steps": target,
                "checkpointing_steps": target,  # the last step's; a stop writes its own
                "resume_from_checkpoint": "latest",
                "output_dir": str(run),
            }
        )
    except ConfigError as error:
        name, _, expected = str(error).partition(": ")
        raise VisitorError(f"{name.replace('_', ' ').capitalize()}: {expected}.") from error


def _take(visit: Visit, learned: Learned, moment: Moment) -> None:
    learned.steps = max(learned.steps, moment.step)
    learned.losses += moment.losses
    if moment.before is not None:
        learned.before = _shown(visit, moment.before, "words-alone")
    if moment.after is not None:
        learned.after = _shown(visit, moment.after, f"learned-{moment.step}")
    if moment.validation is not None:
        learned.validation = moment.validation


def _shown(visit: Visit, pictures: tuple[Image.Image, ...], name: str) -> tuple[str, ...]:
    """Return paths of pictures, enlarged to whole multiples of their pixels if they are small."""
    factor = max(1, PREVIEW_SIDE // max(pictures[0].size))
    size = (pictures[0].width * factor, pictures[0].height * factor)
    return tuple(visit.show(picture.resize(size, Image.Resampling.BICUBIC), name) for picture in pictures)


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | float) and number == int(number)
