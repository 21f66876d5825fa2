"""Concepts in a pipeline while they are trained: rows for some text encoders, the description for the others."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from .backbones import Backbone
from .placeholders import check_trigger_is_free
from .progress import ConceptProgress
from .vocabulary import add_rows, check_can_add_rows, describe, forget_descriptions, remove_rows, write_rows


def check_can_add(backbone: Backbone) -> None:
    """Check that rows can be added to all text encoders that are trained.

    Raises:
        ConceptLoadError: One is being trained, out of reach or quantised, or its tokenizers disagree.
    """
    for pair in backbone.trained:
        check_can_add_rows(pair)


def check_triggers_are_free(backbone: Backbone, tokens: Sequence[str]) -> None:
    """Check that no tokenizer knows one of the placeholder tokens yet; something may have been loaded since.

    Raises:
        PlaceholderTokenError: One does.
    """
    for pair in backbone.pairs:
        for token in tokens:
            check_trigger_is_free(token, pair.tokenizer)


@contextlib.contextmanager
def concepts_added(backbone: Backbone, concepts: Sequence[ConceptProgress]) -> Iterator[None]:
    """Add concepts to a pipeline; if training fails or is interrupted, take them out again."""
    pipe: Any = backbone.pipe
    tokens = [concept.placeholder_token for concept in concepts]
    words = {concept.placeholder_token: concept.description for concept in concepts if concept.description}
    with contextlib.ExitStack() as undo:
        for pair in backbone.trained:
            name = pair.encoder_name
            add_rows(pipe, pair, {concept.placeholder_token: concept.initial_rows[name] for concept in concepts})
            undo.callback(remove_rows, pipe, pair, tokens)
        for pair in backbone.described if words else ():
            undo.callback(forget_descriptions, pipe, pair, list(words))
            describe(pipe, pair, words)
        yield
        undo.pop_all()


def write_learned(backbone: Backbone, concepts: Sequence[ConceptProgress]) -> None:
    """Put the rows as they are now into the text encoders."""
    for pair in backbone.trained:
        for concept in concepts:
            write_rows(pair, concept.placeholder_token, concept.rows[pair.encoder_name])
