"""The trigger table of a tokenizer, the search for triggers in texts, and the check that a new one is free.

A trigger is a word such as ``<mug>`` that a tokenizer replaces by the row tokens of a concept, or by its description.
The table is kept in the tokenizer's ``init_kwargs``, and so it is saved in ``tokenizer_config.json``.
"""

from __future__ import annotations

import difflib
import html
import re
import unicodedata
import warnings
import weakref
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from .errors import PlaceholderTokenError, SupremeInitWarning, shown

if TYPE_CHECKING:  # whoever only compares names, as libraries of files do, imports no models
    from transformers import PreTrainedTokenizerBase

Entry: TypeAlias = list[str] | str
"""The replacement of a trigger: the names of its rows, or the words of its description."""

TABLE_KEY = "multitoken"
"""Key of the trigger table in a tokenizer's ``init_kwargs``: ``{trigger: entry}``."""

ROW_NAME = r"<[^<>|\s]+\|\d+>"
"""Pattern of row names, the internal row tokens: ``<mug|0>``."""

_WITHOUT_SPACES = (
    *("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "YI SYLLABLE"),
    *("HANGUL", "HALFWIDTH HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"),
)
"""How the Unicode names of characters begin that may stand right beside a word of another script. Korean has spaces,
but its particles follow a word without one."""
_WORDS_OF_PIPELINES = re.compile(
    r"<(?:(?:ref_)?image_?\d*|img|person|nickname|sop|eop|bos|eos|pad|unk|s|e|(?:end)?audcap)>", re.IGNORECASE
)
"""Words that pipelines of diffusers add to prompts themselves."""

_MISWRITTEN = (
    r"<(?:\s[^\s<>]{1,60}\s?|[^\s<>]{1,60}\s)>",
    r"[＜〈‹][^\s＜＞〈〉‹›]{1,60}[＞〉›]",
    r"&lt;[^\s&;]{1,60}&gt;",
)
"""Names with a space inside their brackets, with those of another keyboard, and as HTML writes them."""

_NO_TRIGGERS: Mapping[str, Entry] = MappingProxyType({})
_NOTHING = re.compile(r"(?!)")
_OF_COMFYUI = re.compile(r"(?<!\w)embedding:([^\s,:()\[\]]*[^\s,:()\[\].;!?])", re.IGNORECASE)


def folded(trigger: str) -> str:
    """Return the form in which triggers are compared: in lower case, with composed letters (Unicode NFC)."""
    return unicodedata.normalize("NFC", trigger.lower())


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
    """Return the registered spelling of `trigger`, which matches as `folded`, or None."""
    return triggers_of(tokenizer).spelling.get(folded(trigger))


def has_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether a token is in a tokenizer's vocabulary or among its added tokens."""
    token_id = tokenizer.convert_tokens_to_ids(token)  # None or the unknown token's id if the token does not exist
    return token_id is not None and tokenizer.convert_ids_to_tokens(token_id) == token


def holds_trigger(text: str, triggers: Iterable[str]) -> bool:
    """Whether a text contains one of `triggers`, by the same rules as in a prompt."""
    return next(TriggerFinder(triggers).spans(text), None) is not None


def check_placeholder_token(placeholder_token: str, tokenizers: Sequence[PreTrainedTokenizerBase]) -> None:
    """Check that a new concept may be trained under this name.

    Raises:
        PlaceholderTokenError: The name is empty, contains spaces, capitals or control characters, is an ordinary
            word, or is taken.

    Warns:
        SupremeInitWarning: The name has no delimiters, so prompts may contain it by chance.
    """
    token = placeholder_token
    example = "choose a delimited one such as '<mug>'"
    if not isinstance(token, str) or not token:
        raise PlaceholderTokenError(f"placeholder_token: expected a non-empty text, got {shown(token)}; {example}")
    if any(character.isspace() for character in token):
        raise PlaceholderTokenError(f"placeholder_token: expected no spaces, got {shown(token)}; {example}")
    if any(unicodedata.category(character).startswith("C") for character in token):
        raise PlaceholderTokenError(
            f"placeholder_token: expected no control characters, got {shown(token)}; {example}"
        )
    if token != token.lower():
        raise PlaceholderTokenError(
            f"placeholder_token: expected no capitals (CLIP lower-cases prompts), got {shown(token)}; use "
            f"{shown(token.lower())}"
        )
    if token.isalpha():
        raise PlaceholderTokenError(
            f"placeholder_token: {shown(token)} is an ordinary word; use {shown(f'<{token}>')}"
        )
    for tokenizer in tokenizers:
        check_trigger_is_free(token, tokenizer)
    if token[0].isalnum() or token[-1].isalnum():
        warnings.warn(
            f"placeholder_token {shown(token)} is not delimited: prompts that hold it by chance show the concept; "
            f"{shown(f'<{token}>')} is safer",
            SupremeInitWarning,
            stacklevel=2,
        )


def check_trigger_is_free(trigger: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer does not know `trigger` yet, either as a token or as a concept.

    Raises:
        PlaceholderTokenError: The tokenizer knows it; or it is empty, contains control characters, has the form of an
            internal row name, or becomes longer in lower case (``"İ"``).
    """
    has_controls = any(unicodedata.category(character) in ("Cc", "Cs") for character in trigger)
    if not trigger.strip() or has_controls or is_row_name(trigger):
        raise PlaceholderTokenError(f"placeholder_token: expected a name such as '<mug>', got {trigger!r}")
    if not holds_trigger(trigger, [trigger]):
        raise PlaceholderTokenError(
            f"placeholder_token: expected a name that is found in any case, got {trigger!r}, which becomes longer in "
            "lower case; choose e.g. '<concept>'"
        )
    if find_trigger(tokenizer, trigger) is not None:
        raise PlaceholderTokenError(
            f"placeholder_token: {trigger!r} is already loaded; choose another, or call "
            f"unload_multitoken_inversion({trigger!r}) first"
        )
    is_token = has_token(tokenizer, trigger)  # checked first, because listing all added tokens is slow
    if is_token and trigger in tokenizer.added_tokens_encoder and trigger not in tokenizer.all_special_tokens:
        raise PlaceholderTokenError(
            f"placeholder_token: {trigger!r} was added to the tokenizer by somebody else; if it was diffusers' own "
            f"loader, call unload_textual_inversion({trigger!r}) first, or choose e.g. {_another(trigger)!r}"
        )
    tokens = tokenizer.tokenize(trigger)
    is_one_token = len(tokens) == 1 and tokenizer.convert_tokens_to_ids(tokens[0]) != tokenizer.unk_token_id
    if is_one_token or is_token:
        raise PlaceholderTokenError(
            f"placeholder_token: {trigger!r} is an ordinary token of the vocabulary; choose e.g. {_another(trigger)!r}"
        )


class TriggerFinder:
    """Finds triggers in texts, whatever their case and however their letters are composed; the longest at each place.

    A trigger that begins or ends with a letter, digit or underscore is not found inside a longer word. Characters of
    scripts without spaces (``_WITHOUT_SPACES``) do not make a word longer.

    The time depends on the text, not on the number of triggers. A regular expression with one alternative per trigger
    would try all of them at every ``<``, with which nearly all triggers begin.
    """

    def __init__(self, triggers: Iterable[str]) -> None:
        """Prepare the search.

        Args:
            triggers: The triggers, none of them empty.
        """
        self._known = frozenset(folded(trigger) for trigger in triggers)
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for trigger in self._known:
            lengths[trigger[0]].add(len(trigger))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        characters = "".join(map(re.escape, sorted(self._lengths)))
        self._starts = re.compile(f"[{characters}]", re.IGNORECASE) if characters else _NOTHING

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the ``(start, end)`` of each trigger in a text, from left to right; triggers do not overlap."""
        if unicodedata.is_normalized("NFC", text):
            yield from self._spans(text)
            return
        composed, places = _compose(text)
        for start, end in self._spans(composed):
            yield places[start], places[end]

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
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
            is_known = len(word) == length and folded(word) in self._known
            if is_known and _is_whole(text, start, start + length):
                return start + length
        return None


@dataclass(frozen=True)
class Triggers:
    """A trigger table, prepared for look-ups once, since it may hold thousands of triggers."""

    table: Mapping[str, Entry]

    @cached_property
    def spelling(self) -> dict[str, str]:
        """``{folded trigger: trigger}``."""
        return {folded(trigger): trigger for trigger in self.table}

    @cached_property
    def finder(self) -> TriggerFinder:
        """The finder of these triggers in texts."""
        return TriggerFinder(self.table)

    @cached_property
    def cores(self) -> dict[str, str]:
        """``{trigger without its delimiters, in lower case: trigger}``."""
        return {_core(trigger): trigger for trigger in self.table}

    @cached_property
    def rows(self) -> frozenset[str]:
        """The names of all rows."""
        return frozenset(name for entry in self.table.values() if isinstance(entry, list) for name in entry)

    @cached_property
    def alike(self) -> re.Pattern[str]:
        """Pattern of words between the delimiters of a trigger, ``<`` and ``>`` always among them."""
        ends = {(one[0], one[-1]) for one in self.table if len(one) > 2 and not (one[0] + one[-1]).isalnum()}
        pairs = sorted((first, last) for first, last in ends if not (_is_letter(first) or _is_letter(last)))
        others = [rf"{re.escape(a)}[^\s{re.escape(a + b)}]{{1,60}}{re.escape(b)}" for a, b in pairs if a != "<"]
        return re.compile("|".join([r"<[^\s<>/|!][^\s<>]{0,60}>", *_MISWRITTEN, *others]))

    def look_alikes(self, text: str) -> Iterator[tuple[str, str | None]]:
        """Yield the words of a text that look like a trigger and are none, each with the trigger that it resembles.

        A word in ``<`` and ``>`` looks like one in any case, other words only if they resemble one.
        """
        for word in self.alike.findall(text):
            if word in self.rows:
                continue  # before it is compared with all triggers: every row of a prompt is such a word
            close = difflib.get_close_matches(_core(html.unescape(word)), self.cores, n=1, cutoff=0.6)
            is_name = word[0] == "<" and not re.search(r"\s", word) and not _WORDS_OF_PIPELINES.fullmatch(word)
            if close or is_name:
                yield word, self.cores[close[0]] if close else None

    def entry(self, word: str) -> Entry | None:
        """Return the replacement of a word, or None if it is not a trigger."""
        spelling = self.spelling.get(folded(word))
        return None if spelling is None else self.table[spelling]


def as_triggers(text: str, triggers: Triggers) -> str:
    """Return a prompt in which concepts as ComfyUI writes them, ``embedding:mug``, are written as triggers, ``<mug>``.

    ComfyUI's name is that of the file, with or without its ending. Names that are not concepts stay as they are.
    """

    def trigger_of(match: re.Match[str]) -> str:
        name = match[1]
        known = (triggers.spelling.get(folded(one)) for one in (name, f"<{name}>", *_without_ending(name)))
        return next((trigger for trigger in known if trigger is not None), match[0])

    return _OF_COMFYUI.sub(trigger_of, text) if "embedding:" in text.lower() else text


def _without_ending(name: str) -> list[str]:
    stem = re.sub(r"\.(safetensors|pt|bin)\Z", "", name, flags=re.IGNORECASE)
    return [] if stem == name else [stem, f"<{stem}>"]


_KNOWN: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, Triggers] = weakref.WeakKeyDictionary()


def triggers_of(tokenizer: PreTrainedTokenizerBase) -> Triggers:
    """Return the prepared trigger table of a tokenizer; it is prepared again only if the table was replaced."""
    table = trigger_table(tokenizer)
    triggers = _KNOWN.get(tokenizer)
    if triggers is None or triggers.table is not table:
        triggers = _KNOWN[tokenizer] = Triggers(table)
    return triggers


def _another(trigger: str) -> str:
    core = trigger.strip("<>")
    return f"<{core}-2>" if core != trigger else f"<{core}>"  # diffusers' loader may already hold <mug> itself


def _core(trigger: str) -> str:
    return re.sub(r"\A[\W_]+|[\W_]+\Z", "", folded(trigger)) or trigger


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` is not part of a longer word."""
    cut_before = start > 0 and _is_letter(text[start]) and _is_letter(text[start - 1])
    cut_behind = end < len(text) and _is_letter(text[end - 1]) and _is_letter(text[end])
    return not (cut_before or cut_behind)


def _is_letter(character: str) -> bool:
    """Whether a character is part of a word; an accent of its own belongs to the word before it."""
    if character.isascii():
        return character.isalnum() or character == "_"
    is_accent = unicodedata.category(character).startswith("M")
    name = unicodedata.name(character, "")
    return (character.isalnum() or is_accent) and not name.startswith((*_WITHOUT_SPACES, "VARIATION SELECTOR"))


def _compose(text: str) -> tuple[str, list[int]]:
    """Return a text in Unicode's composed form (NFC), and for each place in it the place in `text`."""
    composed, places, start = "", [], 0
    for end in range(1, len(text) + 1):
        part = unicodedata.normalize("NFC", text[start:end])
        after = text[end : end + 1]
        is_accent = after != "" and unicodedata.combining(after) != 0
        if is_accent or unicodedata.normalize("NFC", part + after) != part + unicodedata.normalize("NFC", after):
            continue  # accents belong to the letter before them, and Korean letters to their syllable
        composed += part
        places += [min(start + index, end - 1) for index in range(len(part))]
        start = end
    return composed, [*places, len(text)]
