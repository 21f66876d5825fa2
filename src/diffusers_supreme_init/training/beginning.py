"""Checked concepts -> concepts ready for their first step: find regions and words, encode pictures, choose words."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image
from tqdm.auto import tqdm

from ..backbones import Backbone
from ..concepts import Concept, find_regions
from ..config import SupremeInitConfig
from ..describers import Describers
from ..describers.candidates import Candidates
from ..describers.finding import initializer_record_of
from ..describers.proposal import candidate_table
from ..errors import DescriberError, PictureError, RegionError
from ..objective.latents import PictureLatents
from ..objective.losses import autocast_dtype
from ..pictures import as_thumbnail, faded
from .preparation import Initializations, check_fit, description_of, initialize_from_words, prompts_of
from .progress import ConceptProgress
from .word_finding import Findings, choose_words, describe_concept, encode_pictures, given_masks, tell_coverage

logger = logging.getLogger(__name__)
candidates_logger = logger.getChild("candidates")

FoundWords = tuple[str, dict[str, Any]]
"""Words that describers found, and the record of how they were found."""


def begin_concepts(
    backbone: Backbone,
    concepts: Sequence[Concept],
    given: Mapping[str, Initializations],
    config: SupremeInitConfig,
    accelerator: Accelerator,
    *,
    describers: Describers | None,
    known_words: Mapping[str, FoundWords],
) -> list[ConceptProgress]:
    """Get all concepts ready for their first step, using one kind of model at a time; the pipeline is left unchanged.

    Args:
        backbone: Backbone of the untouched pipeline.
        concepts: Checked concepts.
        given: The initial rows of those whose words are given, from `check_concepts`.
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
        for concept in concepts
        if _is_same_question(concept, known_words.get(concept.placeholder_token))
    }
    findings: list[Findings] = []
    hide = len(concepts) < 2 or not accelerator.is_local_main_process or not any(map(_asks_describers, concepts))
    for concept in tqdm(concepts, desc="describing", unit="concept", leave=False, disable=hide):
        is_known = concept.placeholder_token in known
        try:
            findings.append(describe_concept(concept, backbone, describers, config, words_are_known=is_known))
        except (PictureError, RegionError, DescriberError) as error:
            raise type(error)(f"{concept.placeholder_token}: {error}") from error
    # Released now, because the pipeline needs the memory.
    describers.release()
    device, show = accelerator.device, accelerator.is_local_main_process
    latents = encode_pictures(backbone, [one.pictures for one in findings], config, device, progress_bar=show)
    for concept in concepts:  # after encoding, which checks the sizes of masks
        tell_coverage(concept.placeholder_token, given_masks(concept, describers, config))
    candidates = choose_words(
        backbone,
        findings,
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
    for concept, found, encoded, choice in zip(concepts, findings, latents, candidates, strict=True):
        words: FoundWords | None = known.get(concept.placeholder_token)
        if choice is not None:
            words = choice.usable[0].text, initializer_record_of(choice, str(concept.initializer), describers)
        if accelerator.is_main_process:
            _log_words(concept, choice, words)
        initializations = given.get(concept.placeholder_token)
        begun.append(begin_with_words(backbone, concept, config, initializations, words, found, encoded))
    return begun


def begin_with_words(
    backbone: Backbone,
    concept: Concept,
    config: SupremeInitConfig,
    given: Initializations | None,
    words: FoundWords | None,
    found: Findings,
    latents: PictureLatents,
) -> ConceptProgress:
    """Return a concept as it is before its first step, from its given initial rows or else the words that were found.

    Raises:
        InitializerError: The words give no tokens, or do not fit.
    """
    if given is None:
        assert words is not None, "describers found the words that were not given"
        given = initialize_from_words(backbone, words[0], concept.num_vectors)
        check_fit(backbone, concept, config, given)
    record = words[1] if words else concept.initializer_record
    start = begin_concept(concept, config, given, latents, None if record is None else dict(record))
    return replace(start, thumbnails=_thumbnails(found, latents))


def begin_concept(
    concept: Concept,
    config: SupremeInitConfig,
    initializations: Initializations,
    latents: PictureLatents,
    initializer_record: dict[str, Any] | None,
) -> ConceptProgress:
    """Return a concept as it is before its first step."""
    token, description = concept.placeholder_token, description_of(initializations)
    *prompts, validation_prompt = prompts_of(concept, config, description)
    rows = {name: one.rows for name, one in initializations.items()}
    return ConceptProgress(
        placeholder_token=token,
        description=description,
        initializer_tokens={name: one.tokens for name, one in initializations.items() if one.tokens is not None},
        initial_rows=rows,
        prompts=tuple(prompts),
        validation_prompt=validation_prompt,
        random_key=concept.random_key or token,
        latents=latents,
        rows=rows,
        last_good_rows=rows,
        region_record=_region_record(concept, len(latents)),
        initializer_record=initializer_record,
    )


def _thumbnails(found: Findings, latents: PictureLatents) -> tuple[Image.Image, ...]:
    """Return what a concept is learned from, see `ConceptProgress.thumbnails`."""
    shown = [] if latents.thumbnail is None else [latents.thumbnail]
    first = found.selected[0] if found.selected else None
    if first is not None and first.mask is not None:
        small = as_thumbnail(first.image)
        mask = Image.fromarray(first.mask.astype(np.uint8) * 255).resize(small.size)
        shown.insert(0, faded(small, mask))
    return tuple(shown)


def _asks_describers(concept: Concept) -> bool:
    return concept.method is not None or concept.region is not None


def _is_same_question(concept: Concept, words: FoundWords | None) -> bool:
    return words is not None and words[1]["method"] == concept.method


def _log_words(concept: Concept, choice: Candidates | None, words: FoundWords | None) -> None:
    token = concept.placeholder_token
    if choice is None:
        text, whence = (str(concept.initializer), "") if words is None else (words[0], ", as in the checkpoint")
        logger.info("%s starts from %r%s", token, text, whence)
        return
    best = choice.usable[0]
    for note in choice.notes:
        logger.warning("%s: %s", token, note)
    cut = f" ({best.num_cut} tokens cut)" if best.num_cut else ""
    others = f", the best of {len(choice.usable)}" if len(choice.usable) > 1 else ""
    logger.info("%s starts from the %s %r%s%s", token, best.source, best.text, others, cut)
    if others:
        candidates_logger.info("%s", candidate_table(choice.usable))
    if choice.num_tied > 1:
        candidates_logger.info(
            "%s: the losses of the first %d differ by less than their noise", token, choice.num_tied
        )


def _region_record(concept: Concept, num_pictures: int) -> dict[str, Any] | None:
    """Return the regions as JSON values; a mask becomes a flag, because its path is private to the user."""
    found = find_regions(concept, num_pictures)
    if found is None:
        return None
    names = ("points", "negative_points", "box", "words")
    regions = [
        {**{name: getattr(region, name) for name in names}, "mask": region.mask is not None} for region in found
    ]
    return {"train_on": concept.train_on, "regions": regions}
