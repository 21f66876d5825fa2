"""A trained run -> folders: everything is checked, then everything is drawn, then everything is written."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from .backbones import Backbone
from .concepts import Concept
from .config import SupremeInitConfig
from .describers import Region
from .errors import PictureError
from .model_card import CARD_NAME
from .pictures import PictureSource, find_pictures, load_picture
from .progress import ConceptProgress
from .results import concept_files, file_names, library_files, result_folders
from .samples import draw_samples
from .saved_folder import RECORD_NAME, check_kind, check_replaceable, replace_files


@dataclass(frozen=True)
class FinishedRun:
    """What can be saved.

    Attributes:
        backbone: What it was trained on; its pipeline draws the samples.
        concepts: What was asked for.
        results: What became of each.
        config: Settings.
        seconds: How long training took.
        finished: When it ended.
    """

    backbone: Backbone
    concepts: Sequence[Concept]
    results: Sequence[ConceptProgress]
    config: SupremeInitConfig
    seconds: float
    finished: datetime


def save_run(
    run: FinishedRun,
    output_dir: Path,
    *,
    sample_prompts: Sequence[str],
    with_pictures: bool,
    device: torch.device,
) -> None:
    """Write each concept to its folder, see `SupremeInitTextualInversionTrainer.save`.

    Raises:
        TrainingError: A concept is to be drawn and no longer loaded; nothing was written.
        OutputError: Something would be destroyed that no earlier save wrote, and nothing was written; or the folder
            cannot be written.
    """
    folders = result_folders(run.results, output_dir)
    pictures = [find_pictures(concept.images) if with_pictures else [] for concept in run.concepts]
    _check_folders(run, output_dir, folders, len(sample_prompts), [len(one) for one in pictures])
    made, contents = {}, {}
    for concept, folder, of_concept in zip(run.results, folders, pictures, strict=True):
        made[folder.name], contents[folder] = concept_files(
            run.backbone,
            concept,
            run.config,
            seconds=run.seconds,
            finished=run.finished,
            device=device,
            samples=draw_samples(run.backbone, concept, sample_prompts, seed=run.config.seed, device=device),
            pictures=[load_picture(one).image for one in of_concept],
        )
    if len(folders) > 1:
        contents[output_dir] = library_files(made)
    for folder, files in contents.items():
        replace_files(folder, files)


def _check_folders(
    run: FinishedRun, output_dir: Path, folders: Sequence[Path], num_samples: int, nums_pictures: Sequence[int]
) -> None:
    sources = _trained_files(run.concepts)
    check_kind(output_dir, is_library=len(folders) > 1)
    if len(folders) > 1:
        check_replaceable(output_dir, [CARD_NAME, RECORD_NAME], sources)
    for folder, num_pictures in zip(folders, nums_pictures, strict=True):
        names = file_names(run.backbone, num_samples=num_samples, num_pictures=num_pictures)
        check_replaceable(folder, names, sources)


def _trained_files(concepts: Sequence[Concept]) -> set[Path]:
    """Return the files that were trained on, wherever links lead; those that are gone need no protection."""
    found: set[Path] = set()
    for concept in concepts:
        regions = [concept.region] if isinstance(concept.region, Region) else concept.region or ()
        for source in (concept.images, concept.mask, *(region.mask for region in regions)):
            pictures: list[PictureSource] = []
            with contextlib.suppress(PictureError):
                pictures = [] if source is None else find_pictures(source)
            found |= {Path(one).resolve() for one in pictures if isinstance(one, str | os.PathLike)}
    return found
