"""Changes to a pipeline's text encoders: all of them are made, or none."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..multitoken import set_triggers
from ..triggers import Entry, row_table, trigger_table
from .text_pairs import TextPair
from .vocabulary import ConceptVocabulary

changing = threading.RLock()
"""Held while a vocabulary is looked at and changed, so that no other thread changes it in between.

Pipelines share text encoders and tokenizers in any combination, so there is one lock for all of them; nobody waits for
a download or a training step under it.
"""


@dataclass(frozen=True)
class Change:
    """The changes to one text encoder and its tokenizers.

    Attributes:
        rows: Concepts to add, ``{trigger: rows}`` with rows ``(num_vectors, hidden_size)``.
        descriptions: Triggers to read as words, ``{trigger: description}``.
        forgotten: Triggers to read as plain text again.
    """

    rows: dict[str, Tensor] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)


@contextlib.contextmanager
def changed(
    pipe: Any, pairs: Sequence[TextPair], changes: Mapping[str, Change], *, lasting: bool = True
) -> Iterator[None]:
    """Make `changes`; undo all of them if one fails or the body of ``with`` raises.

    Running out of memory and interruptions count as failures, so a concept is never half loaded.

    Args:
        pipe: The pipeline.
        pairs: Its text encoders.
        changes: ``{name of the text encoder: its changes}``.
        lasting: Whether they stay if the body of ``with`` ends well; if not, they are undone then too.
    """
    with contextlib.ExitStack() as undo:
        with changing:
            for pair in pairs:
                change = changes[pair.encoder_name]
                vocabulary = ConceptVocabulary(pair)
                added = [trigger for trigger in change.rows if trigger not in vocabulary.concepts]
                # Registered before the first change, so that a change that fails halfway is undone too.
                tables = [dict(trigger_table(slot.tokenizer)) for slot in pair.slots]
                undo.callback(_take_back, pipe, pair, added, tables)
                if change.rows:
                    vocabulary.add(change.rows)
                vocabulary.drop_descriptions(change.forgotten)
                vocabulary.set_descriptions(change.descriptions)
                refresh_config(pipe, pair)
        yield
        if lasting:
            undo.pop_all()


def refresh_config(pipe: Any, pair: TextPair) -> None:
    """Update ``pipe.config``, which records the class of each component: the tokenizers' may have changed."""
    for slot in pair.slots:
        setattr(pipe, slot.component_name, slot.processor or slot.tokenizer)


def _take_back(pipe: Any, pair: TextPair, added: Sequence[str], tables: Sequence[Mapping[str, Entry]]) -> None:
    with changing:
        if added:
            ConceptVocabulary(pair).remove(added)
        for slot, table in zip(pair.slots, tables, strict=True):
            # The old table alone would lose concepts that the encoder already held and the tokenizer just learned.
            set_triggers(slot.tokenizer, {**table, **row_table(slot.tokenizer)}, slot.processor)
        refresh_config(pipe, pair)
