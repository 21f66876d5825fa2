"""Tokenizers that expand a trigger such as ``<mug>`` into the row tokens of its concept, or into its description.

Triggers are expanded in the tokenizer because the text of every pipeline passes through it. `arm` changes the class of
a tokenizer instance to a subclass of its own class. The trigger table is kept in ``init_kwargs``, and so it is saved
in ``tokenizer_config.json``. The subclasses are attributes of this module, made on demand. So tokenizers can be
pickled, and ``DiffusionPipeline.from_pretrained`` finds the class that ``model_index.json`` names. A processor around
such a tokenizer gets a subclass too, which arms its tokenizer again after loading.
"""

import re
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Self

import transformers

# diffusers looks for these base classes in a component's own module to find the method that loads the component.
from transformers import PreTrainedTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from ..errors import SupremeInitWarning
from ..templates import append_description
from ..triggers import ROW_NAME, TABLE_KEY, Entry, Triggers, as_triggers, folded, has_token, trigger_table, triggers_of
from .stand_ins import rows_at, splits_around_tokens, with_stand_ins

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
"""Modules of tokenizer classes that are not in ``transformers``."""

_ARMED: "weakref.WeakSet[Any]" = weakref.WeakSet()
_TOLD: "weakref.WeakKeyDictionary[Any, set[str]]" = weakref.WeakKeyDictionary()
"""Words that users were warned of, by tokenizer."""

_ATTACHES: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()
_SPLITS: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()
"""Answers of `attaches_spaces` and `splits_around_tokens`, which take longer to find than reading a prompt."""


def attaches_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the first token of a word includes the space before it, so that a word without it is another token.

    This holds for byte-level vocabularies (Qwen: ``a``, ``Ġa``) and Gemma's (``a``, ``▁a``), but not for CLIP's and
    T5's. If it holds, rows start from tokens that include their space, so the space before a trigger is removed.
    """
    if tokenizer not in _ATTACHES:
        is_armed = isinstance(tokenizer, MultiTokenMixin)  # its own `tokenize` would expand a trigger "a"
        base: Any = super(MultiTokenMixin, tokenizer) if is_armed else tokenizer
        alone, twice = base.tokenize("a"), base.tokenize("a a")
        _ATTACHES[tokenizer] = len(twice) == 2 * len(alone) and twice != alone * 2
    return _ATTACHES[tokenizer]


def arm(tokenizer: PreTrainedTokenizerBase, processor: ProcessorMixin | None = None) -> None:
    """Give a tokenizer, and the processor around it, the classes that expand triggers; the call is idempotent."""
    for instance, mixin in ((tokenizer, MultiTokenMixin), (processor, MultiTokenProcessorMixin)):
        if instance is not None and not isinstance(instance, mixin):
            instance.__class__ = _multitoken_class(type(instance))
    _ARMED.add(tokenizer)


def set_triggers(
    tokenizer: PreTrainedTokenizerBase, table: Mapping[str, Entry], processor: ProcessorMixin | None = None
) -> None:
    """Make a tokenizer read these triggers and no others.

    Without triggers, the tokenizer and the processor around it get their original classes back.

    Args:
        tokenizer: The tokenizer, which must already have the row tokens that `table` names.
        table: ``{trigger: row names or description}``.
        processor: The processor around `tokenizer`, or None.
    """
    if table:
        arm(tokenizer, processor)
        tokenizer.init_kwargs[TABLE_KEY] = dict(table)  # never changed in place: `triggers_of` compares identities
        return
    tokenizer.init_kwargs.pop(TABLE_KEY, None)
    for instance in (tokenizer, processor):
        if isinstance(instance, MultiTokenMixin | MultiTokenProcessorMixin):
            instance.__class__ = type(instance).__mro__[2]


def add_triggers(
    tokenizer: PreTrainedTokenizerBase, entries: Mapping[str, Entry], processor: ProcessorMixin | None = None
) -> None:
    """Make a tokenizer also read these triggers, as row tokens (which it must already have) or as descriptions."""
    new = {folded(trigger) for trigger in entries}
    others = {known: entry for known, entry in trigger_table(tokenizer).items() if folded(known) not in new}
    set_triggers(tokenizer, {**others, **entries}, processor)


def remove_triggers(
    tokenizer: PreTrainedTokenizerBase, triggers: Iterable[str], processor: ProcessorMixin | None = None
) -> None:
    """Make a tokenizer read triggers as plain text again."""
    gone, table = set(triggers), trigger_table(tokenizer)
    set_triggers(tokenizer, {known: entry for known, entry in table.items() if known not in gone}, processor)


def armed_tokenizers() -> list[PreTrainedTokenizerBase]:
    """Return all tokenizers with triggers that are still in memory."""
    return [tokenizer for tokenizer in list(_ARMED) if trigger_table(tokenizer)]


class _VocabularyWithTriggers(dict[str, int]):
    """A vocabulary in which look-ups also find triggers, although they are not entries.

    diffusers' own loader checks ``token in tokenizer.get_vocab()`` before it changes anything, so it refuses a name
    that a concept has. Triggers must not be entries, because Python tokenizers number new tokens by the entry count.
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
    """Mixed into a tokenizer's own class to expand triggers in every text that the tokenizer reads."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Register the new tokenizer; copied, unpickled and loaded tokenizers are all made by this method."""
        tokenizer = super().__new__(cls)
        _ARMED.add(tokenizer)
        return tokenizer

    def __call__(self, text: Any = None, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Tokenize as the base class does, and warn if truncation cuts off rows of a concept."""
        expanded = self._expand(text)
        self._warn_of_look_alikes(expanded)  # not in `tokenize`, which checks names that are about to be loaded
        encoding = super().__call__(expanded, self._expand(text_pair), *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("truncation") and expanded is not None:
            self._warn_of_cut_rows(expanded, encoding["input_ids"])
        return encoding

    def encode(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Tokenize to ids as the base class does."""
        expanded = self._expand(text)
        self._warn_of_look_alikes(expanded)
        return super().encode(expanded, self._expand(text_pair), *args, **kwargs)  # type: ignore[misc]

    def tokenize(self, text: str, *args: Any, **kwargs: Any) -> Any:
        """Split into tokens as the base class does."""
        expanded = self._expand(text)
        if not self._needs_stand_ins(expanded):
            return super().tokenize(expanded, *args, **kwargs)  # type: ignore[misc]
        encoding = self._encode_plus(expanded, *args, **{"add_special_tokens": False, **kwargs})
        return self.convert_ids_to_tokens(encoding["input_ids"])  # type: ignore[attr-defined]

    def _encode_plus(self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **kwargs: Any) -> Any:
        """Encode as the base class does, but so that the text around rows is read as it is around words.

        T5's tokenizer reads whatever follows an added token as the beginning of a word: the comma of ``<mug>, red``
        would be ``▁,``, and Llama's reads the space before one as a token. There, rows are written as ordinary words
        first, one word per row, and the ids of those words are replaced. All encodings of transformers pass here.
        """
        kwargs["add_special_tokens"] = add_special_tokens
        encode = super()._encode_plus  # type: ignore[misc]
        is_chat = kwargs.get("sanitize_control_tokens")  # marked texts, which are not read as a whole
        if text_pair is not None or kwargs.get("is_split_into_words") or is_chat or not self._needs_stand_ins(text):
            return encode(text, text_pair, **kwargs)
        texts = [text] if isinstance(text, str) else text
        written = [with_stand_ins(one, self._read, self._ids_of) for one in texts]
        encoding = encode(written[0][0] if isinstance(text, str) else [one for one, _ in written], **kwargs)
        ids, text_of = encoding["input_ids"], encoding.get("overflow_to_sample_mapping", range(len(texts)))
        is_flat = isinstance(ids, list) and not (
            ids and isinstance(ids[0], list)
        )  # one text, and no tensors asked for
        for index, part in enumerate(encoding.encodings):
            for place, row_id in rows_at(part.offsets, written[text_of[index]][1]):
                (ids if is_flat else ids[index])[place] = row_id
        return encoding

    def _needs_stand_ins(self, text: Any) -> bool:
        """Whether the text around rows would be read in another way than around words; False if there are no rows."""
        texts = [text] if isinstance(text, str) else text if isinstance(text, list | tuple) else ()
        if not all(isinstance(one, str) for one in texts):
            return False  # pairs, or words that were split already
        names = (name for one in texts for name in re.findall(ROW_NAME, one))
        name = next((name for name in names if has_token(self, name)), None)  # type: ignore[arg-type]
        if name is None:
            return False
        if self not in _SPLITS:
            # Tokenizers in Python have no offsets. If rows include the space before them, nothing is misread.
            can_be = self.is_fast and not attaches_spaces(self)  # type: ignore[attr-defined, arg-type]
            _SPLITS[self] = can_be and splits_around_tokens(self._read, name)
        return _SPLITS[self]

    def _read(self, text: str) -> Any:
        encode = super()._encode_plus  # type: ignore[misc]
        return encode(text, add_special_tokens=False, verbose=False).encodings[0]

    def _ids_of(self, names: list[str]) -> list[int] | None:
        known = all(has_token(self, name) for name in names)  # type: ignore[arg-type]
        return self.convert_tokens_to_ids(names) if known else None

    def _expand(self, text: Any) -> Any:
        if isinstance(text, str):
            return self._expand_text(text)
        if isinstance(text, list | tuple):
            return type(text)(self._expand(item) for item in text)
        return text

    def get_vocab(self) -> dict[str, int]:
        """Return the vocabulary as the base class does; look-ups also find triggers."""
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
        text = as_triggers(text, triggers) if triggers.table else text
        # Repeated until nothing changes: the words that replace one trigger may complete another, and expanding twice
        # must give the same as expanding once. The loader ensures that no description contains a trigger; the bound is
        # for a tokenizer_config.json that was written by hand.
        for _ in range(_MAX_PASSES if triggers.table else 0):
            expanded = self._replace(text, triggers)
            if expanded == text:
                break
            text = expanded
        return text

    def _warn_of_look_alikes(self, expanded: Any) -> None:
        """Warn, once per word, of what looks like a concept and is read as letters: ``<mugg>`` beside ``<mug>``."""
        if isinstance(expanded, list | tuple):
            for item in expanded:
                self._warn_of_look_alikes(item)
        triggers = triggers_of(self)  # type: ignore[arg-type]
        if not isinstance(expanded, str) or not triggers.table:
            return
        told = _TOLD.setdefault(self, set())
        for word, close in triggers.look_alikes(expanded):
            if word in told or has_token(self, word):  # type: ignore[arg-type]
                continue
            for other in armed_tokenizers():  # a pipeline reads the same prompt with several
                if not triggers.spelling.keys().isdisjoint(triggers_of(other).spelling):
                    _TOLD.setdefault(other, set()).add(word)
            advice = f"did you mean {close!r}?" if close else f"loaded are {', '.join([*triggers.table][:10])}"
            warnings.warn(
                f"{word!r} in the prompt is not a loaded concept and is read as letters; {advice}",
                SupremeInitWarning,
                stacklevel=3,
            )

    def _replace(self, text: str, triggers: Triggers) -> str:
        done = ""
        # The parts with odd numbers are row names. They stay as they are, and no trigger may overlap one.
        for number, part in enumerate(re.split(f"({ROW_NAME})", text)):
            position = 0
            for start, end in () if number % 2 else triggers.finder.spans(part):
                entry = triggers.entry(part[start:end])
                done += part[position:start]
                position = end
                if isinstance(entry, str):
                    done = append_description(done, entry)
                # The row tokens may have been removed (stock `unload_textual_inversion()` removes all added tokens).
                # Their names would then be read as gibberish, so the trigger stays as it is.
                elif entry is None or not has_token(self, entry[0]):  # type: ignore[arg-type]
                    done += part[start:end]
                else:
                    if done.endswith(" ") and attaches_spaces(self):  # type: ignore[arg-type]
                        done = done[:-1]
                    done += "".join(entry)  # byte-level tokenizers would read a space in between as a token
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
    """Mixed into a processor's own class so that its tokenizer expands triggers even after saving and loading."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as the base class does, and arm the tokenizer again, since it is loaded with its plain class."""
        processor = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        if trigger_table(processor.tokenizer):
            arm(processor.tokenizer, processor)
        return processor


def _multitoken_class(base: type) -> type:
    """Return this module's subclass of `base`, which has the same name, so that saved configs name the plain class."""
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
