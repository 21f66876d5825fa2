"""One call of training: from the checkpoint in a folder, if there is one, to a step, a stop or the end of its time.

What a call needs is in its arguments and in that folder, so that it can run in another process.
"""

import contextlib
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image

from ..config import SupremeInitConfig
from ..describers import Region
from ..errors import ConfigError, TrainingError
from ..file_names import RECORD_NAME, REPORT_NAME
from ..templates import VALIDATION_TEMPLATE, fill_template
from ..trainer import SupremeInitTextualInversionTrainer
from ..training.checkpoint import find_checkpoint
from .drawing import draw_one
from .messages import VisitorError, as_sentence, heard
from .pointing import as_mask
from .settings import NUM_PREVIEWS, StudioSettings
from .visits import REPORT, RESULT, RUN, Lesson, is_here


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
        seconds: How long training took in all, once the call is over; None before.
    """

    doing: str
    step: int
    losses: tuple[float, ...] = ()
    before: tuple[Image.Image, ...] | None = None
    after: tuple[Image.Image, ...] | None = None
    notices: tuple[str, ...] = ()
    validation: dict[int, float] | None = None
    seconds: float | None = None


Train: TypeAlias = Callable[[Lesson, Path, int], Iterator[Moment]]


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


def reporter_of(settings: StudioSettings) -> Callable[[Lesson, Path, int], Path]:
    """Return the function that writes the command's report on a run that has ended.

    The run is taken up again at its last step, and makes no further one.
    """

    def report(lesson: Lesson, folder: Path, steps: int) -> Path:
        config, target = config_of(lesson, folder, steps), lesson.folder_in(folder) / REPORT
        if find_checkpoint(config) is None:
            raise VisitorError("The run broke off, so there is nothing to report on.")
        with settings.using_model, heard():
            trainer = _trainer(settings, lesson, config)
            with _tidied(trainer):
                trainer.train()
                trainer.save(target, overwrite=True)
                # As it was when training ended: taking the run up again has cost time too.
                shutil.copyfile(lesson.folder_in(folder) / RESULT / RECORD_NAME, target / RECORD_NAME)
                trainer.write_report(
                    target, prompts=settings.report_prompts, model=settings.model, **settings.sampling
                )
        return target / REPORT_NAME

    return report


def config_of(lesson: Lesson, folder: Path, target: int) -> SupremeInitConfig:
    """Return the settings of a run in a visitor's folder, up to a step.

    Raises:
        VisitorError: A value cannot be used.
    """
    try:
        return SupremeInitConfig(
            **{
                "validation_steps": ["0", f"every:{lesson.preview_every}"],
                **lesson.settings,
                "max_train_steps": target,
                "checkpointing_steps": target,  # the last step's; a stop writes its own
                "resume_from_checkpoint": "latest",
                "output_dir": str(lesson.folder_in(folder) / RUN),
            }
        )
    except ConfigError as error:
        name, _, expected = str(error).partition(": ")
        raise VisitorError(f"{name.replace('_', ' ').capitalize()}: {expected}.") from error


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
        config = config_of(self.lesson, self.folder, self.target)
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
        folder = self.lesson.folder_in(self.folder) / RESULT
        trainer.save(folder, overwrite=True)
        seconds = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))["seconds"]
        losses = result.mean_validation_losses()
        self.tell(Moment(doing="Done", step=result.step, notices=tuple(notices), validation=losses, seconds=seconds))

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
        lesson.proposal or lesson.words,
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
