"""What a tokenizer reads triggers such as ``<mug>`` as, and where they stand in a text.

The table is kept in the tokenizer's ``init_kwargs``, hence in ``tokenizer_config.json``.
"""

import re
import weakref
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

Entry: TypeAlias = list[str] | str
"""What a trigger is read as: the names of its rows, or the words of its description."""

TABLE_KEY = "multitoken"
"""Key of the trigger table in a tokenizer's ``init_kwargs``: ``{trigger: entry}``."""

ROW_NAME = r"<[^<>|\s]+\|\d+>"
"""The form of internal row tokens, ``<mug|0>``."""

_NO_TRIGGERS: Mapping[str, Entry] = MappingProxyType({})
_NOTHING = re.compile(r"(?!)")


def is_row_name(text: str) -> bool:
    """Whether `text` has the form of an internal row token, ``<mug|0>``."""
    return re.fullmatch(ROW_NAME, text) is not None


def row_names(trigger: str, num_vectors: int, taken: Collection[str] = ()) -> list[str]:
    """Return the internal names of a concept's rows, ``<mug|0>, <mug|1>, ...``.

    They never equal the trigger, and no name begins another (``|1>`` ends where ``|10>`` goes on).

    Args:
        trigger: The word in prompts.
        num_vectors: Number of rows.
        taken: Names that are not free: ``<mug>`` and ``mug`` would otherwise share theirs.
    """
    core = re.sub(r"[<>|\s]", "", trigger).lower() or "concept"
    candidate, attempt = core, 1
    while any(f"<{candidate}|{index}>" in taken for index in range(num_vectors)):
        attempt += 1
        candidate = f"{core}~{attempt}"
    return [f"<{candidate}|{index}>" for index in range(num_vectors)]


def trigger_table(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Entry]:
    """Return ``{trigger: row names or description}`` of a tokenizer, in the order of registration."""
    # Tokenizers in Python count their vocabulary while they are made, before they have `init_kwargs`.
    return vars(tokenizer).get("init_kwargs", {}).get(TABLE_KEY, _NO_TRIGGERS)


def row_table(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """Return the part of `trigger_table` that has rows: ``{trigger: [row name, ...]}``."""
    return {trigger: entry for trigger, entry in trigger_table(tokenizer).items() if isinstance(entry, list)}


def find_trigger(tokenizer: PreTrainedTokenizerBase, trigger: str) -> str | None:
    """Return the registered spelling of `trigger`, which matches case-insensitively, or None."""
    return triggers_of(tokenizer).spelling.get(trigger.lower())


def has_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether a token is in a tokenizer's vocabulary or among its added tokens."""
    token_id = tokenizer.convert_tokens_to_ids(token)  # the unknown token's id, or None, if it is not there
    return token_id is not None and tokenizer.convert_ids_to_tokens(token_id) == token


def holds_trigger(text: str, triggers: Iterable[str]) -> bool:
    """Whether a text has one of `triggers` in it, as a tokenizer would find it."""
    return next(TriggerFinder(triggers).spans(text), None) is not None


class TriggerFinder:
    """Finds triggers in texts: the longest first, in any case, as whole words where they begin or end like words.

    The time depends on the text, not on the number of triggers.

    A regular expression with an alternative per trigger would try all of them wherever one of them could begin, and
    nearly all triggers begin with ``<``.
    """

    def __init__(self, triggers: Iterable[str]) -> None:
        """Read the triggers once.

        Args:
            triggers: Non-empty texts.
        """
        self._known = frozenset(trigger.lower() for trigger in triggers)
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for trigger in self._known:
            lengths[trigger[0]].add(len(trigger))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        characters = "".join(map(re.escape, sorted(self._lengths)))
        self._starts = re.compile(f"[{characters}]", re.IGNORECASE) if characters else _NOTHING

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where triggers begin and end in a text, from left to right, none reaching into another."""
        position = 0
        while (match := self._starts.search(text, position)) is not None:
            position = match.start() + 1
            if (end := self._end(text, match.start())) is not None:
                yield match.start(), end
                position = end

    def _end(self, text: str, start: int) -> int | None:
        for length in self._lengths.get(text[start].lower(), ()):
            word = text[start : start + length]
            is_known = len(word) == length and word.lower() in self._known  # small letters may be more than capitals
            if is_known and _is_whole(text, start, start + length):
                return start + length
        return None


@dataclass(frozen=True)
class Triggers:
    """A trigger table, prepared for reading; made once, since a table may hold thousands."""

    table: Mapping[str, Entry]

    @cached_property
    def spelling(self) -> dict[str, str]:
        """``{trigger in small letters: trigger}``."""
        return {trigger.lower(): trigger for trigger in self.table}

    @cached_property
    def finder(self) -> TriggerFinder:
        """Finds them in texts."""
        return TriggerFinder(self.table)

    def entry(self, word: str) -> Entry | None:
        """Return what a word is read as, None if it is no trigger."""
        spelling = self.spelling.get(word.lower())
        return None if spelling is None else self.table[spelling]


_KNOWN: "weakref.WeakKeyDictionary[PreTrainedTokenizerBase, Triggers]" = weakref.WeakKeyDictionary()


def triggers_of(tokenizer: PreTrainedTokenizerBase) -> Triggers:
    """Return what a tokenizer reads as concepts; prepared once for each table."""
    table = trigger_table(tokenizer)
    triggers = _KNOWN.get(tokenizer)
    if triggers is None or triggers.table is not table:
        triggers = _KNOWN[tokenizer] = Triggers(table)
    return triggers


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether what stands between two places is not a part of a longer word."""
    cut_before = start > 0 and _is_letter(text[start]) and _is_letter(text[start - 1])
    cut_behind = end < len(text) and _is_letter(text[end - 1]) and _is_letter(text[end])
    return not (cut_before or cut_behind)


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_"
