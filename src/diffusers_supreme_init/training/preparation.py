"""Concepts as the user gave them -> checked concepts, with initial rows if their words are known."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..backbones import Backbone
from ..concepts import METHODS, Concept, find_masks, find_regions
from ..config import SupremeInitConfig
from ..describers import Region
from ..errors import ConfigError, InitializerError, PictureError, SupremeInitWarning, shown
from ..formats.embedding_file import LearnedEmbedding
from ..formats.readers import read_embeddings
from ..inputs.paths import looks_like_path
from ..pictures import PictureSource, find_pictures
from ..templates import OBJECT_TEMPLATES, STYLE_TEMPLATES, VALIDATION_TEMPLATE, check_templates, fill_template
from ..text.initialization import Initialization, continue_from, find_saved_embedding, initialize
from ..text.placeholders import (
    TokenLimit,
    check_description_fits,
    check_placeholder_token,
    check_rows_fit,
    num_rows_that_fit,
)
from ..text.text_pairs import TextPair, identify_encoder
from ..triggers import holds_trigger, trigger_table

_TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}
_VALIDATION_TEMPLATES = {"object": VALIDATION_TEMPLATE, "style": STYLE_TEMPLATES[0]}


@dataclass(frozen=True)
class PreparedConcept:
    """A checked concept: its pictures exist, its name is free and its rows fit. No picture has been decoded yet.

    Attributes:
        concept: The concept as the user gave it.
        pictures: One source per picture.
        masks: One mask per picture, or None.
        regions: One region per picture, or None.
        templates: Templates of the training prompts.
        validation_template: Template of the fixed-noise loss's prompt.
        initializations: Initial rows by trained text encoder; None if describers have to find the words.
    """

    concept: Concept
    pictures: list[PictureSource]
    masks: list[PictureSource] | None
    regions: list[Region] | None
    templates: tuple[str, ...]
    validation_template: str
    initializations: dict[str, Initialization] | None

    @property
    def compares_words(self) -> bool:
        """Whether describers may find several candidates, which are compared on the object."""
        method = self.concept.method
        return method == "auto" or (method == "caption" and len(self.pictures) > 1)

    @property
    def placeholder_token(self) -> str:
        """The concept's name."""
        return self.concept.placeholder_token


def prepare_concepts(
    backbone: Backbone, concepts: Sequence[Concept], config: SupremeInitConfig
) -> list[PreparedConcept]:
    """Check concepts and find the initial rows of those whose words are given; nothing is changed.

    Raises:
        SupremeInitError: One of its subclasses: a token, a picture, a region, a template or the words are unusable.
    """
    if not concepts:
        raise ConfigError("concepts: expected at least one, got an empty list")
    tokenizers = [slot.tokenizer for pair in backbone.pairs for slot in pair.slots]
    for concept in concepts:
        check_placeholder_token(concept.placeholder_token, tokenizers)
    tokens = [concept.placeholder_token for concept in concepts]
    if len(set(tokens)) != len(tokens):
        raise ConfigError(f"concepts: expected different placeholder tokens, got {tokens}")
    return [_prepare(backbone, concept, config) for concept in concepts]


def initializer_limits(prepared: PreparedConcept, backbone: Backbone) -> list[TokenLimit]:
    """Return, for each text encoder, how many tokens of found words fit beside the longest prompt.

    In a trained text encoder, `num_vectors` is a limit too, since every token needs a row.
    """
    limits = []
    for pair in (*backbone.trained, *backbone.described):
        room = num_rows_that_fit(
            prepared.placeholder_token, _prompts(prepared, ""), pair.tokenizer, backbone.window(pair)
        )
        num_rows = prepared.concept.num_vectors if pair in backbone.trained else None
        limits.append(TokenLimit(pair.tokenizer, min(room, num_rows or room)))
    return limits


def description_of(initializations: Mapping[str, Initialization]) -> str:
    """Return the words that a concept's rows started from; ``""`` if unknown."""
    return next((one.description for one in initializations.values() if one.description), "")


def initialize_from_words(backbone: Backbone, description: str, num_vectors: int | None) -> dict[str, Initialization]:
    """Return the initial rows for a description in each trained text encoder.

    Raises:
        InitializerError: The description gives no tokens to start from.
    """
    return {pair.encoder_name: initialize(pair, description, num_vectors=num_vectors) for pair in backbone.trained}


def check_fit(backbone: Backbone, prepared: PreparedConcept, initializations: Mapping[str, Initialization]) -> None:
    """Check that a concept fits into every text encoder's window: its rows where trained, else its description.

    Raises:
        InitializerError: The concept does not fit, or its description contains the name of a concept.
    """
    token, description = prepared.placeholder_token, description_of(initializations)
    prompts = _prompts(prepared, description)
    for pair in backbone.trained:
        num_vectors = len(initializations[pair.encoder_name].rows)
        check_rows_fit(token, num_vectors, prompts, pair.tokenizer, backbone.window(pair), pair.encoder_name)
    for pair in backbone.described if description else ():
        if holds_trigger(description, [token, *trigger_table(pair.tokenizer)]):
            raise InitializerError(
                f"initializer of {token}: expected words that {pair.encoder_name} can read in its place, got "
                f"{description!r}, which holds the name of a concept"
            )
        texts = [prompt.replace(token, description) for prompt in prompts]
        check_description_fits(description, texts, pair.tokenizer, backbone.window(pair), pair.encoder_name)


def _prepare(backbone: Backbone, concept: Concept, config: SupremeInitConfig) -> PreparedConcept:
    try:
        pictures = find_pictures(concept.images)
    except PictureError as error:
        raise PictureError(f"{concept.placeholder_token}: {error}") from error
    if paths := [text for text in concept.candidates if looks_like_path(text)]:
        raise ConfigError(f"candidates: expected words, got {shown(paths[0])}, which looks like a path")
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
        None if concept.method else _initialize(backbone, concept),
    )
    if any(limit.limit < 1 for limit in initializer_limits(prepared, backbone)):
        raise ConfigError("templates: expected to leave room for the concept, got one as long as the encoder's window")
    if prepared.initializations is not None:
        check_fit(backbone, prepared, prepared.initializations)
    return prepared


def _prompts(prepared: PreparedConcept, description: str) -> list[str]:
    templates = [*prepared.templates, prepared.validation_template]
    return [fill_template(template, prepared.placeholder_token, description) for template in templates]


def _initialize(backbone: Backbone, concept: Concept) -> dict[str, Initialization]:
    paths = find_saved_embedding(concept.initializer)
    if not paths:
        _warn_of_near_miss(str(concept.initializer))
        return initialize_from_words(backbone, str(concept.initializer), concept.num_vectors)
    if concept.num_vectors is not None:
        raise InitializerError("num_vectors: a saved embedding has its own number of rows; leave num_vectors out")
    embeddings = [embedding for path in paths for embedding in read_embeddings(path)]
    description = next((saved.description for saved in embeddings if saved.description), "")
    where = repr(str(concept.initializer))
    fitting = {pair.encoder_name: _embeddings_for(pair, embeddings) for pair in backbone.trained}
    initializations = {}
    for pair in backbone.trained:
        found = fitting[pair.encoder_name]
        if len(found) > 1:
            raise InitializerError(
                f"initializer: expected one embedding of width {pair.hidden_size} in {where}, got {len(found)}; "
                "pass a file for one"
            )
        if found:
            initializations[pair.encoder_name] = continue_from(pair, found[0].rows, description)
        elif any(fitting.values()) and description:
            # Saved for another encoder of this pipeline: this one starts from the same description.
            initializations[pair.encoder_name] = initialize(pair, description)
        else:
            # No saved rows fit: `continue_from` raises the error that names both widths.
            initializations[pair.encoder_name] = continue_from(pair, embeddings[0].rows, description)
    return initializations


def _embeddings_for(pair: TextPair, embeddings: Sequence[LearnedEmbedding]) -> list[LearnedEmbedding]:
    """Return the saved embeddings that were trained for a text encoder, or else those of its width."""
    identity = identify_encoder(pair)
    own = [saved for saved in embeddings if saved.encoder is not None and saved.encoder.serves(identity)]
    return own or [saved for saved in embeddings if saved.hidden_size == pair.hidden_size]


def _warn_of_near_miss(text: str) -> None:
    close = difflib.get_close_matches(text.strip().lower(), METHODS, n=1, cutoff=0.8)
    if close:
        warnings.warn(
            f"initializer {text!r} is taken as the words to start from; did you mean {close[0]!r}?",
            SupremeInitWarning,
            stacklevel=2,
        )
