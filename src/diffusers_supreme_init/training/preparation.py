"""Concepts as the user gave them: check everything before the first change, and find the rows of given words."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ..backbones import Backbone
from ..concepts import METHODS, Concept, find_masks, find_regions
from ..config import SupremeInitConfig
from ..describers import Describers
from ..errors import ConfigError, InitializerError, PictureError, SupremeInitWarning, shown
from ..formats.embedding_file import LearnedEmbedding
from ..formats.readers import read_embeddings
from ..inputs.paths import looks_like_path
from ..pictures import find_pictures
from ..templates import OBJECT_TEMPLATES, STYLE_TEMPLATES, VALIDATION_TEMPLATE, check_templates, fill_template
from ..text.initialization import Initialization, continue_from, initialize
from ..text.saved_embedding import find_saved_embedding
from ..text.text_pairs import TextPair, identify_encoder
from ..text.tokenization import TokenLimit, check_description_fits, check_rows_fit, num_rows_that_fit
from ..triggers import check_placeholder_token, folded, holds_trigger, trigger_table

_TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}
_VALIDATION_TEMPLATES = {"object": VALIDATION_TEMPLATE, "style": STYLE_TEMPLATES[0]}

Initializations: TypeAlias = dict[str, Initialization]
"""Initial rows of one concept: ``{trained text encoder: initial rows}``."""


def check_concepts(
    backbone: Backbone, concepts: Sequence[Concept], config: SupremeInitConfig
) -> dict[str, Initializations]:
    """Check that all names are free, all pictures exist and all rows fit; nothing is changed, no picture is decoded.

    Returns:
        The initial rows of the concepts whose words are given, by placeholder token; describers find all others.

    Raises:
        SupremeInitError: One of its subclasses: a token, a picture, a region, a template or the words are unusable.
    """
    if not concepts:
        raise ConfigError("concepts: expected at least one, got an empty list")
    tokenizers = [slot.tokenizer for pair in backbone.pairs for slot in pair.slots]
    for concept in concepts:
        check_placeholder_token(concept.placeholder_token, tokenizers)
    tokens = [concept.placeholder_token for concept in concepts]
    if len({folded(token) for token in tokens}) != len(tokens):
        raise ConfigError(f"concepts: expected different placeholder tokens, got {tokens}")
    found = {concept.placeholder_token: _check(backbone, concept, config) for concept in concepts}
    return {token: initializations for token, initializations in found.items() if initializations is not None}


def training_templates(concept: Concept, config: SupremeInitConfig) -> tuple[str, ...]:
    """Return the templates of a concept's training prompts.

    Raises:
        ConfigError: There are no templates, or one does not have exactly one ``{}``.
    """
    given = concept.templates
    return check_templates(_TEMPLATES[config.learnable_property] if given is None else tuple(given))


def validation_template(config: SupremeInitConfig) -> str:
    """Return the template of the fixed-noise loss's prompt."""
    return _VALIDATION_TEMPLATES[config.learnable_property]


def prompts_of(concept: Concept, config: SupremeInitConfig, description: str) -> list[str]:
    """Return a concept's training prompts, and after them the prompt of its fixed-noise loss."""
    templates = [*training_templates(concept, config), validation_template(config)]
    return [fill_template(template, concept.placeholder_token, description) for template in templates]


def initializer_limits(backbone: Backbone, concept: Concept, config: SupremeInitConfig) -> list[TokenLimit]:
    """Return, for each text encoder, how many tokens of found words fit beside the longest prompt.

    In a trained text encoder, `num_vectors` is a limit too, since every token needs a row.
    """
    limits, prompts = [], prompts_of(concept, config, "")
    for pair in (*backbone.trained, *backbone.described):
        room = num_rows_that_fit(concept.placeholder_token, prompts, pair.tokenizer, backbone.window(pair))
        num_rows = concept.num_vectors if pair in backbone.trained else None
        limits.append(TokenLimit(pair.tokenizer, min(room, num_rows or room)))
    return limits


def description_of(initializations: Mapping[str, Initialization]) -> str:
    """Return the words that a concept's rows started from; ``""`` if unknown."""
    return next((one.description for one in initializations.values() if one.description), "")


def initialize_from_words(backbone: Backbone, description: str, num_vectors: int | None) -> Initializations:
    """Return the initial rows for a description in each trained text encoder.

    Raises:
        InitializerError: The description gives no tokens to start from.
    """
    return {pair.encoder_name: initialize(pair, description, num_vectors=num_vectors) for pair in backbone.trained}


def check_fit(
    backbone: Backbone, concept: Concept, config: SupremeInitConfig, initializations: Mapping[str, Initialization]
) -> None:
    """Check that a concept fits into every text encoder's window: its rows where trained, else its description.

    Raises:
        InitializerError: The concept does not fit, or its description contains the name of a concept.
    """
    token, description = concept.placeholder_token, description_of(initializations)
    prompts = prompts_of(concept, config, description)
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


def compares_words(concept: Concept) -> bool:
    """Whether describers may find several candidates, which are compared on the object."""
    method = concept.method
    return method == "auto" or (method == "caption" and len(find_pictures(concept.images, quietly=True)) > 1)


def warn_of_unused_masks(
    concepts: Sequence[Concept], describers: Describers | None, config: SupremeInitConfig
) -> None:
    """Say which concepts have masks that neither the loss nor the comparison of words uses.

    Warns:
        SupremeInitWarning: There are some.
    """
    if config.masked_loss:
        return
    compares = describers is None or describers.config.score_object
    unused = [
        concept.placeholder_token
        for concept in concepts
        if concept.mask is not None and not (compares and compares_words(concept))
    ]
    if unused:
        names = ", ".join(unused[:10]) + (f" and {len(unused) - 10} more" if len(unused) > 10 else "")
        warnings.warn(
            f"{names}: the mask is not used without SupremeInitConfig(masked_loss=True); pass it, or "
            "leave the mask out",
            SupremeInitWarning,
            stacklevel=3,
        )


def warn_of_unused_settings(config: SupremeInitConfig) -> None:
    """Say which settings change nothing beside the others.

    Warns:
        SupremeInitWarning: There are some.
    """
    if config.lr_warmup_steps and config.lr_scheduler == "constant":
        warnings.warn(
            "lr_warmup_steps: lr_scheduler='constant' has no warm-up; pass 'constant_with_warmup'",
            SupremeInitWarning,
            stacklevel=3,
        )


def _check(backbone: Backbone, concept: Concept, config: SupremeInitConfig) -> Initializations | None:
    """Check one concept; return its initial rows, or None if describers have to find its words."""
    try:
        num_pictures = len(find_pictures(concept.images))
    except PictureError as error:
        raise PictureError(f"{concept.placeholder_token}: {error}") from error
    if paths := [text for text in concept.candidates if looks_like_path(text)]:
        raise ConfigError(f"candidates: expected words, got {shown(paths[0])}, which looks like a path")
    if concept.candidates and concept.method != "auto":
        raise ConfigError(
            f"{concept.placeholder_token}: expected candidates only with initializer='auto', got them with "
            f"{str(concept.initializer)!r}"
        )
    find_masks(concept, num_pictures)
    find_regions(concept, num_pictures)
    training_templates(concept, config)
    initializations = None if concept.method else _initialize(backbone, concept)
    if any(limit.limit < 1 for limit in initializer_limits(backbone, concept, config)):
        raise ConfigError("templates: expected to leave room for the concept, got one as long as the encoder's window")
    if initializations is not None:
        check_fit(backbone, concept, config, initializations)
    return initializations


def _initialize(backbone: Backbone, concept: Concept) -> Initializations:
    if concept.initializer_record is not None:  # words that were found, whatever file may be called so
        return initialize_from_words(backbone, str(concept.initializer), concept.num_vectors)
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
