"""Row tokens, the added tokens that a concept's rows belong to: add them at given ids, and remove them again.

Pipelines may share text encoders or tokenizers. All encoders and tokenizers that are connected in this way have to
agree on the token ids; together they are a *circle*.
"""

import json
import weakref
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..multitoken import armed_tokenizers
from ..triggers import is_row_name, row_table
from .encoder_record import encoder_record_of

_READERS: "weakref.WeakKeyDictionary[PreTrainedTokenizerBase, weakref.WeakSet[PreTrainedModel]]" = (
    weakref.WeakKeyDictionary()
)
"""The encoders that are known to read each tokenizer's row tokens; `EncoderRecord` says which rows are whose."""


@dataclass(frozen=True)
class Circle:
    """Encoders and tokenizers that share the token ids of rows, because pipelines share some of them."""

    encoders: list[PreTrainedModel]
    tokenizers: list[PreTrainedTokenizerBase]

    @cached_property
    def ids(self) -> dict[str, int]:
        """``{token: id}`` of all tokens added to the tokenizers, by anyone, as of the first access."""
        return {name: token_id for tokenizer in self.tokenizers for name, token_id in _added(tokenizer).items()}

    def names_in_use(self, without: Mapping[str, list[str]] | None = None) -> set[str]:
        """Return the row tokens of all concepts that an encoder holds or a tokenizer reads, except `without`."""
        gone = without or {}
        records = [encoder_record_of(encoder) for encoder in self.encoders]
        tables = [record.concepts for record in records if record is not None]
        tables += [row_table(tokenizer) for tokenizer in self.tokenizers]
        return {
            name
            for table in tables
            for trigger, names in table.items()
            if gone.get(trigger) != names
            for name in names
        }

    def names_taken(self) -> set[str]:
        """Return the names that no new row token may have.

        The row token of a removed concept, a *hole*, is free for a new concept of that name if all tokenizers know it.
        """
        taken = set(self.ids)
        holes = {name for name in taken - self.names_in_use() if is_row_name(name)}
        for tokenizer in self.tokenizers:
            holes &= _added(tokenizer).keys()
        return taken - (holes - self.names_read_elsewhere()) if holes else taken

    def names_read_elsewhere(self) -> set[str]:
        """Return the row tokens that a tokenizer outside the circle may read from one of its encoders.

        A copy of a tokenizer still produces the token ids that it knew. It may belong to a pipeline that shares an
        encoder with the circle but has not been seen by this package yet, so those rows must not change.
        """
        ids = self.ids
        found: set[str] = set()
        for tokenizer in armed_tokenizers():
            if not _READERS.get(tokenizer) and not _is_among(tokenizer, self.tokenizers):
                own = _added(tokenizer)
                names = (name for names in row_table(tokenizer).values() for name in names)
                found |= {name for name in names if name in ids and own.get(name) == ids[name]}
        return found


def connect(encoder: PreTrainedModel, tokenizers: Iterable[PreTrainedTokenizerBase]) -> None:
    """Record that an encoder reads the row tokens of these tokenizers."""
    for tokenizer in tokenizers:
        _READERS.setdefault(tokenizer, weakref.WeakSet()).add(encoder)


def circle_around(encoder: PreTrainedModel, tokenizers: Iterable[PreTrainedTokenizerBase]) -> Circle:
    """Return all encoders and tokenizers that are known to share the token ids of rows with these."""
    circle = Circle([encoder], list(tokenizers))
    for tokenizer in circle.tokenizers:  # the list grows during the loop, until the circle is closed
        for reader in _READERS.get(tokenizer, ()):
            if not _is_among(reader, circle.encoders):
                circle.encoders.append(reader)
        for other, readers in list(_READERS.items()):
            if any(one in readers for one in circle.encoders) and not _is_among(other, circle.tokenizers):
                circle.tokenizers.append(other)
    return circle


def next_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that the next added token gets."""
    if not hasattr(tokenizer, "_tokenizer"):
        # Tokenizers in Python number new tokens by the size of their vocabulary, Rust tokenizers by the highest id.
        return len(tokenizer)
    return max([tokenizer.vocab_size, *(token_id + 1 for token_id in _added(tokenizer).values())])


def teach(tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int]) -> None:
    """Add row tokens to a tokenizer at given ids; skipped ids are filled with tokens that have no meaning.

    Args:
        tokenizer: The tokenizer; row tokens that it already knows must have these ids.
        ids: ``{row name: token id}``; the ids of new row tokens must be free.
    """
    known = _added(tokenizer)
    names = {token_id: name for name, token_id in ids.items() if name not in known}
    all_new = range(next_id(tokenizer), max(names, default=-1) + 1)
    # Not normalised: the tokenizer must find the names as they are written, whatever it does to case and accents.
    tokenizer.add_tokens([AddedToken(names.get(one, f"<hole|{one}>"), normalized=False) for one in all_new])


def drop_free_tail(tokenizer: PreTrainedTokenizerBase, used: Collection[str]) -> None:
    """Remove the row tokens behind the last one in use from a tokenizer; no other token moves."""
    free: set[str] = set()
    for name, _ in sorted(_added(tokenizer).items(), key=lambda entry: -entry[1]):
        if name in used or not is_row_name(name):
            break
        free.add(name)
    if free:
        _remove(tokenizer, free)


def _remove(tokenizer: PreTrainedTokenizerBase, names: Collection[str]) -> None:
    if hasattr(tokenizer, "_tokenizer"):
        # A Rust tokenizer cannot remove tokens, so it is made again from its JSON state without them.
        state = json.loads(tokenizer._tokenizer.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in names]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
        return
    # A tokenizer in Python (ByT5, ChatGLM) keeps them in two dictionaries and a trie; the trie can only grow.
    kept = {i: token for i, token in tokenizer._added_tokens_decoder.items() if token.content not in names}
    tokenizer._added_tokens_decoder = kept
    tokenizer._added_tokens_encoder = {token.content: i for i, token in kept.items()}
    tokenizer.tokens_trie = type(tokenizer.tokens_trie)()
    tokenizer._update_trie()
    tokenizer._update_total_vocab_size()


def _added(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    # `added_tokens_encoder` returns the same but sorts it, which is slow with thousands of tokens.
    return {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items()}


def _is_among(one: object, others: Iterable[object]) -> bool:
    return any(one is other for other in others)  # by identity, so that equal copies count as different
