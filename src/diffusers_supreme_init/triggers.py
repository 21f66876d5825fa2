"""The trigger table of a tokenizer, and the search for triggers in texts.

A trigger is a word such as ``<mug>`` that a tokenizer replaces by the row tokens of a concept, or by its description.
The table is kept in the tokenizer's ``init_kwargs``, and so it is saved in ``tokenizer_config.json``.
"""

import difflib
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
"""The replacement of a trigger: the names of its rows, or the words of its description."""

TABLE_KEY = "multitoken"
"""Key of the trigger table in a tokenizer's ``init_kwargs``: ``{trigger: entry}``."""

ROW_NAME = r"<[^<>|\s]+\|\d+>"
"""Pattern of row names, the internal row tokens: ``<mug|0>``."""

_WORDS_OF_PIPELINES = frozenset({"<image>", "<img>", "<person>", "<sop>", "<eop>"})
"""Words that pipelines of diffusers add to prompts themselves."""

_NO_TRIGGERS: Mapping[str, Entry] = MappingProxyType({})
_NOTHING = re.compile(r"(?!)")


def is_row_name(text: str) -> bool:
    """Whether `text` has the form of an internal row token, ``<mug|0>``."""
    return re.fullmatch(ROW_NAME, text) is not None


def row_names(trigger: str, num_vectors: int, taken: Collection[str] = ()) -> list[str]:
    """Return the internal names of a concept's rows, ``<mug|0>, <mug|1>, ...``.

    They never equal the trigger. The closing ``>`` ensures that no name is a prefix of another (``|1>``, ``|10>``).

    Args:
        trigger: The word in prompts.
        num_vectors: Number of rows.
        taken: Names that are in use. Without these, ``<mug>`` and ``mug`` would get the same names.
    """
    core = re.sub(r"[<>|\s]", "", trigger).lower() or "concept"
    candidate, attempt = core, 1
    while any(f"<{candidate}|{index}>" in taken for index in range(num_vectors)):
        attempt += 1
        candidate = f"{core}~{attempt}"
    return [f"<{candidate}|{index}>" for index in range(num_vectors)]


def trigger_table(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Entry]:
    """Return ``{trigger: row names or description}`` of a tokenizer, in the order of registration."""
    # Python tokenizers read their vocabulary in their constructor, before `init_kwargs` exists.
    return vars(tokenizer).get("init_kwargs", {}).get(TABLE_KEY, _NO_TRIGGERS)


def row_table(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """Return the part of `trigger_table` that has rows: ``{trigger: [row name, ...]}``."""
    return {trigger: entry for trigger, entry in trigger_table(tokenizer).items() if isinstance(entry, list)}


def find_trigger(tokenizer: PreTrainedTokenizerBase, trigger: str) -> str | None:
    """Return the registered spelling of `trigger`, which matches case-insensitively, or None."""
    return triggers_of(tokenizer).spelling.get(trigger.lower())


def has_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether a token is in a tokenizer's vocabulary or among its added tokens."""
    token_id = tokenizer.convert_tokens_to_ids(token)  # None or the unknown token's id if the token does not exist
    return token_id is not None and tokenizer.convert_ids_to_tokens(token_id) == token


def holds_trigger(text: str, triggers: Iterable[str]) -> bool:
    """Whether a text contains one of `triggers`, by the same rules as in a prompt."""
    return next(TriggerFinder(triggers).spans(text), None) is not None


class TriggerFinder:
    """Finds triggers in texts, case-insensitively; of several at one place, the longest.

    A trigger that begins or ends with a letter, digit or underscore is not found inside a longer word.

    The time depends on the text, not on the number of triggers. A regular expression with one alternative per trigger
    would try all of them at every ``<``, with which nearly all triggers begin.
    """

    def __init__(self, triggers: Iterable[str]) -> None:
        """Prepare the search.

        Args:
            triggers: The triggers, none of them empty.
        """
        self._known = frozenset(trigger.lower() for trigger in triggers)
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for trigger in self._known:
            lengths[trigger[0]].add(len(trigger))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        characters = "".join(map(re.escape, sorted(self._lengths)))
        self._starts = re.compile(f"[{characters}]", re.IGNORECASE) if characters else _NOTHING

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the ``(start, end)`` of each trigger in a text, from left to right; triggers do not overlap."""
        position = 0
        while (match := self._starts.search(text, position)) is not None:
            position = match.start() + 1
            if (end := self._end(text, match.start())) is not None:
                yield match.start(), end
                position = end

    def _end(self, text: str, start: int) -> int | None:
        for length in self._lengths.get(text[start].lower(), ()):
            word = text[start : start + length]
            # At the end of a text, `word` is shorter than `length`; lower-casing can make it longer again.
            is_known = len(word) == length and word.lower() in self._known
            if is_known and _is_whole(text, start, start + length):
                return start + length
        return None


@dataclass(frozen=True)
class Triggers:
    """A trigger table, prepared for look-ups once, since it may hold thousands of triggers."""

    table: Mapping[str, Entry]

    @cached_property
    def spelling(self) -> dict[str, str]:
        """``{trigger in lower case: trigger}``."""
        return {trigger.lower(): trigger for trigger in self.table}

    @cached_property
    def finder(self) -> TriggerFinder:
        """The finder of these triggers in texts."""
        return TriggerFinder(self.table)

    @cached_property
    def cores(self) -> dict[str, str]:
        """``{trigger without its delimiters, in lower case: trigger}``."""
        return {_core(trigger): trigger for trigger in self.table}

    @cached_property
    def alike(self) -> re.Pattern[str]:
        """Pattern of words between the delimiters of a trigger, ``<`` and ``>`` always among them."""
        ends = {(one[0], one[-1]) for one in self.table if len(one) > 2 and not (one[0] + one[-1]).isalnum()}
        pairs = sorted((first, last) for first, last in ends if not (_is_letter(first) or _is_letter(last)))
        others = [rf"{re.escape(a)}[^\s{re.escape(a + b)}]{{1,60}}{re.escape(b)}" for a, b in pairs if a != "<"]
        return re.compile("|".join([r"<[^\s<>/|!][^\s<>]{0,60}>", *others]))

    def look_alikes(self, text: str) -> Iterator[tuple[str, str | None]]:
        """Yield the words of a text that look like a trigger and are none, each with the trigger that it resembles.

        A word in ``<`` and ``>`` looks like one in any case, other words only if they resemble one.
        """
        for word in self.alike.findall(text):
            close = difflib.get_close_matches(_core(word), self.cores, n=1, cutoff=0.6)
            if not is_row_name(word) and (close or (word[0] == "<" and word not in _WORDS_OF_PIPELINES)):
                yield word, self.cores[close[0]] if close else None

    def entry(self, word: str) -> Entry | None:
        """Return the replacement of a word, or None if it is not a trigger."""
        spelling = self.spelling.get(word.lower())
        return None if spelling is None else self.table[spelling]


_KNOWN: "weakref.WeakKeyDictionary[PreTrainedTokenizerBase, Triggers]" = weakref.WeakKeyDictionary()


def triggers_of(tokenizer: PreTrainedTokenizerBase) -> Triggers:
    """Return the prepared trigger table of a tokenizer; it is prepared again only if the table was replaced."""
    table = trigger_table(tokenizer)
    triggers = _KNOWN.get(tokenizer)
    if triggers is None or triggers.table is not table:
        triggers = _KNOWN[tokenizer] = Triggers(table)
    return triggers


def _core(trigger: str) -> str:
    return re.sub(r"\A[\W_]+|[\W_]+\Z", "", trigger).lower() or trigger


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` is not part of a longer word."""
    cut_before = start > 0 and _is_letter(text[start]) and _is_letter(text[start - 1])
    cut_behind = end < len(text) and _is_letter(text[end - 1]) and _is_letter(text[end])
    return not (cut_before or cut_behind)


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_"
