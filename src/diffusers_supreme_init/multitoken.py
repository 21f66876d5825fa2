"""Tokenizers that read a trigger such as ``<mug>`` as the row tokens of its concept, or as the words it stands for.

The tokenizer is the one place every pipeline's text goes through, so the expansion lives there: a tokenizer instance
is given a subclass of its own class (`arm`), and its trigger table is kept in ``init_kwargs``, hence in
``tokenizer_config.json``. The subclasses are attributes of this module, made on demand, so that tokenizers pickle and
``DiffusionPipeline.from_pretrained`` finds them again by the name that ``model_index.json`` holds. A processor around
such a tokenizer gets a subclass too, which arms its tokenizer again when it is loaded.
"""

import functools
import re
import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

import transformers

# diffusers looks up the load method of a component by these base classes in the component's own module.
from transformers import PreTrainedTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from .errors import SupremeInitWarning
from .templates import describe_in_prompt

__all__ = [
    "Entry",
    "MultiTokenMixin",
    "MultiTokenProcessorMixin",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerFast",
    "ProcessorMixin",
    "arm",
    "attaches_spaces",
    "find_trigger",
    "forget_trigger",
    "has_token",
    "holds_trigger",
    "is_row_name",
    "register_trigger",
    "row_names",
    "row_table",
    "trigger_table",
]

Entry: TypeAlias = list[str] | str
"""What a trigger is read as: the names of its rows, or the words of its description."""

TABLE_KEY = "multitoken"
"""Key of the trigger table in a tokenizer's ``init_kwargs``: ``{trigger: entry}``."""

_ROW_NAME = r"<[^<>|\s]+\|\d+>"
_MAX_PASSES = 8
_OTHER_HOMES = {"ChatGLMTokenizer": "diffusers.pipelines.kolors.tokenizer"}
"""Tokenizer classes that are not in ``transformers``: where a saved pipeline's are found again."""


def is_row_name(text: str) -> bool:
    """Whether `text` has the form of an internal row token, ``<mug|0>``."""
    return re.fullmatch(_ROW_NAME, text) is not None


def row_names(trigger: str, num_vectors: int, taken: Iterable[str] = ()) -> list[str]:
    """Return the internal names of a concept's rows, ``<mug|0>, <mug|1>, ...``.

    They never equal the trigger, and no name begins another (``|1>`` ends where ``|10>`` goes on).

    Args:
        trigger: The word in prompts.
        num_vectors: Number of rows.
        taken: Tokens that exist already: ``<mug>`` and ``mug`` would otherwise share their names.
    """
    core = re.sub(r"[<>|\s]", "", trigger).lower() or "concept"
    taken = taken if isinstance(taken, set | frozenset | dict) else set(taken)
    candidate, attempt = core, 1
    while f"<{candidate}|0>" in taken:
        attempt += 1
        candidate = f"{core}~{attempt}"
    return [f"<{candidate}|{index}>" for index in range(num_vectors)]


def trigger_table(tokenizer: PreTrainedTokenizerBase) -> dict[str, Entry]:
    """Return ``{trigger: row names or description}`` of a tokenizer, in the order of registration."""
    return tokenizer.init_kwargs.get(TABLE_KEY, {})


def row_table(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """Return the part of `trigger_table` that has rows: ``{trigger: [row name, ...]}``."""
    return {trigger: entry for trigger, entry in trigger_table(tokenizer).items() if isinstance(entry, list)}


def find_trigger(tokenizer: PreTrainedTokenizerBase, trigger: str) -> str | None:
    """Return the registered spelling of `trigger`, which matches case-insensitively, or None."""
    return next((known for known in trigger_table(tokenizer) if known.lower() == trigger.lower()), None)


def holds_trigger(text: str, triggers: Iterable[str]) -> bool:
    """Whether a text has one of `triggers` in it, as a tokenizer would find it."""
    for trigger in triggers:
        match = _pattern((trigger.lower(),)).search(text)
        if match is not None and match[0].lower() == trigger.lower():
            return True
    return False


def has_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether a token is in a tokenizer's vocabulary or among its added tokens."""
    token_id = tokenizer.convert_tokens_to_ids(token)  # the unknown token's id, or None, if it is not there
    return token_id is not None and tokenizer.convert_ids_to_tokens(token_id) == token


def attaches_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the first token of a word holds the space before it, so that a word without one is another token.

    So it is in byte-level vocabularies (Qwen: ``a``, ``Ġa``) and in Gemma's (``a``, ``▁a``), not in CLIP's and T5's.
    Rows of a concept then start from tokens with their space, and the space before a trigger is theirs.
    """
    is_armed = isinstance(tokenizer, MultiTokenMixin)  # whose own method would read a trigger "a a" as rows
    base: Any = super(MultiTokenMixin, tokenizer) if is_armed else tokenizer
    alone, twice = base.tokenize("a"), base.tokenize("a a")
    return len(twice) == 2 * len(alone) and twice != alone * 2


def arm(tokenizer: PreTrainedTokenizerBase, processor: ProcessorMixin | None = None) -> None:
    """Give a tokenizer, and the processor around it, the classes that expand triggers; doing it twice is harmless."""
    for instance, mixin in ((tokenizer, MultiTokenMixin), (processor, MultiTokenProcessorMixin)):
        if instance is not None and not isinstance(instance, mixin):
            instance.__class__ = _multitoken_class(type(instance))


def register_trigger(
    tokenizer: PreTrainedTokenizerBase, trigger: str, entry: Entry, processor: ProcessorMixin | None = None
) -> None:
    """Make `tokenizer` read `trigger` as row tokens, which it must already have, or as a description."""
    arm(tokenizer, processor)
    others = {known: own for known, own in trigger_table(tokenizer).items() if known.lower() != trigger.lower()}
    tokenizer.init_kwargs[TABLE_KEY] = {**others, trigger: entry}


def forget_trigger(tokenizer: PreTrainedTokenizerBase, trigger: str, processor: ProcessorMixin | None = None) -> None:
    """Undo `register_trigger`; without triggers the tokenizer has its own class again, and so has its processor."""
    remaining = {known: entry for known, entry in trigger_table(tokenizer).items() if known != trigger}
    if remaining:
        tokenizer.init_kwargs[TABLE_KEY] = remaining
        return
    tokenizer.init_kwargs.pop(TABLE_KEY, None)
    for instance in (tokenizer, processor):
        if isinstance(instance, MultiTokenMixin | MultiTokenProcessorMixin):
            instance.__class__ = type(instance).__mro__[2]


class MultiTokenMixin:
    """Expands triggers in every text that a tokenizer is given; mixed into the tokenizer's own class."""

    def __call__(self, text: Any = None, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Tokenize as the base class does, warning when truncation cuts a concept."""
        expanded = self._expand(text)
        encoding = super().__call__(expanded, self._expand(text_pair), *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("truncation") and expanded is not None:
            self._warn_of_cut_rows(expanded, encoding["input_ids"])
        return encoding

    def encode(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Tokenize to ids as the base class does."""
        return super().encode(self._expand(text), self._expand(text_pair), *args, **kwargs)  # type: ignore[misc]

    def tokenize(self, text: str, *args: Any, **kwargs: Any) -> Any:
        """Split into tokens as the base class does."""
        return super().tokenize(self._expand(text), *args, **kwargs)  # type: ignore[misc]

    def _expand(self, text: Any) -> Any:
        if isinstance(text, str):
            return self._expand_text(text)
        if isinstance(text, list | tuple):
            return type(text)(self._expand(item) for item in text)
        return text

    def _expand_text(self, text: str) -> str:
        table = {trigger.lower(): entry for trigger, entry in trigger_table(self).items()}  # type: ignore[arg-type]
        pattern = _pattern(tuple(table))
        # Until nothing changes: words put in for one trigger may complete another, and expanding twice must not differ
        # from expanding once. No description holds a trigger (the loader sees to that); the bound is for a
        # tokenizer_config.json that somebody wrote by hand.
        for _ in range(_MAX_PASSES if table else 0):
            expanded = self._replace(text, pattern, table)
            if expanded == text:
                break
            text = expanded
        return text

    def _replace(self, text: str, pattern: re.Pattern[str], table: Mapping[str, Entry]) -> str:
        done = ""
        # Row names stay as they are, and no trigger reaches into one.
        for number, part in enumerate(re.split(f"({_ROW_NAME})", text)):
            position = 0
            for match in () if number % 2 else pattern.finditer(part):
                entry = table.get(match[0].lower())
                done += part[position : match.start()]
                position = match.end()
                if isinstance(entry, str):
                    done = describe_in_prompt(done, entry)
                # Rows that somebody else removed from the vocabulary (stock `unload_textual_inversion()` empties it)
                # must not turn into gibberish text.
                elif entry is None or not has_token(self, entry[0]):  # type: ignore[arg-type]
                    done += match[0]
                else:
                    if done.endswith(" ") and attaches_spaces(self):  # type: ignore[arg-type]
                        done = done[:-1]
                    done += "".join(entry)  # a space in between would be a token of byte-level tokenizers
            done += part[position:]
        return done

    def _warn_of_cut_rows(self, expanded: Any, input_ids: Any) -> None:
        texts = [expanded] if isinstance(expanded, str) else list(expanded)
        ids = input_ids.tolist() if hasattr(input_ids, "tolist") else input_ids
        batch = ids if ids and isinstance(ids[0], list) else [ids]
        for text, kept in zip(texts, batch, strict=False):
            found = re.findall(_ROW_NAME, text) if isinstance(text, str) else []
            names = [name for name in found if has_token(self, name)]  # type: ignore[arg-type]
            if not names:
                continue
            row_ids = set(self.convert_tokens_to_ids(names))  # type: ignore[attr-defined]
            num_kept = sum(token_id in row_ids for token_id in kept)
            if num_kept < len(names):
                needed = len(super().__call__(text)["input_ids"])  # type: ignore[misc]
                warnings.warn(
                    f"the prompt needs {needed} tokens but only {len(kept)} are read: {len(names) - num_kept} of "
                    f"{len(names)} concept rows are cut off; shorten the prompt or put the concept first",
                    SupremeInitWarning,
                    stacklevel=3,
                )


class MultiTokenProcessorMixin:
    """A processor whose tokenizer expands triggers, also after it was saved and loaded again."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as the base class does; the tokenizer inside comes back with its plain class and is armed again."""
        processor = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        if trigger_table(processor.tokenizer):
            arm(processor.tokenizer, processor)
        return processor


@functools.lru_cache(maxsize=256)
def _pattern(triggers: tuple[str, ...]) -> re.Pattern[str]:
    """Match triggers, longest first, as whole words where they begin or end like words."""
    alternatives = []
    for trigger in sorted(triggers, key=len, reverse=True):
        start = r"(?<!\w)" if re.match(r"\w", trigger) else ""
        end = r"(?!\w)" if re.search(r"\w\Z", trigger) else ""
        alternatives.append(start + re.escape(trigger) + end)
    return re.compile("|".join(alternatives), re.IGNORECASE)


def _multitoken_class(base: type) -> type:
    """Return this module's subclass of `base`; it has the same name, so that saved configs name the plain class."""
    mixin = MultiTokenProcessorMixin if issubclass(base, ProcessorMixin) else MultiTokenMixin
    known = globals().get(base.__name__)
    if isinstance(known, type) and issubclass(known, mixin) and known.__mro__[2] is base:
        return known
    made = type(base.__name__, (mixin, base), {"__module__": __name__, "__doc__": base.__doc__})
    globals()[base.__name__] = made
    return made


def __getattr__(name: str) -> type:
    """Make ``diffusers_supreme_init.multitoken.CLIPTokenizer`` and its like on demand (PEP 562)."""
    home = import_module(_OTHER_HOMES[name]) if name in _OTHER_HOMES else transformers
    base = getattr(home, name, None)
    if isinstance(base, type) and issubclass(base, PreTrainedTokenizerBase | ProcessorMixin):
        return _multitoken_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
