"""A trained run -> folders: first everything is checked, then everything is drawn, then everything is written."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from ..backbones import Backbone
from ..concepts import Concept
from ..config import SupremeInitConfig
from ..describers import Region
from ..errors import ConfigError, PictureError
from ..evaluation import Evaluation
from ..file_names import CARD_NAME, RECORD_NAME, concept_file_names
from ..files import without_nan
from ..formats.library import library_entry, read_library
from ..objective.phases import NO_PROMPT, ready_to_step
from ..pictures import PictureSource, find_pictures, load_picture
from ..training.previews import SampleImage, draw_samples, sample_texts
from ..training.progress import ConceptProgress
from .concept_files import concept_files, facts_of_run, learned_embeddings, library_files, weight_names
from .overwriting import check_may_replace, saved_concept
from .saved_folder import check_kind, check_replaceable, folders_for, replace_files

_NUM_WRITERS = 8


@dataclass(frozen=True)
class FinishedRun:
    """A run that can be saved.

    Attributes:
        backbone: The backbone that was trained on; its pipeline draws the samples.
        concepts: The concepts, as the user asked for them.
        results: The result of each concept.
        config: Settings.
        seconds: Duration of training, over all parts of a resumed run; None if unknown.
        finished: End of training.
    """

    backbone: Backbone
    concepts: Sequence[Concept]
    results: Sequence[ConceptProgress]
    config: SupremeInitConfig
    seconds: float | None
    finished: datetime


def save_run(
    run: FinishedRun,
    output_dir: Path,
    *,
    sample_prompts: Sequence[str],
    with_pictures: bool,
    evaluations: Sequence[Evaluation],
    device: torch.device,
    overwrite: bool,
) -> None:
    """Write each concept to its folder, see `SupremeInitTextualInversionTrainer.save`.

    Raises:
        ConfigError: An evaluation belongs to none of the concepts, or a concept has two; nothing was written.
        TrainingError: A concept that is to be drawn is no longer loaded; nothing was written.
        OutputError: The save would destroy files that no earlier save wrote, or another result without `overwrite`;
            nothing was written. Or the folder cannot be written.
    """
    folders = folders_for([concept.placeholder_token for concept in run.results], output_dir)
    pictures = [find_pictures(concept.images, quietly=True) if with_pictures else [] for concept in run.concepts]
    by_token = _by_token(evaluations, [concept.placeholder_token for concept in run.results])
    names = [
        concept_file_names(
            [pair.encoder_name for pair in run.backbone.trained],
            num_samples=len(sample_prompts),
            num_pictures=len(of_concept),
            is_evaluated=concept.placeholder_token in by_token,
        )
        for concept, of_concept in zip(run.results, pictures, strict=True)
    ]
    _check_folders(run, output_dir, dict(zip(folders, names, strict=True)), overwrite=overwrite)
    made, contents = {}, {}
    for concept, folder, of_concept in zip(run.results, folders, pictures, strict=True):
        samples = _samples(run, concept, sample_prompts, device)
        embedding, contents[folder] = concept_files(
            run.backbone,
            concept,
            run.config,
            about_run=facts_of_run(run.seconds, run.finished, device),
            samples=samples,
            pictures=[load_picture(one).image for one in of_concept],
            evaluation=by_token.get(concept.placeholder_token),
        )
        made[folder.name] = library_entry(embedding, weight_names(run.backbone))
    library: dict[str, bytes] = {}
    if folders != [output_dir]:
        card = output_dir / CARD_NAME
        before = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
        library = library_files({**(read_library(output_dir) or {}), **made}, before)
    # In parallel, since a disk is slow to confirm a write, but confirms many as fast as one.
    with ThreadPoolExecutor(_NUM_WRITERS) as pool:
        list(pool.map(replace_files, contents, contents.values()))
    if library:
        replace_files(output_dir, library)


def _samples(
    run: FinishedRun, concept: ConceptProgress, prompts: Sequence[str], device: torch.device
) -> Sequence[SampleImage]:
    if not prompts:
        return []  # before the pipeline is touched, which may be offloaded by now
    with ready_to_step(run.backbone, device, [*sample_texts(concept, prompts), NO_PROMPT]):
        (samples,) = draw_samples(run.backbone, [concept], prompts, seed=run.config.seed, device=device)
    return samples


def _by_token(evaluations: Sequence[Evaluation], tokens: Sequence[str]) -> dict[str, Evaluation]:
    by_token = {one.placeholder_token: one for one in evaluations}
    unknown = [token for token in by_token if token not in tokens]
    if unknown or len(by_token) < len(evaluations):
        got = ", ".join(one.placeholder_token for one in evaluations)
        raise ConfigError(f"evaluations: expected at most one of each of {', '.join(tokens)}, got {got}")
    return by_token


def _check_folders(
    run: FinishedRun, output_dir: Path, names: Mapping[Path, Sequence[str]], *, overwrite: bool
) -> None:
    sources = _trained_files(run.concepts)
    check_kind(output_dir, [concept.placeholder_token for concept in run.results])
    if list(names) != [output_dir]:
        check_replaceable(output_dir, [CARD_NAME, RECORD_NAME], sources)
    for concept, (folder, of_folder) in zip(run.results, names.items(), strict=True):
        check_replaceable(folder, of_folder, sources)
        if folder.is_dir():
            embeddings = learned_embeddings(run.backbone, concept, run.config)
            check_may_replace(folder, saved_concept(embeddings, without_nan(concept.losses)), overwrite=overwrite)


def _trained_files(concepts: Sequence[Concept]) -> set[Path]:
    """Return the resolved paths of the files that were trained on; files that are gone need no protection."""
    found: set[Path] = set()
    for concept in concepts:
        regions = [concept.region] if isinstance(concept.region, Region) else concept.region or ()
        for source in (concept.images, concept.mask, *(region.mask for region in regions)):
            pictures: list[PictureSource] = []
            with contextlib.suppress(PictureError):
                pictures = [] if source is None else find_pictures(source, quietly=True)
            found |= {Path(one).resolve() for one in pictures if isinstance(one, str | os.PathLike)}
    return found
