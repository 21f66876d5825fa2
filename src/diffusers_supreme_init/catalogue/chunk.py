"""Some tasks -> saved concepts: words, latents and rows, one kind of model at a time; one failure stops no other."""

import base64
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..describers import Describers
from ..describers.candidates import initializer_record_of
from ..errors import OutputError, SupremeInitError, TrainingError
from ..formats.embedding_file import embedding_bytes
from ..objective.latents import PictureLatents, encode_concept
from ..objective.losses import autocast_dtype
from ..objective.phases import NO_PROMPT, ready_to_encode, ready_to_step
from ..sharing.concept_files import concept_files, learned_embeddings
from ..templates import fill_template
from ..training.beginning import FoundWords, begin_with_words
from ..training.loop import TrainingLoop
from ..training.preparation import check_concepts
from ..training.previews import draw_samples
from ..training.progress import ConceptProgress
from ..training.rows import TrainableRows, concepts_added, write_learned
from ..training.word_finding import (
    Findings,
    choose_among,
    comparison_prompts,
    describe_concept,
    given_masks,
    is_undecided,
    tell_coverage,
)
from .folders import RECORD_KEY, write_folder
from .ledger import Ledger
from .plan import Task
from .shards import OwnProcess

_THUMBNAIL_SIZE = 96
"""Longest side, in pixels, of a picture in the ledger; 3 kB."""


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
        concepts_per_batch: How many concepts go through the model together.
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


@dataclass
class _Work:
    """A task on its way."""

    task: Task
    findings: Findings | None = None
    latents: PictureLatents | None = None
    words: FoundWords | None = None
    start: ConceptProgress | None = None
    result: ConceptProgress | None = None
    seconds: float = 0.0


def train_chunk(shop: Workshop, tasks: Sequence[Task]) -> None:
    """Find the words of some concepts, train each, and save each as soon as it is trained; the pipeline is unchanged.

    Raises:
        OutputError: Nothing can be written, so that no other concept could be saved either.
    """
    at_work = [_Work(task) for task in tasks]
    at_work = [one for one in at_work if _succeeds(shop, one, _describe)]
    device = shop.accelerator.device
    with shop.describers.set_aside():
        with ready_to_encode(shop.backbone, device):
            at_work = [one for one in at_work if _succeeds(shop, one, _encode)]
        prompts = [prompt for one in at_work for prompt in comparison_prompts(_found(one), shop.config)]
        with ready_to_step(shop.backbone, device, prompts) if prompts else nullcontext():
            at_work = [one for one in at_work if _succeeds(shop, one, _begin)]
        if at_work:
            _train(shop, at_work)


def _succeeds(shop: Workshop, one: _Work, do: Callable[[Workshop, _Work], None]) -> bool:
    """Do something with a concept; if it fails, write down why."""
    started = time.monotonic()
    try:
        do(shop, one)
    except OutputError:
        raise
    except SupremeInitError as error:
        _fail(shop, one, error)
        return False
    one.seconds += time.monotonic() - started
    return True


def _fail(shop: Workshop, one: _Work, error: SupremeInitError) -> None:
    token, why = one.task.token, " ".join(str(error).split())
    why = why if token in why else f"{token}: {why}"
    shop.ledger.append("failed", token, one.task.key, place=one.task.place, why=why)
    shop.after_concept(one.task, why)


def _found(one: _Work) -> Findings:
    assert one.findings is not None, "a concept is described first"
    return one.findings


def _start(one: _Work) -> ConceptProgress:
    assert one.start is not None, "a concept begins before it is trained"
    return one.start


def _encoded(one: _Work) -> PictureLatents:
    assert one.latents is not None, "pictures are encoded before words are compared"
    return one.latents


def _describe(shop: Workshop, one: _Work) -> None:
    one.words = shop.known_words.get(one.task.key)
    is_known = one.words is not None
    one.findings = describe_concept(
        one.task.concept, shop.backbone, shop.describers, shop.config, words_are_known=is_known
    )


def _encode(shop: Workshop, one: _Work) -> None:
    one.latents = encode_concept(shop.backbone, _found(one).pictures, shop.config, progress_bar=False)
    tell_coverage(one.task.token, given_masks(one.task.concept, shop.describers, shop.config))


def _begin(shop: Workshop, one: _Work) -> None:
    """Decide for words, and make the concept ready for its first step."""
    concept, found = one.task.concept, _found(one)
    if found.candidates is not None:
        dtype = autocast_dtype(shop.config, shop.accelerator)
        choice = found.candidates
        if is_undecided(found):
            choice = choose_among(
                shop.backbone,
                found,
                _encoded(one),
                shop.config,
                shop.describers,
                shop.accelerator.device,
                autocast_dtype=dtype,
                progress_bar=False,
            )
        record = initializer_record_of(choice, str(concept.initializer), shop.describers)
        one.words = choice.usable[0].text, record
        shop.ledger.append("words", one.task.token, one.task.key, words=one.words[0], record=record)
    given = check_concepts(shop.backbone, [concept], shop.config).get(one.task.token)
    one.start = begin_with_words(shop.backbone, concept, shop.config, given, one.words, found, _encoded(one))


def _train(shop: Workshop, at_work: Sequence[_Work]) -> None:
    """Train concepts whose rows are all in place, some at a time, and save each."""
    config, starts = shop.config, [_start(one) for one in at_work]
    with (
        concepts_added(shop.backbone, starts, lasting=False),
        ready_to_step(
            shop.backbone,
            shop.accelerator.device,
            _prompts(shop, starts),
            checkpointing=config.gradient_checkpointing,
            compiling=config.compile,
        ),
    ):
        for first in range(0, len(at_work), shop.concepts_per_batch):
            together = at_work[first : first + shop.concepts_per_batch]
            started = time.monotonic()
            try:
                results = _learned(shop, [_start(one) for one in together])
            except TrainingError as error:
                for one in together:
                    _fail(shop, one, error)
                continue
            seconds = (time.monotonic() - started) / len(together)
            for one, result in zip(together, results, strict=True):
                one.seconds, one.result = one.seconds + seconds, result
                _succeeds(shop, one, _save)


def _prompts(shop: Workshop, starts: Sequence[ConceptProgress]) -> list[str]:
    """Return all that will be read while some concepts are trained and drawn."""
    of_steps = [prompt for start in starts for prompt in (*start.prompts, start.validation_prompt)]
    of_samples = [
        fill_template(prompt, start.placeholder_token, start.description)
        for start in starts
        for prompt in shop.sample_prompts
    ]
    return [*of_steps, *of_samples, NO_PROMPT] if of_samples else of_steps


def _learned(shop: Workshop, starts: Sequence[ConceptProgress]) -> list[ConceptProgress]:
    """Train concepts together; each batch that goes through the model holds samples of these alone."""
    backbone = shop.backbone
    rows = TrainableRows(backbone.trained, {start.placeholder_token: start.initial_rows for start in starts})
    try:
        loop = TrainingLoop(backbone, starts, rows, shop.config, shop.accelerator)
        loop.run(lambda step, losses: None, checks_gradient=not shop.is_checked)
        shop.is_checked = True
    finally:
        rows.detach()
    return loop.concepts


def _save(shop: Workshop, one: _Work) -> None:
    result = one.result
    assert result is not None, "a concept is trained before it is saved"
    if result.status == "diverged":
        rate = shop.backbone.learning_rate(shop.config)
        raise TrainingError(
            f"{one.task.token}: its loss became NaN or infinite at step {result.step}; train it with a lower "
            f"learning_rate (now {rate}) or in float32"
        )
    device = shop.accelerator.device
    if shop.sample_prompts:
        write_learned(shop.backbone, [result])
    samples = draw_samples(shop.backbone, result, shop.sample_prompts, seed=shop.config.seed, device=device)
    embeddings = learned_embeddings(shop.backbone, result, shop.config)
    digests = {name: hashlib.sha256(embedding_bytes(embedding)).hexdigest() for name, embedding in embeddings.items()}
    about = {RECORD_KEY: {"key": one.task.key, "run": one.task.run, "sha256": digests}}
    _, contents = concept_files(shop.backbone, result, shop.config, about_run=about, samples=samples)
    facts = _facts(one, result) | {
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        "sample": _small(samples[0].image) if samples else None,
        "device": str(device),
    }

    def write_down() -> None:
        shop.ledger.append("saved", one.task.token, one.task.key, **facts)

    write_folder(one.task.folder, contents, when_written=write_down)
    shop.after_concept(one.task, None)


def _facts(one: _Work, result: ConceptProgress) -> dict[str, Any]:
    losses = list(result.mean_validation_losses().values())
    return {
        "place": one.task.place,
        "folder": one.task.folder.name,
        "words": result.description,
        "status": result.status,
        "steps": result.step,
        "losses": [losses[0], losses[-1]] if losses else [],
        "seconds": round(one.seconds, 3),
        "thumbnail": _small(result.thumbnails[-1]) if result.thumbnails else None,
    }


def _small(picture: Image.Image) -> str:
    """Return a picture for the page that shows all concepts, as JPEG in base 64."""
    small, data = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    small.save(data, format="JPEG", quality=80)
    return base64.b64encode(data.getvalue()).decode()
