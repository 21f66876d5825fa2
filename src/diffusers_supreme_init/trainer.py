"""`SupremeInitTextualInversionTrainer`: pictures and words in, a concept out."""

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from .backbones import backbone_for
from .concepts import Concept
from .config import DescriberConfig, SupremeInitConfig, is_scheduled
from .describers import Describers, Region
from .describers.proposal import InitializerProposal
from .errors import CheckpointError, ConfigError, OutputError, SupremeInitWarning, TrainingError, one_line, shown
from .evaluation import Evaluation
from .files import check_writable
from .hub_connection import check_repo_id
from .inputs.paths import local_path
from .objective.losses import with_launched_precision
from .objective.phases import NO_PROMPT, check_trainable, ready_to_draw, ready_to_step
from .pictures import PictureSource
from .sharing.concept_files import base_model_of, weight_names, write_snapshots
from .sharing.publishing import Publication, push_to_hub
from .sharing.report import check_can_report, write_report
from .sharing.saved_folder import folders_for, is_saved_folder
from .sharing.saving import FinishedRun, save_run
from .text.prompt_cleaning import why_lost
from .text.torch_state import own_torch_state
from .training.beginning import begin_concepts
from .training.checkpoint import (
    check_agreement,
    find_checkpoint,
    fingerprint,
    read_found_words,
    read_seconds,
    restore_checkpoint,
    write_checkpoint,
)
from .training.loop import TrainingLoop
from .training.output_lock import only_run_in
from .training.preparation import check_concepts, warn_of_unused_masks, warn_of_unused_settings
from .training.previews import SAMPLE_PROMPTS, check_prompts, draw_previews, preview_prompts
from .training.progress import ConceptProgress
from .training.reporting import log_losses, log_start
from .training.rows import TrainableRows, check_can_add, check_triggers_are_free, concepts_added, write_learned
from .training.trackers import make_accelerator, tracker_names, tracking

logger = logging.getLogger(__name__)


class SupremeInitTextualInversionTrainer:
    """Teaches a frozen text-to-image pipeline new words, starting from a description of each.

    ```python
    trainer = SupremeInitTextualInversionTrainer(
        pipe, images="mug.jpg", placeholder_token="<mug>", initializer="a skull and bones mug"
    )
    trainer.train()
    pipe("a photo of <mug> on the beach").images[0]
    trainer.save("out/mug")
    ```

    The constructor checks everything and changes nothing. `train` adds *rows* to the pipeline (the vectors that are
    trained), optimises only those, and leaves the rest of the pipeline as it was, with the concepts loaded.

    Attributes:
        pipe: The user's pipeline.
        config: Settings of the run.
        concepts: The concepts to train.
        describers: The models that find words and regions; None: the defaults.
        results: After `train`, one `ConceptProgress` per concept.
    """

    def __init__(
        self,
        pipe: Any,
        images: PictureSource | Sequence[PictureSource] | None = None,
        placeholder_token: str | None = None,
        initializer: str | os.PathLike[str] | InitializerProposal | None = None,
        *,
        num_vectors: int | None = None,
        templates: Sequence[str] | None = None,
        mask: PictureSource | Sequence[PictureSource] | None = None,
        region: Region | Sequence[Region] | None = None,
        train_on: str | None = None,
        candidates: Sequence[str] | None = None,
        concepts: Sequence[Concept] | None = None,
        describers: Describers | None = None,
        config: SupremeInitConfig | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Check the pipeline, the settings and the concepts.

        Args:
            pipe: A pipeline of a supported family, see `backbone_for`: Stable Diffusion 1 and 2, SDXL, Stable
                Diffusion 3, Flux.1 and 2, PixArt-Sigma, Sana, Z-Image, Qwen-Image, or a family added with
                `register_backbone`.
            images: See `Concept`; this and the next arguments describe a single concept.
            placeholder_token: See `Concept`.
            initializer: See `Concept`.
            num_vectors: See `Concept`.
            templates: See `Concept`.
            mask: See `Concept`.
            region: See `Concept`.
            train_on: See `Concept`.
            candidates: See `Concept`.
            concepts: Several concepts to train together, instead of the arguments above.
            describers: Models and settings that find words and regions; None: the defaults of `DescriberConfig`.
                Models are loaded when a concept needs them, and freed before the first step.
            config: Settings; None: the defaults.
            accelerator: An `accelerate.Accelerator`; None: a new one, which follows `accelerate launch`.

        Raises:
            SupremeInitError: One of its subclasses; the message says what was expected, what was got and what to do.

        Warns:
            SupremeInitWarning: The pipeline's own calls would lose a placeholder token, see `why_lost`; a placeholder
                token is not delimited; a mask or a setting is not used; or pictures of a folder cannot be read.
        """
        self.pipe = pipe
        if config is not None and not isinstance(config, SupremeInitConfig):
            raise ConfigError(
                f"config: expected a SupremeInitConfig, got {shown(config)}; pass SupremeInitConfig(...)"
            )
        self.config = config or SupremeInitConfig()
        self.config.__post_init__()  # its fields may have been changed since it was made
        self.accelerator = accelerator
        single = {
            "images": images,
            "placeholder_token": placeholder_token,
            "initializer": initializer,
            "num_vectors": num_vectors,
            "templates": templates,
            "mask": mask,
            "region": region,
            "train_on": train_on,
            "candidates": candidates,
        }
        given = {name: value for name, value in single.items() if value is not None}
        if concepts is None:
            concepts = [_single_concept(given)]
        elif given:
            raise ConfigError("expected either concepts= or the arguments of a single concept, got both")
        self.concepts = [concepts] if isinstance(concepts, Concept) else _listed(concepts)
        self.describers = Describers(describers) if isinstance(describers, DescriberConfig) else describers
        self.results: list[ConceptProgress] = []
        with own_torch_state():
            self._backbone = backbone_for(pipe, self.config.train_text_encoders)
        self._backbone.check_config(self.config)
        self._clock = _Clock(None)
        self._seconds: float | None = None
        self._finished: datetime | None = None
        self._saved_dirs: list[Path] = []
        self._stop_requested = threading.Event()
        for name, part, attribute in (
            ("describers", describers, "release"),
            ("accelerator", accelerator, "is_main_process"),
        ):
            if part is not None and not isinstance(part, DescriberConfig) and not hasattr(part, attribute):
                raise ConfigError(f"{name}: expected an object of class {name.capitalize()}, got {shown(part)}")
        if accelerator is not None and self.config.report_to is not None:
            raise ConfigError("report_to: your own accelerator has its own trackers; pass log_with= to it instead")
        tracker_names(self.config)
        check_trainable(self._backbone)
        check_can_add(self._backbone)
        with own_torch_state():
            self._given = check_concepts(self._backbone, self.concepts, self.config)
        if self.config.validation_prompt is not None:
            check_prompts("validation_prompt", self.config.validation_prompt, self._tokens)
        warn_of_unused_masks(self.concepts, self.describers, self.config)
        warn_of_unused_settings(self.config)
        for concept in self.concepts:
            if (why := why_lost(pipe, concept.placeholder_token)) is not None:
                warnings.warn(f"{concept.placeholder_token}: {why}", SupremeInitWarning, stacklevel=2)

    @own_torch_state()
    def train(self, after_step: Callable[[int, Mapping[str, float]], None] | None = None) -> list[ConceptProgress]:
        """Train all concepts and leave them loaded on the pipeline.

        Describers find any missing words and regions before anything is changed.

        Args:
            after_step: Called in every process after each step, with the number of steps made and the step's mean
                losses, ``{placeholder_token: loss}``. It may call `stop`.

        Returns:
            One result per concept: rows, losses, validation losses and final status.

        Raises:
            PictureError: A picture is damaged or too large; nothing was changed.
            RegionError: A region selects nothing usable; nothing was changed.
            DescriberError: A describer cannot be loaded or finds no usable words; nothing was changed.
            CheckpointError: The checkpoint belongs to another run; nothing was changed.
            PlaceholderTokenError: A placeholder token was loaded since the trainer was made; nothing was changed.
            OutputError: `output_dir` of the settings cannot be written, or another run writes there; nothing was
                changed. Or a checkpoint, preview or snapshot could not be written later, which is raised at the very
                end: `save` can be called.
            TrainingError: This trainer was trained before or a tracker cannot start, and nothing was changed. Or a
                concept's loss became NaN or infinite, which is raised at the very end: the others are complete,
                the rows of the last finite loss are kept, and `save` can be called.
        """
        if self.results:
            raise TrainingError("expected an untrained trainer; make a new one with initializer= the saved embedding")
        check_triggers_are_free(self._backbone, self._tokens)
        checkpoint_path = find_checkpoint(self.config)
        self._clock = _Clock(0.0 if checkpoint_path is None else read_seconds(checkpoint_path))
        accelerator = self.accelerator = self.accelerator or make_accelerator(self.config)
        self.config = with_launched_precision(self.config, accelerator)
        if self.config.output_dir is not None:
            check_writable(self.config.output_dir)
        # Trackers are started before describing, since one may be unable to start.
        with only_run_in(self.config.output_dir, accelerator), tracking(accelerator, self.config):
            concepts, failures = self._train(accelerator, checkpoint_path, after_step)
        self._seconds = self._clock.seconds
        self._finished = datetime.now(UTC)
        self.results = concepts
        diverged = [concept for concept in concepts if concept.status == "diverged"]
        if diverged:
            steps = ", ".join(f"{concept.placeholder_token} at step {concept.step}" for concept in diverged)
            rate = self._backbone.learning_rate(self.config)
            raise TrainingError(
                f"expected finite losses, got NaN or infinity: {steps}; the last good rows are kept and can be saved; "
                f"train again with a lower learning_rate (now {rate}) or in float32"
            )
        if failures:
            raise OutputError(
                f"training is complete and can be saved elsewhere, but {len(failures)} files of the run could not be "
                f"written; the first: {one_line(failures[0])}"
            )
        return concepts

    def stop(self) -> None:
        """End training after the current step; `train` then returns, and the learned rows can be saved.

        Call it from another thread, from the callback of `train` or from a signal handler. In a run of several
        processes, any of them may call it; all end after the same step. The results have the status ``"stopped"``.
        With `output_dir`, a checkpoint is written whatever `checkpointing_steps` is. A new trainer with
        ``resume_from_checkpoint="latest"`` then reaches exactly the rows of a run that was never stopped.

        If called before `train`, training ends before its first step.
        """
        self._stop_requested.set()

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], *, seed: int = 0, **sampling: Any) -> list[Any]:
        """Draw prompts with the rows as they are now: in the callback of `train`, or after training.

        No draw of the training depends on it, so a run that is looked at learns the same rows.

        Args:
            prompts: Prompts, as they are; each is drawn once, from the same noise.
            seed: Seed of the noise, as in ``torch.Generator("cpu").manual_seed(seed)``.
            sampling: Further arguments of the pipeline, such as ``num_inference_steps``.

        Returns:
            One picture for each prompt.

        Raises:
            TrainingError: Training has not begun.
        """
        if self.accelerator is None:
            raise TrainingError("expected training to have begun; call draw() in the callback of train(), or after it")
        backbone, device = self._backbone, self.accelerator.device
        options = {**backbone.drawing_options, **sampling}
        # Without prompts to remember: large text encoders stay where they are, beside the denoiser.
        with ready_to_step(backbone, device, ()), ready_to_draw(backbone, device):
            return [
                backbone.drawing_pipe(text, generator=torch.Generator("cpu").manual_seed(seed), **options).images[0]
                for text in prompts
            ]

    def save(
        self,
        output_dir: str | os.PathLike[str],
        *,
        sample_prompts: Sequence[str] = (),
        with_pictures: bool = False,
        evaluations: Sequence[Evaluation] = (),
        overwrite: bool = False,
    ) -> list[Path]:
        """Write each concept: ``learned_embeds.safetensors``, a model card, ``training.json``, sample pictures.

        Several concepts make a *library*: one folder per concept, named after its token, beside an index and a card
        that list them. Concepts, even a single one, are merged into an existing library; the folder of a single
        concept accepts no other. Saving again gives the same bytes. Only files of an earlier save are replaced.

        Args:
            output_dir: Created if missing.
            sample_prompts: Prompts of the pictures on the card, e.g. ``"a photo of a {}"``; each is drawn once. All
                have ``{}``, or the tokens of all concepts.
            with_pictures: Also write the training pictures; `push_to_hub` then publishes them too.
            evaluations: Results of `evaluate`: their means go into the card, the full results into
                ``evaluation.json``.
            overwrite: Replace saved concepts that have the same tokens but other rows. A resumed run replaces its own
                earlier results without it.

        Returns:
            The embedding files, one per concept and trained text encoder.

        Raises:
            TrainingError: Nothing was trained yet, or a concept to be drawn is no longer loaded.
            ConfigError: An evaluation belongs to another concept, or a prompt would not show the concept.
            OutputError: The folder cannot be written, or holds a file that no earlier save wrote, another concept,
                or (without `overwrite`) other rows of the same concept.
        """
        if not self.results or self.accelerator is None or self._finished is None:
            raise TrainingError("expected a trained concept; call train() before save()")
        output_dir = local_path(output_dir)
        sample_prompts = check_prompts("sample_prompts", sample_prompts, self._tokens)
        if self.accelerator.is_main_process:
            save_run(
                self._finished_run(),
                output_dir,
                sample_prompts=sample_prompts,
                with_pictures=with_pictures,
                evaluations=evaluations,
                device=self.accelerator.device,
                overwrite=overwrite,
            )
        where = output_dir.resolve()
        self._saved_dirs = [*(one for one in self._saved_dirs if one != where), where]
        self.accelerator.wait_for_everyone()
        folders = folders_for([concept.placeholder_token for concept in self.results], output_dir)
        return [folder / name for folder in folders for name in weight_names(self._backbone)]

    def write_report(
        self,
        output_dir: str | os.PathLike[str],
        *,
        prompts: Sequence[str] = SAMPLE_PROMPTS[1:],
        model: str | None = None,
        **sampling: Any,
    ) -> Path | None:
        """Draw what was learned, and write it with losses, words, settings and cost as one page beside a saved result.

        Each concept's folder gets ``sheet.png``: in rows the picture given, its words alone, the learned word, and the
        learned word in other sentences, each column from the same noise. Of many concepts the first 8 are drawn.
        Neither file is ever published: they show your picture.

        Args:
            output_dir: Where `save` has written the result.
            prompts: The other sentences, see `save`.
            model: What the model is called in commands; None: its Hub id, if it has one.
            sampling: Further arguments of the pipeline, such as ``num_inference_steps``.

        Returns:
            The path of ``report.html``; None in processes other than the first.

        Raises:
            TrainingError: The result was not saved there, or a concept is no longer loaded as it was trained.
            ConfigError: A prompt would not show the concept.
            OutputError: A file cannot be written, or would replace one that no earlier report wrote.
        """
        output_dir = local_path(output_dir)
        prompts = check_prompts("prompts", prompts, self._tokens)
        check_can_report(output_dir, self._tokens)
        if output_dir.resolve() not in self._saved_dirs:
            raise TrainingError(
                f"expected a saved result in {str(output_dir)!r}; call save({str(output_dir)!r}) first"
            )
        assert self.accelerator is not None, "a saved result was trained"
        path = None
        if self.accelerator.is_main_process:
            path = write_report(
                self._finished_run(),
                output_dir,
                prompts=prompts,
                model=model or base_model_of(self._backbone),
                device=self.accelerator.device,
                sampling=sampling,
            )
        self.accelerator.wait_for_everyone()
        return path

    def _finished_run(self) -> FinishedRun:
        assert self._finished is not None, "asked for after training"
        return FinishedRun(self._backbone, self.concepts, self.results, self.config, self._seconds, self._finished)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        output_dir: str | os.PathLike[str] | None = None,
        sample_prompts: Sequence[str] = SAMPLE_PROMPTS,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        license: str | None = None,  # noqa: A002 - the card's own word
        overwrite: bool = False,
        allow_toybox: bool = False,
        timeout: float = 300.0,
    ) -> Publication | None:
        """Publish the concepts, a few kilobytes, with a card and sample pictures; see `push_to_hub` of the package.

        ```python
        trainer.push_to_hub("user/mug")
        ```

        Args:
            repo_id: ``"user/name"``.
            output_dir: Folder to save to and publish; None: the folder of the last `save`, else `output_dir` of the
                settings, else a new folder named after the repository. A folder that this trainer has already saved
                to is published as it stands, with your own changes.
            sample_prompts: See `save`; not drawn again for a folder that this trainer has already saved to.
            private: See `push_to_hub` of the package.
            token: Access token; None: the one you are logged in with.
            commit_message: First line of the commit message.
            create_pr: Open a pull request instead of committing.
            revision: Branch to commit to.
            license: Licence named on the card; None: that of the base model, if known.
            overwrite: Replace other rows of the same tokens, in the folder and in the repository; see `save`.
            allow_toybox: See `push_to_hub` of the package.
            timeout: Time limit for publishing, in seconds.

        Returns:
            A record of the publication; None in every process but the main one.

        Raises:
            TrainingError: Nothing was trained yet.
            ConfigError: A prompt would not show the concept.
            OutputError: The folder cannot be written, or it exists and no earlier save wrote it.
            PublishError: The Hub refused or failed; the saved folder is complete.
        """
        check_repo_id(repo_id)
        check_prompts("sample_prompts", sample_prompts, self._tokens)
        folder = self._folder_to_publish(repo_id, output_dir)
        if folder.resolve() not in self._saved_dirs:
            self.save(folder, sample_prompts=sample_prompts, overwrite=overwrite)
        if self.accelerator is None or not self.accelerator.is_main_process:
            return None
        return push_to_hub(
            folder,
            repo_id,
            private=private,
            token=token,
            commit_message=commit_message,
            create_pr=create_pr,
            revision=revision,
            license=license,
            overwrite=overwrite,
            allow_toybox=allow_toybox,
            timeout=timeout,
        )

    @property
    def _tokens(self) -> list[str]:
        return [concept.placeholder_token for concept in self.concepts]

    def _folder_to_publish(self, repo_id: str, output_dir: str | os.PathLike[str] | None) -> Path:
        if output_dir is not None:
            return local_path(output_dir)
        if self._saved_dirs:
            return self._saved_dirs[-1]
        if self.config.output_dir is not None:
            return Path(self.config.output_dir)
        invented = Path(repo_id.split("/")[-1])
        if invented.exists() and not is_saved_folder(invented):
            raise OutputError(
                f"expected a new folder for the result, got {str(invented)!r}, which exists; pass output_dir="
            )
        return invented

    def _train(
        self,
        accelerator: Accelerator,
        checkpoint_path: Path | None,
        after_step: Callable[[int, Mapping[str, float]], None] | None,
    ) -> tuple[list[ConceptProgress], list[OSError]]:
        """Return the trained concepts, and the failures to write files of the run."""
        config, backbone = self.config, self._backbone
        concepts = begin_concepts(
            backbone,
            self.concepts,
            self._given,
            config,
            accelerator,
            describers=self.describers,
            known_words={} if checkpoint_path is None else read_found_words(checkpoint_path),
        )
        log_start(backbone, config, concepts, accelerator)
        prompts = [prompt for concept in concepts for prompt in (*concept.prompts, concept.validation_prompt)]
        if config.validation_prompt is not None:
            prompts += [*preview_prompts(concepts, config), NO_PROMPT]
        with (
            concepts_added(backbone, concepts),
            ready_to_step(
                backbone,
                accelerator.device,
                prompts,
                checkpointing=config.gradient_checkpointing,
                compiling=config.compile,
            ),
        ):
            initial_rows = {concept.placeholder_token: concept.initial_rows for concept in concepts}
            rows = TrainableRows(backbone.trained, initial_rows)
            try:
                loop = TrainingLoop(backbone, concepts, rows, config, accelerator)
                failures = self._run(loop, checkpoint_path, after_step)
            finally:
                rows.detach()
        write_learned(backbone, loop.concepts)
        return loop.concepts, failures

    def _run(
        self,
        loop: TrainingLoop,
        checkpoint_path: Path | None,
        callback: Callable[[int, Mapping[str, float]], None] | None,
    ) -> list[OSError]:
        config, accelerator = self.config, loop.accelerator
        run = fingerprint(self._backbone, config, loop.concepts)
        if accelerator.num_processes > 1:
            check_agreement(gather_object([run]))
        failures: list[OSError] = []
        if checkpoint_path is not None:
            loop.progress = restore_checkpoint(checkpoint_path, run, loop.concepts, loop.optimizers)
            if max(concept.step for concept in loop.concepts) > config.max_train_steps:
                raise CheckpointError(f"{str(checkpoint_path)!r} is beyond max_train_steps={config.max_train_steps}")

        def write(what: str, make: Callable[..., object], *arguments: Any) -> None:
            try:
                make(*arguments)
            except OSError as error:  # a full disk, say: the rows are worth more than the files beside them
                logger.warning("the %s could not be written: %s", what, one_line(error))
                failures.append(error)

        def checkpoint() -> None:
            if accelerator.is_main_process and config.output_dir is not None:
                seconds = self._clock.seconds
                write("checkpoint", write_checkpoint, config.output_dir, run, loop.concepts, loop.optimizers, seconds)

        def record(step: int, losses: Mapping[str, float]) -> None:
            validated = [concept for concept in loop.progress.values() if step in concept.validation_losses]
            log_losses(accelerator, step, losses, validated)
            if not accelerator.is_main_process or config.output_dir is None:
                return
            if validated and config.validation_prompt is not None:
                write("previews", draw_previews, self._backbone, validated, config, step, accelerator)
            if is_scheduled(config.snapshot_steps, step):
                write("snapshots", write_snapshots, self._backbone, loop.concepts, config, step)
            if losses and config.checkpointing_steps and step % config.checkpointing_steps == 0:
                checkpoint()

        def after_step(step: int, losses: Mapping[str, float]) -> None:
            record(step, losses)
            if callback is not None and losses:
                callback(step, losses)

        loop.run(after_step, stop_requested=self._stop_requested.is_set, before_stop=checkpoint)
        return failures


class _Clock:
    """How long a run has taken: what its checkpoint says, and the time since then."""

    def __init__(self, seconds_before: float | None) -> None:
        self._before, self._started = seconds_before, time.monotonic()

    @property
    def seconds(self) -> float | None:
        """Seconds so far; None if the checkpoint does not say how long its part took."""
        return None if self._before is None else self._before + time.monotonic() - self._started


def _listed(concepts: Any) -> list[Concept]:
    given = list(concepts) if isinstance(concepts, Sequence) and not isinstance(concepts, str) else [concepts]
    if wrong := [one for one in given if not isinstance(one, Concept)]:
        raise ConfigError(
            f"concepts: expected a list of Concept, got {shown(wrong[0])}; load_concepts reads a metadata.jsonl"
        )
    return given


def _single_concept(given: dict[str, Any]) -> Concept:
    missing = [name for name in ("images", "placeholder_token", "initializer") if name not in given]
    if missing:
        raise ConfigError(
            f"expected images, placeholder_token and initializer, got none for {', '.join(missing)}; or pass concepts="
        )
    return Concept(**given)
