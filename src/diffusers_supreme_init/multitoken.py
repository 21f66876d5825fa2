"""Tokenizers that read a trigger such as ``<mug>`` as the row tokens of its concept, or as the words it stands for.

The tokenizer is the one place every pipeline's text goes through, so the expansion lives there: a tokenizer instance
is given a subclass of its own class (`arm`), and its trigger table is kept in ``init_kwargs``, hence in
``tokenizer_config.json``. The subclasses are attributes of this module, made on demand, so that tokenizers pickle and
``DiffusionPipeline.from_pretrained`` finds them again by the name that ``model_index.json`` holds. A processor around
such a tokenizer gets a subclass too, which arms its tokenizer again when it is loaded.
"""

import re
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Self

import transformers

# diffusers looks up the load method of a component by these base classes in the component's own module.
from transformers import PreTrainedTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from .errors import SupremeInitWarning
from .templates import describe_in_prompt
from .triggers import ROW_NAME, TABLE_KEY, Entry, Triggers, has_token, trigger_table, triggers_of

__all__ = [
    "MultiTokenMixin",
    "MultiTokenProcessorMixin",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerFast",
    "ProcessorMixin",
    "add_triggers",
    "arm",
    "armed_tokenizers",
    "attaches_spaces",
    "remove_triggers",
    "set_triggers",
]

_MAX_PASSES = 8
_OTHER_HOMES = {"ChatGLMTokenizer": "diffusers.pipelines.kolors.tokenizer"}
"""Tokenizer classes that are not in ``transformers``: where a saved pipeline's are found again."""

_ARMED: "weakref.WeakSet[Any]" = weakref.WeakSet()


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
    _ARMED.add(tokenizer)


def set_triggers(
    tokenizer: PreTrainedTokenizerBase, table: Mapping[str, Entry], processor: ProcessorMixin | None = None
) -> None:
    """Make a tokenizer read these triggers and no others.

    Without triggers it has its own class again, and so has the processor around it.

    Args:
        tokenizer: Has the row tokens that `table` names.
        table: ``{trigger: row names or description}``.
        processor: Holds `tokenizer`, if anything does.
    """
    if table:
        arm(tokenizer, processor)
        tokenizer.init_kwargs[TABLE_KEY] = dict(table)  # always a new one: `triggers_of` goes by its identity
        return
    tokenizer.init_kwargs.pop(TABLE_KEY, None)
    for instance in (tokenizer, processor):
        if isinstance(instance, MultiTokenMixin | MultiTokenProcessorMixin):
            instance.__class__ = type(instance).__mro__[2]


def add_triggers(
    tokenizer: PreTrainedTokenizerBase, entries: Mapping[str, Entry], processor: ProcessorMixin | None = None
) -> None:
    """Make a tokenizer read triggers as row tokens, which it must already have, or as descriptions."""
    new = {trigger.lower() for trigger in entries}
    others = {known: entry for known, entry in trigger_table(tokenizer).items() if known.lower() not in new}
    set_triggers(tokenizer, {**others, **entries}, processor)


def remove_triggers(
    tokenizer: PreTrainedTokenizerBase, triggers: Iterable[str], processor: ProcessorMixin | None = None
) -> None:
    """Make a tokenizer read triggers as plain text again."""
    gone, table = set(triggers), trigger_table(tokenizer)
    set_triggers(tokenizer, {known: entry for known, entry in table.items() if known not in gone}, processor)


def armed_tokenizers() -> list[PreTrainedTokenizerBase]:
    """Return the living tokenizers with triggers, whatever holds them."""
    return [tokenizer for tokenizer in list(_ARMED) if trigger_table(tokenizer)]


class _VocabularyWithTriggers(dict[str, int]):
    """A vocabulary in which triggers are found as well, though they are not among its entries.

    diffusers' own loader asks ``token in tokenizer.get_vocab()`` before it changes anything, so it refuses a name
    that a concept holds. As entries, triggers would be counted: tokenizers in Python number new tokens by that count.
    """

    def __init__(self, vocabulary: Mapping[str, int], triggers: Triggers, to_id: Callable[[str], int]) -> None:
        super().__init__(vocabulary)
        self._triggers = triggers
        self._to_id = to_id

    def __contains__(self, token: object) -> bool:
        return super().__contains__(token) or (isinstance(token, str) and self._triggers.entry(token) is not None)

    def __missing__(self, token: str) -> int:
        if self._triggers.entry(token) is None:
            raise KeyError(token)
        return self._to_id(token)


class MultiTokenMixin:
    """Expands triggers in every text that a tokenizer is given; mixed into the tokenizer's own class."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note that there is another tokenizer: copies, pickles and saved pipelines all come this way."""
        tokenizer = super().__new__(cls)
        _ARMED.add(tokenizer)
        return tokenizer

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

    def get_vocab(self) -> dict[str, int]:
        """Return the vocabulary as the base class does; triggers are found in it too."""
        vocabulary = super().get_vocab()  # type: ignore[misc]
        return _VocabularyWithTriggers(vocabulary, triggers_of(self), self.convert_tokens_to_ids)  # type: ignore[arg-type]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Convert as the base class does; a trigger's id is that of its first row."""
        one = isinstance(tokens, str)
        known = self._first_row(tokens) if one else [self._first_row(token) for token in tokens]
        return super().convert_tokens_to_ids(known)  # type: ignore[misc]

    def _first_row(self, token: str) -> str:
        entry = triggers_of(self).entry(token)  # type: ignore[arg-type]
        return entry[0] if isinstance(entry, list) else token

    def _expand_text(self, text: str) -> str:
        triggers = triggers_of(self)  # type: ignore[arg-type]
        # Until nothing changes: words put in for one trigger may complete another, and expanding twice must not differ
        # from expanding once. No description holds a trigger (the loader sees to that); the bound is for a
        # tokenizer_config.json that somebody wrote by hand.
        for _ in range(_MAX_PASSES if triggers.table else 0):
            expanded = self._replace(text, triggers)
            if expanded == text:
                break
            text = expanded
        return text

    def _replace(self, text: str, triggers: Triggers) -> str:
        done = ""
        # Row names stay as they are, and no trigger reaches into one.
        for number, part in enumerate(re.split(f"({ROW_NAME})", text)):
            position = 0
            for start, end in () if number % 2 else triggers.finder.spans(part):
                entry = triggers.entry(part[start:end])
                done += part[position:start]
                position = end
                if isinstance(entry, str):
                    done = describe_in_prompt(done, entry)
                # Rows that somebody else removed from the vocabulary (stock `unload_textual_inversion()` empties it)
                # must not turn into gibberish text.
                elif entry is None or not has_token(self, entry[0]):  # type: ignore[arg-type]
                    done += part[start:end]
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
            found = re.findall(ROW_NAME, text) if isinstance(text, str) else []
            names = [name for name in found if has_token(self, name)]  # type: ignore[arg-type]
            if not names:
                continue
            row_ids = set(self.convert_tokens_to_ids(names))
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
