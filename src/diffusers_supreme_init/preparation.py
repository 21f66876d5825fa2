"""Concepts as the user gave them -> concepts that are ready to train; everything is checked here first."""

from collections.abc import Sequence
from dataclasses import dataclass

from .backbones import Backbone
from .concepts import Concept, find_masks
from .config import SupremeInitConfig
from .embedding_file import read_embedding
from .errors import ConfigError, InitializerError
from .initialization import Initialization, continue_from, find_saved_embedding, initialize
from .latents import encode_concept
from .pictures import PictureSource, find_pictures
from .placeholders import check_placeholder_token, check_rows_fit
from .progress import ConceptProgress
from .templates import OBJECT_TEMPLATES, STYLE_TEMPLATES, VALIDATION_TEMPLATE, check_templates, fill_template
from .text_pairs import TextPair

_TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}
_VALIDATION_TEMPLATES = {"object": VALIDATION_TEMPLATE, "style": STYLE_TEMPLATES[0]}


@dataclass(frozen=True)
class PreparedConcept:
    """A concept that was checked: pictures exist, names are free, rows fit. No picture was decoded yet.

    Attributes:
        placeholder_token: Its name.
        pictures: One source per picture.
        masks: One per picture, or None.
        initialization: Where its rows start.
        prompts: Training prompts.
        validation_prompt: Prompt of the fixed-noise loss.
    """

    placeholder_token: str
    pictures: list[PictureSource]
    masks: list[PictureSource] | None
    initialization: Initialization
    prompts: tuple[str, ...]
    validation_prompt: str


def prepare_concepts(
    backbone: Backbone, concepts: Sequence[Concept], config: SupremeInitConfig
) -> list[PreparedConcept]:
    """Check concepts and find their initial rows; nothing is changed.

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


def begin_concept(
    backbone: Backbone, prepared: PreparedConcept, config: SupremeInitConfig, *, progress_bar: bool
) -> ConceptProgress:
    """Encode a concept's pictures; the result stands before its first step.

    Raises:
        PictureError: A picture or mask is unusable.
        TrainingError: The autoencoder gives NaN.
    """
    latents = encode_concept(backbone, prepared.pictures, prepared.masks, config, progress_bar=progress_bar)
    return ConceptProgress(
        placeholder_token=prepared.placeholder_token,
        description=prepared.initialization.description,
        initializer=prepared.initialization.tokens,
        initial_rows=prepared.initialization.rows,
        prompts=prepared.prompts,
        validation_prompt=prepared.validation_prompt,
        latents=latents,
        rows=prepared.initialization.rows,
    )


def _prepare(pair: TextPair, concept: Concept, config: SupremeInitConfig) -> PreparedConcept:
    pictures = find_pictures(concept.images)
    masks = find_masks(concept, len(pictures))
    initialization = _initialize(pair, concept)
    token, description = concept.placeholder_token, initialization.description
    templates = _TEMPLATES[config.learnable_property] if concept.templates is None else tuple(concept.templates)
    prompts = tuple(fill_template(template, token, description) for template in check_templates(templates))
    validation_prompt = fill_template(_VALIDATION_TEMPLATES[config.learnable_property], token, description)
    check_rows_fit(token, len(initialization.rows), [*prompts, validation_prompt], pair.tokenizer)
    return PreparedConcept(token, pictures, masks, initialization, prompts, validation_prompt)


def _initialize(pair: TextPair, concept: Concept) -> Initialization:
    path = find_saved_embedding(concept.initializer)
    if path is None:
        return initialize(pair, str(concept.initializer), num_vectors=concept.num_vectors)
    if concept.num_vectors is not None:
        raise InitializerError("num_vectors: a saved embedding has its own number of rows; leave num_vectors out")
    saved = read_embedding(path)
    return continue_from(pair, saved.rows, saved.description or "")
