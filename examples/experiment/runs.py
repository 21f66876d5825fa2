"""Settings x concepts -> measurements: one batch of the shared frozen model for each group; resumable."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from diffusers_supreme_init import (
    VALIDATION_TEMPLATE,
    Concept,
    ConceptProgress,
    Describers,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    evaluate,
    fill_template,
    folder_name,
    propose_initializer,
    read_embedding,
    write_atomically,
)
from diffusers_supreme_init.metrics import FidelityMetric, PromptMetric, denoising_mse

from .settings import Group, Setting, picture_steps, validation_steps

METHODS = ("class", "caption", "auto")
_CHOOSING_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One figure of one run; the columns of ``results.csv``.

    Attributes:
        seed: Of the run.
        group: See `Group`.
        setting: See `Setting`.
        concept: Placeholder token.
        words: What the rows started from.
        num_vectors: How many rows.
        step: After how many steps.
        metric: ``"validation_loss"``, ``"held_out_loss"``, ``"reconstruction/..."``, ``"editing/..."``.
        value: Mean over noises or pictures.
    """

    seed: int
    group: str
    setting: str
    concept: str
    words: str
    num_vectors: int
    step: int
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What all runs share.

    Attributes:
        pipe: The frozen model.
        concepts: One or more pictures each; their words are not used.
        metrics: Measured on drawn pictures.
        config: Options of training; seed, steps and folders are set for each run.
        editing_prompts: Of `evaluate`.
        sampling: Arguments of the pipeline.
        num_image_seeds: Noises per prompt and run.
        steps_beyond: Steps of the groups that are not the paper's.
    """

    pipe: Any
    concepts: Sequence[Concept]
    metrics: Sequence[FidelityMetric | PromptMetric]
    config: SupremeInitConfig
    editing_prompts: Sequence[str]
    sampling: Mapping[str, Any]
    num_image_seeds: int
    steps_beyond: int

    @property
    def has_more_pictures(self) -> bool:
        """Whether every concept has a picture to learn from, another, and one that no run learns from."""
        return all(len(pictures_of(concept)) > 2 for concept in self.concepts)

    @property
    def has_masks(self) -> bool:
        """Whether every concept has masks."""
        return all(concept.mask is not None for concept in self.concepts)


def pictures_of(concept: Concept) -> list[Any]:
    """Return the pictures of a concept of `load_concepts`."""
    return list(concept.images)  # type: ignore[arg-type]  # `load_concepts` makes lists


def find_words(experiment: Experiment, describers: Describers, seed: int, path: Path) -> dict[str, dict[str, str]]:
    """Return ``{placeholder token: {method: words}}``, from `path` if they were found before.

    Describers see the first picture alone, and "auto" compares words by other noises than those that judge the result.
    """
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    config = replace(experiment.config, seed=seed + _CHOOSING_SEED)
    words: dict[str, dict[str, str]] = {}
    for concept in tqdm(experiment.concepts, desc=f"seed {seed}: words", unit="concept"):
        words[concept.placeholder_token] = {
            method: propose_initializer(
                pictures_of(concept)[0], method, pipe=experiment.pipe, describers=describers, config=config
            ).text
            for method in METHODS
        }
    describers.release()
    write_atomically(path, json.dumps(words).encode())
    return words


def run_group(
    experiment: Experiment, group: Group, words: Mapping[str, Mapping[str, str]], seed: int, folder: Path
) -> list[Measurement]:
    """Train and measure a group, or read what an earlier call has measured.

    An interrupted training goes on from its checkpoint. Settings that start from the same words are trained once: with
    equal draws they would end equal.
    """
    path = folder / "measurements.json"
    if path.is_file():
        return [Measurement(**values) for values in json.loads(path.read_text(encoding="utf-8"))["measurements"]]
    planned = [
        (setting, concept, _plan(setting, concept, words, experiment, group))
        for setting in group.settings
        for concept in experiment.concepts
    ]
    different: dict[tuple[str, str, int | None], Concept] = {}
    keys = []
    for _, source, concept in planned:
        keys.append((source.placeholder_token, str(concept.initializer), concept.num_vectors))
        different.setdefault(keys[-1], concept)
    config = _config(experiment, group, seed, folder)
    trainer = SupremeInitTextualInversionTrainer(experiment.pipe, concepts=list(different.values()), config=config)
    results = {result.placeholder_token: result for result in trainer.train()}
    experiment.pipe.unload_multitoken_inversion()
    measured = _measure(experiment, group, different, results, config, folder)
    measurements = [
        Measurement(
            seed=seed,
            group=group.name,
            setting=setting.name,
            concept=source.placeholder_token,
            words=str(concept.initializer),
            num_vectors=len(next(iter(results[different[key].placeholder_token].rows.values()))),
            step=step,
            metric=metric,
            value=value,
        )
        for (setting, source, concept), key in zip(planned, keys, strict=True)
        for step, metric, value in measured[key]
    ]
    write_atomically(path, json.dumps({"measurements": [asdict(one) for one in measurements]}, indent=1).encode())
    return measurements


def seconds_per_step(experiment: Experiment, num_steps: int = 20) -> dict[str, float]:
    """Return what a step of one concept alone takes, setup included: what somebody waits who trains one picture.

    Returns:
        ``wall``: Seconds that passed. ``processor``: Seconds of all processor cores, which other processes do not
        lengthen.
    """
    concept = replace(
        experiment.concepts[0], initializer="*", images=pictures_of(experiment.concepts[0])[0], mask=None
    )
    config = replace(experiment.config, max_train_steps=num_steps, validation_samples=0)
    trainer = SupremeInitTextualInversionTrainer(experiment.pipe, concepts=[concept], config=config)
    started, started_processor = time.perf_counter(), time.process_time()
    trainer.train()
    passed = time.perf_counter() - started, time.process_time() - started_processor
    experiment.pipe.unload_multitoken_inversion()
    return {"wall": passed[0] / num_steps, "processor": passed[1] / num_steps}


def _config(experiment: Experiment, group: Group, seed: int, folder: Path) -> SupremeInitConfig:
    num_steps = _num_steps(experiment, group)
    options = {
        "max_train_steps": num_steps,
        "validation_steps": [str(step) for step in (validation_steps(num_steps) if group.is_paper else [0])],
        "snapshot_steps": [str(step) for step in _drawn(experiment, group)],
        "seed": seed,
        "output_dir": str(folder),
        "resume_from_checkpoint": "latest",
    }
    return replace(experiment.config, **{**group.options, **options})


def _drawn(experiment: Experiment, group: Group) -> list[int]:
    """Return the steps after which pictures are drawn."""
    num_steps = _num_steps(experiment, group)
    return picture_steps(num_steps, experiment.steps_beyond) if group.is_followed else [num_steps]


def _num_steps(experiment: Experiment, group: Group) -> int:
    if group.is_paper:
        return experiment.config.max_train_steps
    return min(experiment.steps_beyond, int(group.options.get("max_train_steps", experiment.steps_beyond)))


def _plan(
    setting: Setting,
    concept: Concept,
    words: Mapping[str, Mapping[str, str]],
    experiment: Experiment,
    group: Group,
) -> Concept:
    token = concept.placeholder_token
    text = setting.words if setting.words == "*" else words[token][setting.words]
    num_vectors = setting.num_vectors
    if setting.as_many_as_caption:
        tokenizer = experiment.pipe.tokenizer
        num_vectors = len(tokenizer(words[token]["caption"], add_special_tokens=False)["input_ids"])
    pictures = pictures_of(concept)
    num_pictures = len(pictures) - 1 if group.all_pictures else 1
    masks = None if concept.mask is None else list(concept.mask)[:num_pictures]  # type: ignore[arg-type]
    return Concept(
        images=pictures[:num_pictures],
        placeholder_token=f"<{token.strip('<>')}-{setting.name}>",
        initializer=text,
        num_vectors=num_vectors,
        mask=masks if group.options.get("masked_loss") else None,
        random_key=token,  # the same noises for all settings
    )


def _measure(
    experiment: Experiment,
    group: Group,
    concepts: Mapping[tuple[str, str, int | None], Concept],
    results: Mapping[str, ConceptProgress],
    config: SupremeInitConfig,
    folder: Path,
) -> dict[tuple[str, str, int | None], list[tuple[int, str, float]]]:
    """Return ``(step, metric, value)`` for each different run: losses, then scores of its snapshots' pictures."""
    measured: dict[tuple[str, str, int | None], list[tuple[int, str, float]]] = {}
    sources = {concept.placeholder_token: concept for concept in experiment.concepts}
    for key, concept in tqdm(concepts.items(), desc=f"seed {config.seed}: {group.name}: measuring", unit="run"):
        losses = results[concept.placeholder_token].mean_validation_losses()
        is_plain = not (group.all_pictures or config.masked_loss)
        own = [(step, "validation_loss", loss) for step, loss in losses.items() if is_plain]
        for step in _drawn(experiment, group):
            path = snapshot_path(folder, concept.placeholder_token, step)
            own += _measure_snapshot(experiment, sources[key[0]], path, step, config, is_plain=is_plain)
        measured[key] = own
    return measured


@torch.no_grad()
def _measure_snapshot(
    experiment: Experiment, source: Concept, path: Path, step: int, config: SupremeInitConfig, *, is_plain: bool
) -> list[tuple[int, str, float]]:
    pipe, embedding = experiment.pipe, read_embedding(path)
    token, description = str(embedding.placeholder_token), embedding.description or ""
    pictures = pictures_of(source)
    is_edited = step in (0, config.max_train_steps, experiment.steps_beyond)
    pipe.load_multitoken_inversion(path)
    try:
        result = evaluate(
            pipe,
            token,
            pictures[0],
            description=description,
            metrics=experiment.metrics,
            editing_prompts=experiment.editing_prompts if is_edited else (),
            seeds=[config.seed * experiment.num_image_seeds + index for index in range(experiment.num_image_seeds)],
            denoising_samples=0,
            **experiment.sampling,
        )
        text = fill_template(VALIDATION_TEMPLATE, token, description)
        # Of plain runs the trainer has measured the loss on the first picture already, in the same way.
        judged = {} if is_plain else {"validation_loss": pictures[0]}
        judged |= {"held_out_loss": pictures[-1]} if experiment.has_more_pictures else {}
        losses = {
            name: denoising_mse(
                pipe,
                picture,
                text,
                num_samples=config.validation_samples,
                seed=config.seed,
                snr_gamma=config.snr_gamma,
            )
            for name, picture in judged.items()
        }
    finally:
        pipe.unload_multitoken_inversion(token)
    values = [(step, f"reconstruction/{name}", score.mean) for name, score in result.reconstruction.items()]
    values += [(step, f"editing/{name}", score.mean) for name, score in result.editing.items()]
    values += [(step, name, float(loss.mean())) for name, loss in losses.items()]
    return [(step, name, value) for step, name, value in values if not math.isnan(value)]  # no prompt asked for it


def snapshot_path(folder: Path, token: str, step: int) -> Path:
    """Return the file of a concept's rows after a step, in the `output_dir` of its run."""
    own = folder / folder_name(token)  # a single concept is written to the folder itself
    return (own if own.is_dir() else folder) / f"learned_embeds-steps-{step}.safetensors"
