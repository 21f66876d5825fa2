"""Tokenizers that read a trigger such as ``<mug>`` as the row tokens of its concept.

The tokenizer is the one place every pipeline's text goes through, so the expansion lives there: a tokenizer instance
is given a subclass of its own class (`register_trigger`), and its trigger table is kept in ``init_kwargs``, hence
in ``tokenizer_config.json``. The subclasses are attributes of this module, made on demand, so that tokenizers pickle
and ``DiffusionPipeline.from_pretrained`` finds them again by the name that ``model_index.json`` holds.
"""

import functools
import re
import warnings
from collections.abc import Iterable
from typing import Any

import transformers

# diffusers looks up the load method of a component by these base classes in the component's own module.
from transformers import PreTrainedTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from .errors import SupremeInitWarning

__all__ = [
    "MultiTokenMixin",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerFast",
    "ProcessorMixin",
    "find_trigger",
    "forget_trigger",
    "is_row_name",
    "register_trigger",
    "row_names",
    "trigger_table",
]

TABLE_KEY = "multitoken"
"""Key of the trigger table in a tokenizer's ``init_kwargs``: ``{trigger: [row name, ...]}``."""

_ROW_NAME = r"<[^<>|\s]+\|\d+>"


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
    taken = set(taken)
    candidate, attempt = core, 1
    while f"<{candidate}|0>" in taken:
        attempt += 1
        candidate = f"{core}~{attempt}"
    return [f"<{candidate}|{index}>" for index in range(num_vectors)]


def trigger_table(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """Return ``{trigger: [row name, ...]}`` of a tokenizer, in the order of registration."""
    return tokenizer.init_kwargs.get(TABLE_KEY, {})


def find_trigger(tokenizer: PreTrainedTokenizerBase, trigger: str) -> str | None:
    """Return the registered spelling of `trigger`, which matches case-insensitively, or None."""
    return next((known for known in trigger_table(tokenizer) if known.lower() == trigger.lower()), None)


def register_trigger(tokenizer: PreTrainedTokenizerBase, trigger: str, names: list[str]) -> None:
    """Make `tokenizer` read `trigger` as the row tokens `names`, which it must already have."""
    if not isinstance(tokenizer, MultiTokenMixin):
        tokenizer.__class__ = _multitoken_class(type(tokenizer))
    tokenizer.init_kwargs[TABLE_KEY] = {**trigger_table(tokenizer), trigger: list(names)}


def forget_trigger(tokenizer: PreTrainedTokenizerBase, trigger: str) -> None:
    """Undo `register_trigger`; without triggers the tokenizer has its own class again."""
    remaining = {known: names for known, names in trigger_table(tokenizer).items() if known != trigger}
    if remaining:
        tokenizer.init_kwargs[TABLE_KEY] = remaining
        return
    tokenizer.init_kwargs.pop(TABLE_KEY, None)
    if isinstance(tokenizer, MultiTokenMixin):
        tokenizer.__class__ = type(tokenizer).__mro__[2]


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
            table = {trigger.lower(): names for trigger, names in trigger_table(self).items()}  # type: ignore[arg-type]
            return _pattern(tuple(table)).sub(lambda match: self._replacement(match, table), text) if table else text
        if isinstance(text, list | tuple):
            return type(text)(self._expand(item) for item in text)
        return text

    def _replacement(self, match: re.Match[str], table: dict[str, list[str]]) -> str:
        names = table.get(match[0].lower())
        # A row name stays as it is, which makes expansion idempotent. Rows that somebody else removed from the
        # vocabulary (stock `unload_textual_inversion()` empties it) must not turn into gibberish text.
        if names is None or names[0] not in self.added_tokens_encoder:  # type: ignore[attr-defined]
            return match[0]
        return "".join(names)  # with a space in between, byte-level tokenizers would put a token for it there

    def _warn_of_cut_rows(self, expanded: Any, input_ids: Any) -> None:
        texts = [expanded] if isinstance(expanded, str) else list(expanded)
        ids = input_ids.tolist() if hasattr(input_ids, "tolist") else input_ids
        batch = ids if ids and isinstance(ids[0], list) else [ids]
        for text, kept in zip(texts, batch, strict=False):
            names = re.findall(_ROW_NAME, text) if isinstance(text, str) else []
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


@functools.lru_cache(maxsize=256)
def _pattern(triggers: tuple[str, ...]) -> re.Pattern[str]:
    """Match row names first, then triggers, longest first, as whole words where they begin or end like words."""
    alternatives = [_ROW_NAME]
    for trigger in sorted(triggers, key=len, reverse=True):
        start = r"(?<!\w)" if re.match(r"\w", trigger) else ""
        end = r"(?!\w)" if re.search(r"\w\Z", trigger) else ""
        alternatives.append(start + re.escape(trigger) + end)
    return re.compile("|".join(alternatives), re.IGNORECASE)


def _multitoken_class(base: type) -> type:
    """Return this module's subclass of `base`; it has the same name, so that saved configs name the plain class."""
    known = globals().get(base.__name__)
    if isinstance(known, type) and issubclass(known, MultiTokenMixin) and known.__mro__[2] is base:
        return known
    made = type(base.__name__, (MultiTokenMixin, base), {"__module__": __name__, "__doc__": base.__doc__})
    globals()[base.__name__] = made
    return made


def __getattr__(name: str) -> type:
    """Make ``diffusers_supreme_init.multitoken.CLIPTokenizer`` and its like on demand (PEP 562)."""
    base = getattr(transformers, name, None)
    if isinstance(base, type) and issubclass(base, PreTrainedTokenizerBase):
        return _multitoken_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
