"""`supreme-init train`: check everything, find words, train, save, draw, publish."""

import contextlib
import logging
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..backbones import family_defaults
from ..concepts import Concept, find_masks, find_regions
from ..describers import Describers
from ..errors import ConfigError, PictureError, SupremeInitError, TrainingError
from ..file_names import RUN_NAME
from ..files import write_atomically
from ..pictures import find_pictures, load_subject
from ..sharing.publishing import check_can_push
from ..sharing.report import check_can_report, check_is_ours
from ..sharing.saved_folder import check_can_save
from ..trainer import SupremeInitTextualInversionTrainer
from ..training.checkpoint import find_checkpoint
from ..training.previews import SAMPLE_PROMPTS
from ..triggers import check_placeholder_token
from .arguments import (
    CatalogueArguments,
    ConceptArguments,
    DescriberArguments,
    DrawingArguments,
    HubArguments,
    ModelArguments,
    RegionArguments,
    TrainingArguments,
)
from .catalogue import train_list
from .describers import check_describers, requested_describers, requested_region
from .parser import Parsed
from .pipelines import as_typed, check_model, load_pipeline, sampling_of
from .terminal import INTERRUPTED
from .toybox import PROMPTS, is_toybox

logger = logging.getLogger(__name__)


def run(parsed: Parsed) -> int:
    """Train and save, and say what came out; return the exit status.

    Raises:
        SupremeInitError: One of its subclasses. What was learned is saved all the same.
    """
    asked, model, hub = parsed.of(ConceptArguments), parsed.of(ModelArguments), parsed.of(HubArguments)
    config, region_arguments = parsed.of(TrainingArguments), parsed.of(RegionArguments)
    if asked.concepts is not None:
        check_model_and_hub(model, hub)
        with advising_on_memory():
            return train_list(parsed)
    if parsed.of(CatalogueArguments) != CatalogueArguments():
        raise ConfigError("expected --concepts with the options of many concepts, got none")
    concepts = requested_concepts(asked, region_arguments)
    output_dir = Path(str(config.output_dir))
    describers = requested_describers(region_arguments, parsed.of(DescriberArguments))
    _check(concepts, asked, model, hub, config, describers, output_dir)
    pipe = load_pipeline(model)
    trainer = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, describers=describers, config=config)
    # Before training, so that a run that is killed can go on by it. All processes write the same.
    write_atomically(output_dir / RUN_NAME, parsed.as_yaml(resume_from_checkpoint=None).encode())
    failure: SupremeInitError | None = None
    with _stopping_on_interrupt(trainer) as after_step, advising_on_memory():
        try:
            trainer.train(after_step)
        except SupremeInitError as error:
            # A diverged concept, or a checkpoint that could not be written: the rows are there, and are saved.
            if not trainer.results:
                raise
            failure = error
    usual = PROMPTS if is_toybox(model.pretrained_model_name_or_path) else SAMPLE_PROMPTS
    prompts = hub.sample_prompts or (usual if hub.push_to_hub else ())
    files = trainer.save(output_dir, sample_prompts=prompts, overwrite=asked.overwrite)
    is_main = trainer.accelerator is None or trainer.accelerator.is_main_process
    report = None
    if asked.report:
        try:
            report = trainer.write_report(
                output_dir,
                prompts=hub.sample_prompts or usual[1:],
                model=as_typed(model),
                **sampling_of(parsed.of(DrawingArguments), model),
            )
        except torch.OutOfMemoryError:
            logger.warning("the GPU's memory is too full to draw; the word is saved, without a report")
    if hub.push_to_hub:
        published = trainer.push_to_hub(
            str(hub.hub_model_id),
            private=hub.hub_private_repo or None,
            create_pr=hub.create_pr,
            license=hub.hub_license,
            overwrite=asked.overwrite,
            allow_toybox=hub.allow_toybox,
        )
        if published is not None:
            print(f"published: {published.url}" + ("" if published.is_new_commit else " (it held the same already)"))
    if is_main:
        print(_summary(trainer, output_dir, files, report, model))
    if failure is not None:
        raise failure
    return INTERRUPTED if any(one.status == "stopped" for one in trainer.results) else 0


def requested_concepts(asked: ConceptArguments, region_arguments: RegionArguments) -> list[Concept]:
    """Return the concept that the options name.

    Raises:
        SupremeInitError: Options are missing or contradict each other.
    """
    region = requested_region(region_arguments)
    if not asked.images:
        raise ConfigError("expected a picture, got none; pictures come before the options: supreme-init train mug.jpg")
    if asked.placeholder_token is None:
        raise ConfigError('expected --token, the new word, got none; for example --token "<mug>"')
    return [
        Concept(
            images=asked.images,
            placeholder_token=asked.placeholder_token,
            initializer="auto" if asked.initializer is None else asked.initializer,
            num_vectors=asked.num_vectors,
            mask=asked.mask or None,
            region=region,
            train_on=asked.train_on,
            candidates=region_arguments.candidates,
        )
    ]


def _check(
    concepts: Sequence[Concept],
    asked: ConceptArguments,
    model: ModelArguments,
    hub: HubArguments,
    config: TrainingArguments,
    describers: Describers,
    output_dir: Path,
) -> None:
    """Check all that can be checked before the first model is loaded.

    Raises:
        SupremeInitError: A name, a picture, the model or a folder cannot be used.
    """
    for concept in concepts:
        check_placeholder_token(concept.placeholder_token, [])
        try:
            pictures = find_pictures(concept.images, quietly=True)
            find_masks(concept, len(pictures), quietly=True)
            find_regions(concept, len(pictures))
            load_subject(pictures[0])
        except PictureError as error:
            raise PictureError(f"{concept.placeholder_token}: {error}") from error
    tokens = [concept.placeholder_token for concept in concepts]
    is_resumed = find_checkpoint(config) is not None
    check_can_save(output_dir, tokens, overwrite=asked.overwrite or is_resumed)
    check_is_ours(output_dir / RUN_NAME)
    if asked.report:
        check_can_report(output_dir, tokens)
    check_model_and_hub(model, hub)
    methods = [concept.method for concept in concepts]
    regions = [
        region
        for concept in concepts
        for region in find_regions(concept, len(find_pictures(concept.images, quietly=True))) or ()
    ]
    check_describers(
        describers,
        methods,
        clicks=any(region.has_clicks for region in regions),
        words=any(region.words is not None for region in regions),
    )


def check_model_and_hub(model: ModelArguments, hub: HubArguments) -> None:
    """Check that the model can be trained on and that the repository can be pushed to.

    Raises:
        SupremeInitError: One cannot.
    """
    pipeline_class = str(check_model(model)["_class_name"])
    if family_defaults(pipeline_class) is None:
        raise ConfigError(
            f"model: {pipeline_class} cannot be trained on; supreme-init train without --model lists models that can"
        )
    _check_hub(hub, model)


def _check_hub(hub: HubArguments, model: ModelArguments) -> None:
    if hub.push_to_hub != (hub.hub_model_id is not None):
        raise ConfigError("expected --push_to_hub and --hub_model_id together, got only one of them")
    if unfilled := [prompt for prompt in hub.sample_prompts if "{}" not in prompt]:
        raise ConfigError(f"--sample_prompts: expected '{{}}' where the concept stands, got {unfilled[0]!r}")
    if hub.hub_model_id is None:
        of_push = ("hub_private_repo", "hub_license", "create_pr", "allow_toybox")
        if unused := [f"--{name}" for name in of_push if getattr(hub, name)]:
            raise ConfigError(f"{', '.join(unused)}: expected --push_to_hub with it, got none")
        return
    if is_toybox(model.pretrained_model_name_or_path) and not (hub.allow_toybox and hub.hub_private_repo):
        raise ConfigError(
            "what is made with the toybox is not published, since no other model knows its words; to do it all the "
            "same, pass --allow_toybox --hub_private_repo"
        )
    check_can_push(hub.hub_model_id, create_pr=hub.create_pr)


@contextlib.contextmanager
def _stopping_on_interrupt(trainer: SupremeInitTextualInversionTrainer) -> Iterator[Callable[..., None]]:
    """Let the first Ctrl-C end training after the step, so that what was learned is saved; the second interrupts.

    While words are found nothing is learned, so there the first one interrupts. The body passes the function that it
    gets to `train` as `after_step`.
    """
    has_begun = threading.Event()

    def stop(*_: Any) -> None:
        # Of a process in the background, interrupts are ignored; whoever sends one all the same means it.
        signal.signal(signal.SIGINT, before if callable(before) else signal.default_int_handler)
        if not has_begun.is_set():
            raise KeyboardInterrupt
        logger.warning("stopping after this step, then saving; Ctrl-C again ends at once and saves nothing")
        trainer.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda *_: has_begun.set()
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def advising_on_memory() -> Iterator[None]:
    """Say what helps if the accelerator's memory is full.

    Raises:
        TrainingError: It is.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the GPU's memory is full; pass --gradient_checkpointing --max_forward_batch_size 1, and for large models "
            "--quant_backend (the README lists what each model takes)"
        ) from error


def _summary(
    trainer: SupremeInitTextualInversionTrainer,
    output_dir: Path,
    files: Sequence[Path],
    report: Path | None,
    model: ModelArguments,
) -> str:
    """Say what came out, where to look and what to type next, in three sentences."""
    results = trainer.results
    first, kilobytes = results[0], sum(file.stat().st_size for file in files) / 1000
    losses = first.mean_validation_losses()
    change = f", loss {losses[min(losses)]:.4f} -> {losses[max(losses)]:.4f}" if losses else ""
    if len(results) == 1:
        num_rows = sum(map(len, first.rows.values()))
        came_out = (
            f'{first.placeholder_token} {first.status} after {first.step} steps from "{first.description}": '
            f"{num_rows} row{'s' * (num_rows > 1)}, {kilobytes:.0f} kB{change}."
        )
    else:
        by_status = {
            status: [one for one in results if one.status == status] for status in {r.status for r in results}
        }
        counted = ", ".join(f"{len(ones)} {status}" for status, ones in sorted(by_status.items()))
        came_out = f"{len(results)} concepts ({counted}), {kilobytes:.0f} kB in {output_dir}."
    look = f"Look at {report}." if report is not None else f"Saved in {output_dir}."
    if first.status == "stopped":
        following = f"To go on: supreme-init train --config {output_dir / RUN_NAME} --resume_from_checkpoint latest"
    else:
        words = [f"a photo of {first.placeholder_token}", "--concepts", str(output_dir)]
        if os.path.isdir(as_typed(model)):  # of any other model the concept knows the name
            words += ["--model", as_typed(model)]
        following = f"Draw it: supreme-init generate {shlex.join(words)}"
    return f"\n{came_out}\n{look}\n{following}"
