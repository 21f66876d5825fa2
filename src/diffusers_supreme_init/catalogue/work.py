"""What the chunks of a run share, and a concept on its way through them."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..describers import Describers
from ..describers.asking import Answers
from ..errors import DescriberLoadError, OutputError, SupremeInitError
from ..objective.latents import PictureLatents
from ..training.beginning import FoundWords
from ..training.previews import SampleImage
from ..training.progress import ConceptProgress
from ..training.word_finding import Findings
from .ledger import Ledger
from .own_process import OwnProcess
from .plan import Task

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Workshop:
    """What the chunks of a run share.

    Attributes:
        backbone: Backbone of the pipeline, which is as the user gave it between two chunks.
        config: Settings.
        describers: The models that find words and regions, loaded once.
        accelerator: The process's device and precision.
        ledger: The process's ledger.
        known_words: Words that earlier runs found, by key.
        concepts_per_batch: How many concepts go through the models together; halved when memory is full.
        sample_prompts: What is drawn for each card.
        after_concept: Called with each task, and why it failed; None if it did not.
        is_checked: Whether the pipeline's gradient has been compared with differences of the loss.
    """

    backbone: Backbone
    config: SupremeInitConfig
    describers: Describers
    accelerator: OwnProcess
    ledger: Ledger
    known_words: dict[str, FoundWords]
    concepts_per_batch: int
    sample_prompts: Sequence[str]
    after_concept: Callable[[Task, str | None], None] = lambda task, why: None
    is_checked: bool = False

    def takes_fewer(self) -> bool:
        """Let half as many concepts go through the models together from now on, since memory is full.

        Returns:
            False if it is one at a time already.
        """
        if self.concepts_per_batch == 1:
            return False
        self.concepts_per_batch //= 2
        logger.warning("memory is full; going on with concepts_per_batch=%d", self.concepts_per_batch)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True


@dataclass
class Work:
    """A task on its way."""

    task: Task
    findings: Findings | None = None
    answers: Answers | None = None
    latents: PictureLatents | None = None
    words: FoundWords | None = None
    start: ConceptProgress | None = None
    result: ConceptProgress | None = None
    samples: Sequence[SampleImage] = ()
    seconds: float = 0.0


def succeeds(shop: Workshop, one: Work, do: Callable[[Workshop, Work], None]) -> bool:
    """Do something with a concept; if it fails, write down why.

    Raises:
        OutputError: The disk is full, or the like.
        DescriberLoadError: A describer cannot be loaded.
        DescriberError: The accelerator failed. The next concepts would fail like this one, which is not to blame.
    """
    started = time.monotonic()
    try:
        do(shop, one)
    except (OutputError, DescriberLoadError):
        raise
    except SupremeInitError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError | torch.AcceleratorError):
            raise
        fail(shop, one, error)
        return False
    one.seconds += time.monotonic() - started
    return True


def fail(shop: Workshop, one: Work, error: SupremeInitError) -> None:
    """Write down why a concept failed."""
    token, why = one.task.token, " ".join(str(error).split())
    why = why if token in why else f"{token}: {why}"
    shop.ledger.append("failed", token, one.task.key, place=one.task.place, why=why)
    shop.after_concept(one.task, why)
