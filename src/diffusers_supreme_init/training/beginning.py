"""Prepared concepts -> concepts ready for their first step: find regions and words, encode pictures, choose words."""

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
from ..errors import DescriberError, PictureError, RegionError
from ..objective.latents import PictureLatents
from ..objective.losses import autocast_dtype
from ..templates import fill_template
from ..text.initialization import Initialization
from .preparation import PreparedConcept, check_fit, description_of, initialize_from_words
from .progress import ConceptProgress
from .proposals import candidate_table
from .words import DescribedConcept, choose_words, describe_concept, encode_pictures, given_masks, tell_coverage

logger = logging.getLogger(__name__)

FoundWords = tuple[str, dict[str, Any]]
"""Words that describers found, and the record of how they were found."""


def begin_concepts(
    backbone: Backbone,
    prepared: Sequence[PreparedConcept],
    config: SupremeInitConfig,
    accelerator: Accelerator,
    *,
    describers: Describers | None,
    known_words: Mapping[str, FoundWords],
) -> list[ConceptProgress]:
    """Get all concepts ready for their first step, using one kind of model at a time; the pipeline is left unchanged.

    Args:
        backbone: Backbone of the untouched pipeline.
        prepared: Checked concepts.
        config: Settings of the run.
        accelerator: Accelerator with the device and the processes.
        describers: The models that find words and regions; None: the defaults. Released before the pipeline is used.
        known_words: Words that an interrupted run found, by placeholder token; describers are not asked again.

    Raises:
        SupremeInitError: One of its subclasses: a picture, a region, the words or the initial rows are unusable.
    """
    describers = describers or Describers(device=accelerator.device)
    known = {
        concept.placeholder_token: known_words[concept.placeholder_token]
        for concept in prepared
        if _is_same_question(concept, known_words.get(concept.placeholder_token))
    }
    described: list[DescribedConcept] = []
    hide = len(prepared) < 2 or not accelerator.is_local_main_process or not any(map(_asks_describers, prepared))
    for concept in tqdm(prepared, desc="describing", unit="concept", disable=hide):
        is_known = concept.placeholder_token in known
        try:
            described.append(describe_concept(concept, backbone, describers, config, words_are_known=is_known))
        except (PictureError, RegionError, DescriberError) as error:
            raise type(error)(f"{concept.placeholder_token}: {error}") from error
    # Released now, because the pipeline needs the memory.
    describers.release()
    device, show = accelerator.device, accelerator.is_local_main_process
    latents = encode_pictures(backbone, [one.pictures for one in described], config, device, progress_bar=show)
    for concept in prepared:  # after encoding, which checks the sizes of masks
        tell_coverage(concept.placeholder_token, given_masks(concept, describers, config))
    candidates = choose_words(
        backbone,
        described,
        latents,
        config,
        describers,
        device,
        autocast_dtype=autocast_dtype(config, accelerator),
        progress_bar=show,
    )
    if accelerator.num_processes > 1:
        # Captions and losses may differ slightly between processes, so all continue with the first one's.
        broadcast_object_list(candidates)

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
    """Return a concept's initial rows in each trained text encoder, from words that describers found.

    Raises:
        InitializerError: The words give no tokens to start from, or too many.
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
    """Return a concept as it is before its first step."""
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
    if choice.num_tied > 1:
        logger.info("%s: the first %d cannot be told apart by these noises", token, choice.num_tied)


def _region_record(prepared: PreparedConcept) -> dict[str, Any] | None:
    """Return the regions as JSON values; a mask becomes a flag, because its path is private to the user."""
    if prepared.regions is None:
        return None
    names = ("points", "negative_points", "box")
    regions = [
        {**{name: getattr(region, name) for name in names}, "mask": region.mask is not None}
        for region in prepared.regions
    ]
    return {"train_on": prepared.concept.train_on, "regions": regions}
