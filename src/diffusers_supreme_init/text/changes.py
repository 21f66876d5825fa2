"""What is to change in a pipeline's text encoders: made as a whole, or taken back."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..multitoken import set_triggers
from ..triggers import Entry, row_table, trigger_table
from .text_pairs import TextPair
from .vocabulary import ConceptVocabulary


@dataclass(frozen=True)
class Change:
    """What to do with one text encoder: rows to add, descriptions to read, and triggers to read as letters again."""

    rows: dict[str, Tensor] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)


@contextlib.contextmanager
def changed(pipe: Any, pairs: Sequence[TextPair], changes: Mapping[str, Change]) -> Iterator[None]:
    """Change what a pipeline's text encoders know; if this or the body of ``with`` fails, change it back.

    Out of memory or interrupted, nothing half-loaded stays behind.

    Args:
        pipe: The pipeline.
        pairs: Its text encoders.
        changes: By name of the text encoder.
    """
    with contextlib.ExitStack() as undo:
        for pair in pairs:
            change = changes[pair.encoder_name]
            vocabulary = ConceptVocabulary(pair)
            added = [trigger for trigger in change.rows if trigger not in vocabulary.concepts]
            undo.callback(_take_back, pipe, pair, added, [dict(trigger_table(slot.tokenizer)) for slot in pair.slots])
            if change.rows:
                vocabulary.add(change.rows)
            vocabulary.forget(change.forgotten)
            vocabulary.describe(change.descriptions)
            refresh_config(pipe, pair)
        yield
        undo.pop_all()


def refresh_config(pipe: Any, pair: TextPair) -> None:
    """Renew ``pipe.config``, which records each component's class: the tokenizers' may have changed."""
    for slot in pair.slots:
        setattr(pipe, slot.component_name, slot.processor or slot.tokenizer)


def _take_back(pipe: Any, pair: TextPair, added: Sequence[str], tables: Sequence[Mapping[str, Entry]]) -> None:
    if added:
        ConceptVocabulary(pair).remove(added)
    for slot, table in zip(pair.slots, tables, strict=True):
        # Concepts that the encoder held before stay known, though the tokenizer has learned them only now.
        set_triggers(slot.tokenizer, {**table, **row_table(slot.tokenizer)}, slot.processor)
    refresh_config(pipe, pair)
