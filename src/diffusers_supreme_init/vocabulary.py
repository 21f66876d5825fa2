"""Rows into and out of a text encoder's embedding matrix, and their tokens into and out of its tokenizers.

Nothing here decides *whether* rows may be added; `add_rows` and `remove_rows` only do it, exactly and reversibly.

What an encoder was like before its first concept, and whose rows it holds, stands in its configuration (`_Record`), so
that it survives saving; what a tokenizer reads a trigger as stands in the tokenizer (`multitoken`).
"""

import json
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .errors import ConceptLoadError
from .multitoken import forget_trigger, has_token, register_trigger, row_names, row_table
from .offloading import reachable_weights, weight_of, why_out_of_reach
from .text_pairs import TextPair

_LEGACY_EOS_TOKEN_ID = 2
_RECORD = "multitoken"
_SPARE_ROWS = "_multitoken_spare_rows"

_READERS: "weakref.WeakKeyDictionary[PreTrainedTokenizerBase, weakref.WeakSet[PreTrainedModel]]" = (
    weakref.WeakKeyDictionary()
)
"""The encoders that hold rows for a tokenizer's tokens. Pipelines may share only a tokenizer, or only an encoder: where
ids move in one of them, they have to move in all."""


@dataclass
class _Record:
    """What an encoder was like before its first concept, and whose rows it holds."""

    num_rows: int
    vocab_size: int
    spare_start: int
    """Rows from here on are beyond the tokenizer's last token; padded matrices (T5, Qwen) have such rows."""
    eos_token_ids: dict[str, Any]
    """Legacy ``eos_token_id`` by module name; ``"config"`` is the encoder's configuration."""
    concepts: dict[str, list[str]] = field(default_factory=dict)
    """``{trigger: [row name, ...]}``."""


def check_can_add_rows(pair: TextPair) -> None:
    """Check that rows can be added to a pair's embedding matrix as it is now.

    Raises:
        ConceptLoadError: The encoder is being trained, out of reach or quantised, or its tokenizers disagree.
    """
    embedding = pair.embedding
    where = f"{pair.encoder_name} ({type(pair.encoder).__name__})"
    if isinstance(embedding, BaseTunerLayer):
        raise ConceptLoadError(f"{where}: its embeddings are being trained; load concepts before or after `train()`")
    weight = embedding.weight
    if (why := why_out_of_reach(pair.encoder, embedding)) is not None:
        raise ConceptLoadError(f"{where}: {why}; load concepts first, then enable offloading")
    is_plain = type(weight.data) is Tensor
    if not is_plain or not weight.is_floating_point() or weight.element_size() < 2:
        got = weight.dtype if is_plain else f"a {type(weight.data).__name__}"
        raise ConceptLoadError(
            f"{where}: expected embeddings in fp16, bf16, fp32 or fp64, got {got}; "
            "load this encoder without quantisation, or leave its embeddings out of it"
        )
    lengths = {slot.component_name: len(slot.tokenizer) for slot in pair.slots}
    if len(set(lengths.values())) > 1:
        raise ConceptLoadError(f"{where}: expected tokenizers with equal vocabularies, got sizes {lengths}")
    _check_can_adopt(pair, where)


def holds_rows(pair: TextPair, trigger: str) -> bool:
    """Whether a pair's encoder has the rows of a concept that its tokenizer knows.

    False where the tokenizer learned it from another pipeline, or stock ``unload_textual_inversion`` removed it.
    """
    names = row_table(pair.tokenizer).get(trigger)
    record = _record(pair.encoder)
    return (
        names is not None and record is not None and trigger in record.concepts and has_token(pair.tokenizer, names[0])
    )


def held_rows(pair: TextPair, trigger: str) -> Tensor:
    """Return a copy of a loaded concept's rows, ``(num_vectors, hidden_size)``, wherever the encoder keeps them."""
    return weight_of(pair.embedding)[pair.row_ids(trigger)].clone()


def unknown_concepts(pair: TextPair) -> dict[str, list[str]]:
    """Return ``{trigger: [row name, ...]}`` of concepts in a pair's encoder that a tokenizer of the pair does not know.

    Another pipeline that shares the encoder has loaded them.
    """
    record = _record(pair.encoder)
    concepts = record.concepts if record else {}
    return {
        trigger: names
        for trigger, names in concepts.items()
        if any(trigger not in row_table(slot.tokenizer) for slot in pair.slots)
    }


def adopt_concepts(pipe: Any, pair: TextPair) -> None:
    """Teach a pair's tokenizers the concepts that its encoder already holds, because another pipeline shares it."""
    concepts = unknown_concepts(pair)
    if not concepts:
        return
    for slot in pair.slots:
        _add_tokens(slot.tokenizer, [name for names in concepts.values() for name in names])
        for trigger, names in concepts.items():
            register_trigger(slot.tokenizer, trigger, names, slot.processor)
    _connect(pair)
    _refresh_config(pipe, pair)


@torch.no_grad()
def add_rows(pipe: Any, pair: TextPair, concepts: Mapping[str, Tensor]) -> None:
    """Add concepts to a pair: tokens to its tokenizers, rows to its matrix (which grows once), triggers.

    Args:
        pipe: The pipeline that holds the pair; its record of the tokenizer's class is renewed.
        pair: Checked by `check_can_add_rows`.
        concepts: ``{trigger: rows}`` with rows ``(num_vectors, hidden_size)``. The encoder holds none of them yet; its
            tokenizer may know one, with as many rows, from another pipeline.
    """
    with reachable_weights(pair.encoder):
        record = _record(pair.encoder) or _new_record(pair)
        known = row_table(pair.tokenizer)
        taken = dict.fromkeys(pair.tokenizer.added_tokens_encoder)
        for trigger, rows in concepts.items():
            names = known.get(trigger) or row_names(trigger, len(rows), taken=taken)
            taken |= dict.fromkeys(names)
            record.concepts[trigger] = names
        all_names = [name for trigger in concepts for name in record.concepts[trigger]]
        for slot in pair.slots:
            _add_tokens(slot.tokenizer, all_names)
            for trigger in concepts:
                register_trigger(slot.tokenizer, trigger, record.concepts[trigger], slot.processor)
        ids = cast(list[int], pair.tokenizer.convert_tokens_to_ids(all_names))
        _write(pair, ids, torch.cat([rows.to(pair.embedding.weight) for rows in concepts.values()]))
        _correct_legacy_eos(pair)
        setattr(pair.encoder.config, _RECORD, asdict(record))
    _connect(pair)
    _refresh_config(pipe, pair)


@torch.no_grad()
def write_rows(pair: TextPair, trigger: str, rows: Tensor) -> None:
    """Overwrite a loaded concept's rows, ``(num_vectors, hidden_size)``, in place."""
    weight = pair.embedding.weight
    weight[torch.tensor(pair.row_ids(trigger), device=weight.device)] = rows.to(weight)


@torch.no_grad()
def remove_rows(pipe: Any, pair: TextPair, triggers: Sequence[str]) -> None:
    """Undo `add_rows` for some concepts; vocabulary, matrix and config are then as if they had never been added.

    Tokens added later, by whomever, move down to close the gap, and their rows move with them: also in encoders and
    tokenizers of other pipelines that share this tokenizer or this encoder.
    """
    encoders, tokenizers = _sharing(pair)
    table = row_table(pair.tokenizer)
    present = {trigger: names for trigger, names in table.items() if has_token(pair.tokenizer, names[0])}
    removed = {i for trigger in triggers if trigger in present for i in pair.row_ids(trigger)}
    for encoder in encoders:
        with reachable_weights(encoder):
            sharer = TextPair(pair.encoder_name, encoder, pair.slots)
            _drop_rows(sharer, triggers, removed, present)
    names = {name for trigger in triggers for name in table[trigger]}
    processors = {id(slot.tokenizer): slot.processor for slot in pair.slots}
    for tokenizer in tokenizers:
        _remove_tokens(tokenizer, names)
        for trigger in triggers:
            forget_trigger(tokenizer, trigger, processors.get(id(tokenizer)))
    _refresh_config(pipe, pair)


def forget_descriptions(pipe: Any, pair: TextPair, triggers: Sequence[str]) -> None:
    """Let a pair's tokenizers read triggers as plain text again, where they read them as descriptions."""
    for slot in pair.slots:
        for trigger in triggers:
            if trigger not in row_table(slot.tokenizer):
                forget_trigger(slot.tokenizer, trigger, slot.processor)
    _refresh_config(pipe, pair)


def describe(pipe: Any, pair: TextPair, descriptions: Mapping[str, str]) -> None:
    """Let a pair's tokenizers read triggers as the words that they stand for, ``{trigger: description}``."""
    for slot in pair.slots:
        for trigger, description in descriptions.items():
            register_trigger(slot.tokenizer, trigger, description, slot.processor)
    _refresh_config(pipe, pair)


def _write(pair: TextPair, ids: Sequence[int], rows: Tensor) -> None:
    """Write rows at token ids, growing the matrix once if it is too short."""
    weight = pair.embedding.weight
    num_rows = max(ids) + 1
    if num_rows > len(weight):
        # `resize_token_embeddings` would shrink padded matrices, replace the module (hooks, Gemma's scaling) and draw
        # random rows; longer data in the same parameter do none of that, and whatever is tied to it follows.
        longer = weight.new_empty(num_rows, weight.shape[1])
        longer[: len(weight)] = weight
        longer[len(weight) :] = 0
        _set_matrix(pair, longer)
    weight[torch.tensor(ids, device=weight.device)] = rows


def _drop_rows(
    pair: TextPair, triggers: Iterable[str], removed: set[int], present: Mapping[str, Sequence[str]]
) -> None:
    """Take ids out of an encoder's matrix; `present` are the concepts in its tokenizer, before they are removed."""
    record = _record(pair.encoder)
    if record is None:
        return
    matrix = pair.embedding.weight.detach()
    num_tokens = len(pair.tokenizer)
    spare = _spare_rows(pair, record)
    start = min(removed | {record.spare_start})
    kept = [i for i in range(start, min(num_tokens, len(matrix))) if i not in removed]
    tail = matrix[kept]
    # Tokens of ours whose rows only another encoder holds: here is padding, if anything, which stays where it is.
    foreign = {i for trigger in present if trigger not in record.concepts for i in pair.row_ids(trigger)}
    for place, old_id in enumerate(kept, start - record.spare_start):
        if old_id in foreign and 0 <= place < len(spare):
            tail[place + record.spare_start - start] = spare[place]
    num_spare_gone = max(start + len(kept) - record.spare_start, 0)
    for trigger in triggers:
        record.concepts.pop(trigger, None)
    _set_matrix(pair, torch.cat([matrix[:start], tail, spare[num_spare_gone:]]))
    if record.concepts:
        setattr(pair.encoder.config, _RECORD, asdict(record))
    else:
        _forget_record(pair, record)


def _spare_rows(pair: TextPair, record: _Record) -> Tensor:
    """Return the padding of a matrix as it was before the first concept.

    A pipeline that was saved with its concepts no longer has what they had overwritten: no token leads there, so those
    rows come back as zeros.
    """
    matrix = pair.embedding.weight.detach()
    kept: Tensor | None = getattr(pair.encoder, _SPARE_ROWS, None)
    if kept is not None:
        return kept.to(matrix)
    spare = matrix[record.spare_start : record.num_rows].clone()
    spare[: len(pair.tokenizer) - record.spare_start] = 0
    return spare


def _set_matrix(pair: TextPair, matrix: Tensor) -> None:
    """Give the embedding, and whatever is tied to it, a matrix of another length."""
    weight = pair.embedding.weight
    weight.data = matrix
    for module in pair.encoder.modules():
        if getattr(module, "weight", None) is weight:
            for size_name in ("num_embeddings", "out_features"):
                if hasattr(module, size_name):
                    setattr(module, size_name, len(matrix))
    pair.encoder.config.get_text_config().vocab_size = len(matrix)


def _sharing(pair: TextPair) -> tuple[list[PreTrainedModel], list[PreTrainedTokenizerBase]]:
    """Return every encoder and tokenizer in which the ids of a pair's tokens have to agree."""
    tokenizers = [slot.tokenizer for slot in pair.slots]
    encoders = [pair.encoder]
    for tokenizer in tokenizers:  # grows while it is walked
        readers = _READERS.get(tokenizer, ())
        encoders += [encoder for encoder in readers if all(encoder is not known for known in encoders)]
        for other, its_readers in list(_READERS.items()):
            if any(encoder in its_readers for encoder in encoders) and all(other is not known for known in tokenizers):
                tokenizers.append(other)
    return encoders, tokenizers


def _connect(pair: TextPair) -> None:
    for slot in pair.slots:
        _READERS.setdefault(slot.tokenizer, weakref.WeakSet()).add(pair.encoder)


def _check_can_adopt(pair: TextPair, where: str) -> None:
    """Check that a pair's tokenizers would give the ids that the encoder's own concepts already have."""
    unknown = unknown_concepts(pair)
    names = [name for row_names in unknown.values() for name in row_names]
    teachers = [tokenizer for tokenizer, readers in list(_READERS.items()) if pair.encoder in readers]
    for slot in pair.slots if names else ():
        expected = list(range(len(slot.tokenizer), len(slot.tokenizer) + len(names)))
        if not any(teacher.convert_tokens_to_ids(names) == expected for teacher in teachers):
            raise ConceptLoadError(
                f"{where}: it holds {', '.join(unknown)}, which {slot.component_name} does not know; give this pipeline "
                "the tokenizer of the one that loaded them, or unload them there first"
            )


def _add_tokens(tokenizer: PreTrainedTokenizerBase, names: Iterable[str]) -> None:
    # Not normalised: the names must be found as they are, whatever the tokenizer does to case and accents.
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names if not has_token(tokenizer, name)])


def _remove_tokens(tokenizer: PreTrainedTokenizerBase, names: set[str]) -> None:
    if hasattr(tokenizer, "_tokenizer"):
        # The Rust tokenizer cannot forget tokens, but it can be read from its own description without them.
        state = json.loads(tokenizer._tokenizer.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in names]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
        return
    # A tokenizer in Python (ByT5, ChatGLM) keeps them in two dictionaries and a trie, which can only grow.
    old = tokenizer._added_tokens_decoder
    removed = [i for i, token in old.items() if token.content in names]
    kept = {i - sum(gone < i for gone in removed): token for i, token in old.items() if i not in removed}
    tokenizer._added_tokens_decoder = kept
    tokenizer._added_tokens_encoder = {token.content: i for i, token in kept.items()}
    tokenizer.tokens_trie = type(tokenizer.tokens_trie)()
    tokenizer._update_trie()
    tokenizer._update_total_vocab_size()


def _record(encoder: PreTrainedModel) -> _Record | None:
    values = getattr(encoder.config, _RECORD, None)
    return _Record(**values) if values else None


def _new_record(pair: TextPair) -> _Record:
    weight = pair.embedding.weight.detach()
    # Another pipeline that shares the tokenizer may have added concepts to it already.
    known = [pair.tokenizer.convert_tokens_to_ids(names[0]) for names in row_table(pair.tokenizer).values()]
    spare_start = min(len(pair.tokenizer), len(weight), *known)
    setattr(pair.encoder, _SPARE_ROWS, weight[spare_start:].clone())
    return _Record(
        num_rows=len(weight),
        vocab_size=pair.encoder.config.get_text_config().vocab_size,
        spare_start=spare_start,
        eos_token_ids=_legacy_eos_token_ids(pair),
    )


def _forget_record(pair: TextPair, record: _Record) -> None:
    if len(pair.embedding.weight) == record.num_rows:  # else somebody added tokens meanwhile
        pair.encoder.config.get_text_config().vocab_size = record.vocab_size
    for name, eos_token_id in record.eos_token_ids.items():
        _eos_owner(pair, name).eos_token_id = eos_token_id
    delattr(pair.encoder.config, _RECORD)
    if hasattr(pair.encoder, _SPARE_ROWS):
        delattr(pair.encoder, _SPARE_ROWS)


def _legacy_eos_token_ids(pair: TextPair) -> dict[str, Any]:
    """Owners of CLIP's legacy ``eos_token_id == 2``, with which it pools at the highest id: a concept's last row."""
    if not re.match("CLIP", type(pair.encoder).__name__) or pair.tokenizer.eos_token_id in (
        None,
        _LEGACY_EOS_TOKEN_ID,
    ):
        return {}
    names = ["config", *(name for name, _ in pair.encoder.named_modules())]
    owners = {name: getattr(_eos_owner(pair, name), "eos_token_id", None) for name in names}
    return {name: value for name, value in owners.items() if value == _LEGACY_EOS_TOKEN_ID}


def _correct_legacy_eos(pair: TextPair) -> None:
    for name in _legacy_eos_token_ids(pair):
        _eos_owner(pair, name).eos_token_id = pair.tokenizer.eos_token_id


def _eos_owner(pair: TextPair, name: str) -> Any:
    return pair.encoder.config if name == "config" else pair.encoder.get_submodule(name)


def _refresh_config(pipe: Any, pair: TextPair) -> None:
    """Renew ``pipe.config``, which records each component's class: the tokenizers' may have changed."""
    for slot in pair.slots:
        setattr(pipe, slot.component_name, slot.processor or slot.tokenizer)
