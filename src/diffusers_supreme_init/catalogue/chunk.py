"""Some tasks -> saved concepts: words, latents and rows, one kind of model at a time; one failure stops no other."""

import contextlib
import time
from collections.abc import Sequence

import torch

from ..describers.asking import Question, ask_together
from ..describers.finding import initializer_record_of
from ..errors import DescriberError, DescriberLoadError, TrainingError
from ..objective.latents import PictureLatents, encode_concept
from ..objective.losses import autocast_dtype
from ..objective.phases import NO_PROMPT, ready_to_encode, ready_to_step
from ..training.beginning import begin_with_words
from ..training.loop import TrainingLoop
from ..training.preparation import check_concepts
from ..training.previews import sample_texts
from ..training.progress import ConceptProgress
from ..training.rows import TrainableRows, concepts_added
from ..training.word_finding import (
    Findings,
    choose_among,
    comparison_prompts,
    find_regions_of,
    find_words,
    given_masks,
    is_undecided,
    tell_coverage,
)
from .plan import Task
from .saving import save_concepts
from .work import Work, Workshop, fail, succeeds


def train_chunk(shop: Workshop, tasks: Sequence[Task]) -> None:
    """Find the words of some concepts, train each, and save each as soon as it is trained; the pipeline is unchanged.

    Raises:
        OutputError: Nothing can be written, so that no other concept could be saved either.
    """
    at_work = [Work(task) for task in tasks]
    at_work = [one for one in at_work if succeeds(shop, one, _find_regions)]
    _ask_together(shop, at_work)
    at_work = [one for one in at_work if succeeds(shop, one, _find_words)]
    device = shop.accelerator.device
    with shop.describers.set_aside():
        with ready_to_encode(shop.backbone, device):
            at_work = [one for one in at_work if succeeds(shop, one, _encode)]
        prompts = [prompt for one in at_work for prompt in comparison_prompts(_found(one), shop.config)]
        with ready_to_step(shop.backbone, device, prompts) if prompts else contextlib.nullcontext():
            at_work = [one for one in at_work if succeeds(shop, one, _begin)]
        if at_work:
            _train(shop, at_work)


def _find_regions(shop: Workshop, one: Work) -> None:
    one.words = shop.known_words.get(one.task.key)
    is_known = one.words is not None
    one.findings = find_regions_of(one.task.concept, shop.describers, shop.config, words_are_known=is_known)


def _has_to_ask(one: Work) -> bool:
    return one.words is None and one.task.concept.method is not None


def _ask_together(shop: Workshop, at_work: Sequence[Work]) -> None:
    """Ask captioner and classifier about `concepts_per_batch` concepts at once, if they go through models together."""
    waiting = [asked] if (asked := [one for one in at_work if _has_to_ask(one)]) else []
    while waiting and shop.concepts_per_batch > 1:
        together, waiting = _next_batch(shop, waiting)
        started = time.monotonic()
        questions = [Question(str(one.task.concept.method), _found(one).selected) for one in together]
        try:
            for one, answers in zip(together, ask_together(questions, shop.describers), strict=True):
                one.answers = answers
        except DescriberLoadError:
            raise
        except DescriberError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError) and shop.takes_fewer():
                waiting.insert(0, together)
            # Else each concept asks for itself later: only those fail that are to blame.
        seconds = (time.monotonic() - started) / len(together)
        for one in together:
            one.seconds += seconds


def _find_words(shop: Workshop, one: Work) -> None:
    if _has_to_ask(one):
        one.findings = find_words(
            _found(one), one.task.concept, shop.backbone, shop.describers, shop.config, answers=one.answers
        )


def _encode(shop: Workshop, one: Work) -> None:
    one.latents = encode_concept(shop.backbone, _found(one).pictures, shop.config, progress_bar=False)
    tell_coverage(one.task.token, given_masks(one.task.concept, shop.describers, shop.config))


def _begin(shop: Workshop, one: Work) -> None:
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


def _train(shop: Workshop, at_work: Sequence[Work]) -> None:
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
        waiting = [list(at_work)]
        while waiting:
            together, waiting = _next_batch(shop, waiting)
            started = time.monotonic()
            try:
                results = _learned(shop, [_start(one) for one in together])
            except torch.OutOfMemoryError:
                if not shop.takes_fewer():
                    raise
                waiting.insert(0, together)
            except TrainingError as error:
                if len(together) > 1:  # one of them is to blame
                    waiting = [*([one] for one in together), *waiting]
                else:
                    fail(shop, together[0], error)
            else:
                seconds = (time.monotonic() - started) / len(together)
                for one, result in zip(together, results, strict=True):
                    one.seconds, one.result = one.seconds + seconds, result
                save_concepts(shop, together)


def _next_batch(shop: Workshop, waiting: Sequence[list[Work]]) -> tuple[list[Work], list[list[Work]]]:
    """Return the concepts that go through the models next, as many as go together by now, and those that wait on."""
    first, *others = waiting
    number = shop.concepts_per_batch
    return first[:number], [*([first[number:]] if first[number:] else []), *others]


def _prompts(shop: Workshop, starts: Sequence[ConceptProgress]) -> list[str]:
    """Return all that will be read while some concepts are trained and drawn."""
    of_steps = [prompt for start in starts for prompt in (*start.prompts, start.validation_prompt)]
    of_samples = [text for start in starts for text in sample_texts(start, shop.sample_prompts)]
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


def _found(one: Work) -> Findings:
    assert one.findings is not None, "a concept is described first"
    return one.findings


def _start(one: Work) -> ConceptProgress:
    assert one.start is not None, "a concept begins before it is trained"
    return one.start


def _encoded(one: Work) -> PictureLatents:
    assert one.latents is not None, "pictures are encoded before words are compared"
    return one.latents
