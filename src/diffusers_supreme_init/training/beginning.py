"""Prepared concepts -> concepts before their first step: find regions and words, encode pictures, choose."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..describers import Describers
from ..describers.candidates import Candidates, record_of
from ..describers.selection import select_pictures, training_pictures
from ..errors import DescriberError, RegionError
from ..objective.latents import PictureLatents, encode_concept
from ..objective.losses import autocast_dtype
from ..objective.phases import ready_to_encode, ready_to_step
from ..pictures import TrainingPictures
from ..templates import fill_template
from ..text.initialization import Initialization
from .preparation import PreparedConcept, check_fit, description_of, initialize_from_words
from .progress import ConceptProgress
from .proposals import candidate_table, find_words, score_candidates

logger = logging.getLogger(__name__)

FoundWords = tuple[str, dict[str, Any]]
"""Words that were found, and the record of how."""


def begin_concepts(
    backbone: Backbone,
    prepared: Sequence[PreparedConcept],
    config: SupremeInitConfig,
    accelerator: Accelerator,
    *,
    describers: Describers | None,
    known_words: Mapping[str, FoundWords],
) -> list[ConceptProgress]:
    """Bring all concepts to their first step, each kind of model at a time; the pipeline is left as it was.

    Args:
        backbone: The untouched model.
        prepared: Concepts that were checked.
        config: Settings.
        accelerator: Gives the device and the processes.
        describers: What finds words and regions; None: the defaults. Released before the model is needed.
        known_words: By placeholder token; what an interrupted run had found is not asked for again.

    Raises:
        SupremeInitError: One of its subclasses, by what is wrong.
    """
    describers = describers or Describers(device=accelerator.device)
    known = {
        concept.placeholder_token: known_words[concept.placeholder_token]
        for concept in prepared
        if _is_same_question(concept, known_words.get(concept.placeholder_token))
    }
    pictures, candidates = [], []
    hide = len(prepared) < 2 or not accelerator.is_local_main_process or not any(map(_asks_describers, prepared))
    for concept in tqdm(prepared, desc="describing", unit="concept", disable=hide):
        try:
            found = _describe(concept, backbone, describers, config, is_known=concept.placeholder_token in known)
        except (RegionError, DescriberError) as error:
            raise type(error)(f"{concept.placeholder_token}: {error}") from error
        pictures.append(found[0])
        candidates.append(found[1])
    describers.release()  # the model needs the memory
    latents = _encode(backbone, pictures, config, accelerator)
    candidates = _choose(backbone, prepared, latents, candidates, config, describers, accelerator)

    begun = []
    for concept, encoded, choice in zip(prepared, latents, candidates, strict=True):
        words: FoundWords | None = known.get(concept.placeholder_token)
        if choice is not None:
            words = choice.usable[0].text, record_of(choice, str(concept.concept.initializer), describers)
            _tell(concept, choice, accelerator)
        elif words is not None and accelerator.is_main_process:
            logger.info("%s starts from %r, as the checkpoint says", concept.placeholder_token, words[0])
        elif accelerator.is_main_process:
            logger.info("%s starts from %r", concept.placeholder_token, str(concept.concept.initializer))
        initializations = concept.initializations
        if initializations is None and words is not None:
            initializations = initialize_concept(backbone, concept, words[0])
        assert initializations is not None, "a concept has initial rows, or its words were found"
        begun.append(begin_concept(concept, initializations, encoded, words[1] if words else None))
    return begun


def initialize_concept(backbone: Backbone, prepared: PreparedConcept, description: str) -> dict[str, Initialization]:
    """Start a concept's rows in each trained text encoder from words that were found.

    Raises:
        InitializerError: They give no tokens to start from, or too many.
    """
    initializations = initialize_from_words(backbone, description, prepared.concept.num_vectors)
    check_fit(backbone, prepared, initializations)
    return initializations


def begin_concept(
    prepared: PreparedConcept,
    initializations: Mapping[str, Initialization],
    latents: PictureLatents,
    initializer_record: dict[str, Any] | None,
) -> ConceptProgress:
    """Return the concept as it stands before its first step."""
    token, description = prepared.placeholder_token, description_of(initializations)
    rows = {name: one.rows for name, one in initializations.items()}
    return ConceptProgress(
        placeholder_token=token,
        description=description,
        initializer={name: one.tokens for name, one in initializations.items() if one.tokens is not None},
        initial_rows=rows,
        prompts=tuple(fill_template(template, token, description) for template in prepared.templates),
        validation_prompt=fill_template(prepared.validation_template, token, description),
        random_key=prepared.concept.random_key or token,
        latents=latents,
        rows=rows,
        region_record=_region_record(prepared),
        initializer_record=initializer_record,
    )


def _asks_describers(prepared: PreparedConcept) -> bool:
    return prepared.initializations is None or prepared.regions is not None


def _is_same_question(prepared: PreparedConcept, words: FoundWords | None) -> bool:
    return words is not None and words[1]["method"] == prepared.concept.method


def _describe(
    prepared: PreparedConcept,
    backbone: Backbone,
    describers: Describers,
    config: SupremeInitConfig,
    *,
    is_known: bool,
) -> tuple[TrainingPictures, Candidates | None]:
    if not _asks_describers(prepared) or (is_known and prepared.regions is None):
        return TrainingPictures(prepared.pictures, prepared.masks, masked=config.masked_loss), None
    train_on = prepared.concept.train_on
    selected = select_pictures(prepared.pictures, prepared.regions, train_on, describers)
    pictures = training_pictures(selected, prepared.masks, train_on, masked_loss=config.masked_loss)
    if prepared.initializations is not None or is_known:
        return pictures, None
    return pictures, find_words(prepared, selected, backbone, describers, config)


def _encode(
    backbone: Backbone, pictures: Sequence[TrainingPictures], config: SupremeInitConfig, accelerator: Accelerator
) -> list[PictureLatents]:
    show = accelerator.is_local_main_process
    with ready_to_encode(backbone, accelerator.device):
        return [encode_concept(backbone, each, config, progress_bar=show) for each in pictures]


def _choose(
    backbone: Backbone,
    prepared: Sequence[PreparedConcept],
    latents: Sequence[PictureLatents],
    candidates: Sequence[Candidates | None],
    config: SupremeInitConfig,
    describers: Describers,
    accelerator: Accelerator,
) -> list[Candidates | None]:
    """Put the best candidate of each concept first. All processes go on with what the first one found."""
    chosen = list(candidates)
    several = {index: found for index, found in enumerate(candidates) if found is not None and len(found.usable) > 1}
    if several:
        prompts = [
            fill_template(prepared[index].validation_template, candidate.text, candidate.text)
            for index, found in several.items()
            for candidate in found.usable
        ]
        with ready_to_step(backbone, accelerator.device, prompts):
            for index, found in several.items():
                chosen[index] = score_candidates(
                    backbone,
                    latents[index],
                    found,
                    config,
                    template=prepared[index].validation_template,
                    num_samples=describers.config.score_samples,
                    device=accelerator.device,
                    autocast_dtype=autocast_dtype(config, accelerator),
                    progress_bar=accelerator.is_local_main_process,
                )
    return broadcast_object_list(chosen) if accelerator.num_processes > 1 else chosen


def _tell(prepared: PreparedConcept, choice: Candidates, accelerator: Accelerator) -> None:
    if not accelerator.is_main_process:
        return
    token, best = prepared.placeholder_token, choice.usable[0]
    for note in choice.notes:
        logger.warning("%s: %s", token, note)
    cut = f" ({best.num_cut} tokens cut)" if best.num_cut else ""
    logger.info("%s starts from the %s %r%s", token, best.source, best.text, cut)
    if len(choice.usable) > 1:
        logger.info("%s", candidate_table(choice.usable))


def _region_record(prepared: PreparedConcept) -> dict[str, Any] | None:
    """Return the regions as JSON values; of a mask only that there was one, since its path is the user's."""
    if prepared.regions is None:
        return None
    names = ("points", "negative_points", "box")
    regions = [
        {**{name: getattr(region, name) for name in names}, "mask": region.mask is not None}
        for region in prepared.regions
    ]
    return {"train_on": prepared.concept.train_on, "regions": regions}
