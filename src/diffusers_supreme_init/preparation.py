"""Concepts as the user gave them -> concepts that are ready to train; everything is checked here first."""

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .backbones import Backbone
from .concepts import METHODS, Concept, find_masks, find_regions
from .config import SupremeInitConfig
from .describers import Region
from .errors import ConfigError, InitializerError, SupremeInitWarning
from .formats import read_embeddings
from .initialization import Initialization, continue_from, find_saved_embedding, initialize
from .latents import PictureLatents
from .pictures import PictureSource, find_pictures
from .placeholders import check_placeholder_token, check_rows_fit, num_rows_that_fit
from .progress import ConceptProgress
from .templates import OBJECT_TEMPLATES, STYLE_TEMPLATES, VALIDATION_TEMPLATE, check_templates, fill_template
from .text_pairs import TextPair

_TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}
_VALIDATION_TEMPLATES = {"object": VALIDATION_TEMPLATE, "style": STYLE_TEMPLATES[0]}


@dataclass(frozen=True)
class PreparedConcept:
    """A concept that was checked: pictures exist, names are free, rows fit. No picture was decoded yet.

    Attributes:
        concept: As the user gave it.
        pictures: One source per picture.
        masks: One per picture, or None.
        regions: One per picture, or None.
        templates: Of the training prompts.
        validation_template: Of the prompt of the fixed-noise loss.
        initialization: Where its rows start; None until describers have found the words.
    """

    concept: Concept
    pictures: list[PictureSource]
    masks: list[PictureSource] | None
    regions: list[Region] | None
    templates: tuple[str, ...]
    validation_template: str
    initialization: Initialization | None

    @property
    def placeholder_token(self) -> str:
        """Its name."""
        return self.concept.placeholder_token


def prepare_concepts(
    backbone: Backbone, concepts: Sequence[Concept], config: SupremeInitConfig
) -> list[PreparedConcept]:
    """Check concepts, and find their initial rows where the words are given; nothing is changed.

    Raises:
        SupremeInitError: One of its subclasses, by what is wrong.
    """
    if not concepts:
        raise ConfigError("concepts: expected at least one, got an empty list")
    tokenizers = [slot.tokenizer for slot in backbone.pair.slots]
    for concept in concepts:
        check_placeholder_token(concept.placeholder_token, tokenizers)
    tokens = [concept.placeholder_token for concept in concepts]
    if len(set(tokens)) != len(tokens):
        raise ConfigError(f"concepts: expected different placeholder tokens, got {tokens}")
    return [_prepare(backbone.pair, concept, config) for concept in concepts]


def initialize_concept(pair: TextPair, prepared: PreparedConcept, description: str) -> Initialization:
    """Start a concept's rows from words that were found.

    Raises:
        InitializerError: They give no tokens to start from, or too many.
    """
    initialization = initialize(pair, description, num_vectors=prepared.concept.num_vectors)
    _check_fit(pair, prepared, initialization)
    return initialization


def begin_concept(
    prepared: PreparedConcept,
    initialization: Initialization,
    latents: PictureLatents,
    initializer_record: dict[str, Any] | None,
) -> ConceptProgress:
    """Return the concept as it stands before its first step."""
    token, description = prepared.placeholder_token, initialization.description
    return ConceptProgress(
        placeholder_token=token,
        description=description,
        initializer=initialization.tokens,
        initial_rows=initialization.rows,
        prompts=tuple(fill_template(template, token, description) for template in prepared.templates),
        validation_prompt=fill_template(prepared.validation_template, token, description),
        random_key=prepared.concept.random_key or token,
        latents=latents,
        rows=initialization.rows,
        region_record=_region_record(prepared),
        initializer_record=initializer_record,
    )


def num_initializer_tokens(prepared: PreparedConcept, pair: TextPair) -> int:
    """Return how many tokens of words that are still to be found have a row and fit beside the longest prompt."""
    num_fitting = num_rows_that_fit(prepared.placeholder_token, _prompts(prepared, ""), pair.tokenizer)
    return min(num_fitting, prepared.concept.num_vectors or num_fitting)


def _prepare(pair: TextPair, concept: Concept, config: SupremeInitConfig) -> PreparedConcept:
    pictures = find_pictures(concept.images)
    if isinstance(concept.candidates, str) or not all(isinstance(text, str) for text in concept.candidates):
        raise ConfigError(f"candidates: expected a list of texts, got {concept.candidates!r}; pass ['a red mug']")
    if concept.candidates and concept.method != "auto":
        raise ConfigError(
            f"{concept.placeholder_token}: expected candidates only with initializer='auto', got them with "
            f"{str(concept.initializer)!r}"
        )
    templates = _TEMPLATES[config.learnable_property] if concept.templates is None else tuple(concept.templates)
    prepared = PreparedConcept(
        concept,
        pictures,
        find_masks(concept, len(pictures)),
        find_regions(concept, len(pictures)),
        check_templates(templates),
        _VALIDATION_TEMPLATES[config.learnable_property],
        None if concept.method else _initialize(pair, concept),
    )
    if num_rows_that_fit(prepared.placeholder_token, _prompts(prepared, ""), pair.tokenizer) < 1:
        raise ConfigError("templates: expected to leave room for the concept, got one as long as the encoder's window")
    if prepared.initialization is not None:
        _check_fit(pair, prepared, prepared.initialization)
    return prepared


def _check_fit(pair: TextPair, prepared: PreparedConcept, initialization: Initialization) -> None:
    prompts = _prompts(prepared, initialization.description)
    check_rows_fit(prepared.placeholder_token, len(initialization.rows), prompts, pair.tokenizer)


def _prompts(prepared: PreparedConcept, description: str) -> list[str]:
    templates = [*prepared.templates, prepared.validation_template]
    return [fill_template(template, prepared.placeholder_token, description) for template in templates]


def _initialize(pair: TextPair, concept: Concept) -> Initialization:
    path = find_saved_embedding(concept.initializer)
    if path is None:
        _warn_of_near_miss(str(concept.initializer))
        return initialize(pair, str(concept.initializer), num_vectors=concept.num_vectors)
    if concept.num_vectors is not None:
        raise InitializerError("num_vectors: a saved embedding has its own number of rows; leave num_vectors out")
    embeddings = read_embeddings(path)
    fitting = [saved for saved in embeddings if saved.hidden_size == pair.hidden_size] or list(embeddings)
    if len(fitting) > 1:
        raise InitializerError(
            f"initializer: expected one embedding of width {pair.hidden_size} in {str(path)!r}, got {len(fitting)}; "
            "pass a file for one"
        )
    (saved,) = fitting
    return continue_from(pair, saved.rows, saved.description or "")


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


def _warn_of_near_miss(text: str) -> None:
    close = difflib.get_close_matches(text.strip().lower(), METHODS, n=1, cutoff=0.8)
    if close:
        warnings.warn(
            f"initializer {text!r} is taken as the words to start from; did you mean {close[0]!r}?",
            SupremeInitWarning,
            stacklevel=2,
        )
