"""Rows into and out of a text encoder's embedding matrix, and their tokens into and out of its tokenizers.

Nothing here decides *whether* rows may be added; `add_rows` and `remove_rows` only do it, exactly and reversibly.
"""

import contextlib
import json
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ConceptLoadError
from ..multitoken import forget_trigger, has_token, register_trigger, row_names, row_table
from .encoder_record import (
    correct_legacy_eos,
    discard_spare_rows,
    keep_record,
    new_record,
    record_of,
    set_matrix,
    spare_rows,
)
from .offloading import reachable_weights, weight_of, why_out_of_reach
from .text_pairs import TextPair

_READERS: "weakref.WeakKeyDictionary[PreTrainedTokenizerBase, weakref.WeakSet[PreTrainedModel]]" = (
    weakref.WeakKeyDictionary()
)
"""The encoders that hold rows for a tokenizer's tokens. Pipelines may share only a tokenizer, or only an encoder:
where ids move in one of them, they have to move in all."""


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
    _check_ids(pair, where)


def unknown_concepts(pair: TextPair) -> dict[str, list[str]]:
    """Return ``{trigger: [row name, ...]}`` of what a pair's encoder holds and a tokenizer of the pair does not know.

    Another pipeline that shares the encoder has loaded them.
    """
    record = record_of(pair.encoder)
    concepts = record.concepts if record else {}
    tables = [row_table(slot.tokenizer) for slot in pair.slots]
    return {trigger: names for trigger, names in concepts.items() if any(trigger not in table for table in tables)}


def holds_rows(pair: TextPair, trigger: str) -> bool:
    """Whether a pair's encoder has the rows of a concept.

    False where its tokenizer learned it from another pipeline, or stock ``unload_textual_inversion`` removed it.
    """
    record = record_of(pair.encoder)
    if record is None or trigger not in record.concepts:
        return False
    return trigger in unknown_concepts(pair) or has_token(pair.tokenizer, record.concepts[trigger][0])


def held_rows(pair: TextPair, trigger: str) -> Tensor:
    """Return a copy of a concept's rows, ``(num_vectors, hidden_size)``, wherever the encoder keeps them."""
    unknown = unknown_concepts(pair)
    if trigger in unknown:
        names = [name for known in unknown.values() for name in known]
        ids = [len(pair.tokenizer) + names.index(name) for name in unknown[trigger]]
    else:
        ids = pair.row_ids(trigger)
    return weight_of(pair.embedding)[ids].clone()


@torch.no_grad()
def add_rows(pipe: Any, pair: TextPair, concepts: Mapping[str, Tensor]) -> None:
    """Add concepts to a pair: tokens to its tokenizers, rows to its matrix (which grows once), triggers.

    Concepts that its encoder already holds, because another pipeline shares it, become known to its tokenizers first.

    Args:
        pipe: The pipeline that holds the pair; its record of the tokenizer's class is renewed.
        pair: Checked by `check_can_add_rows`.
        concepts: ``{trigger: rows}`` with rows ``(num_vectors, hidden_size)``. Of one that the encoder or the
            tokenizer already knows, there are as many rows.
    """
    _add_tokens(pair, unknown_concepts(pair))
    with reachable_weights(pair.encoder):
        record = record_of(pair.encoder) or new_record(pair)
        known = row_table(pair.tokenizer)
        taken = dict.fromkeys(pair.tokenizer.added_tokens_encoder)
        for trigger, rows in concepts.items():
            names = known.get(trigger) or row_names(trigger, len(rows), taken=taken)
            taken |= dict.fromkeys(names)
            record.concepts[trigger] = names
        added = {trigger: record.concepts[trigger] for trigger in concepts}
        _add_tokens(pair, added)
        all_names = [name for names in added.values() for name in names]
        ids = cast(list[int], pair.tokenizer.convert_tokens_to_ids(all_names))
        _write(pair, ids, torch.cat([rows.to(pair.embedding.weight) for rows in concepts.values()]))
        record.ids.update(zip(all_names, ids, strict=True))
        correct_legacy_eos(pair)
        keep_record(pair, record)
    connect(pair)
    _refresh_config(pipe, pair)


def connect(pair: TextPair) -> None:
    """Note which tokenizers an encoder that holds concepts reads, also in copied, loaded and unpickled pipelines."""
    if record_of(pair.encoder) is not None and not unknown_concepts(pair):
        for slot in pair.slots:
            _READERS.setdefault(slot.tokenizer, weakref.WeakSet()).add(pair.encoder)


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
    if not triggers:
        return
    _add_tokens(pair, unknown_concepts(pair))
    encoders, tokenizers = _sharing(pair)
    table = row_table(pair.tokenizer)
    names = {name for trigger in triggers for name in table[trigger]}
    with contextlib.ExitStack() as stack:
        for encoder in encoders:
            stack.enter_context(reachable_weights(encoder))
        # All new matrices before the first change: memory may run out.
        sharers = [TextPair(pair.encoder_name, encoder, pair.slots) for encoder in encoders]
        matrices = [_without_gaps(sharer, names) for sharer in sharers]
        processors = {id(slot.tokenizer): slot.processor for slot in pair.slots}
        for tokenizer in tokenizers:
            _remove_tokens(tokenizer, names)
            for trigger in triggers:
                forget_trigger(tokenizer, trigger, processors.get(id(tokenizer)))
        for sharer, matrix in zip(sharers, matrices, strict=True):
            _forget_rows(sharer, triggers, matrix)
    _refresh_config(pipe, pair)


def describe(pipe: Any, pair: TextPair, descriptions: Mapping[str, str]) -> None:
    """Let a pair's tokenizers read triggers as the words that they stand for, ``{trigger: description}``."""
    for slot in pair.slots:
        for trigger, description in descriptions.items():
            register_trigger(slot.tokenizer, trigger, description, slot.processor)
    _refresh_config(pipe, pair)


def forget_descriptions(pipe: Any, pair: TextPair, triggers: Iterable[str]) -> None:
    """Undo `describe`: triggers without rows are plain text again."""
    for slot in pair.slots:
        for trigger in triggers:
            if trigger not in row_table(slot.tokenizer):
                forget_trigger(slot.tokenizer, trigger, slot.processor)
    _refresh_config(pipe, pair)


def _write(pair: TextPair, ids: Sequence[int], rows: Tensor) -> None:
    """Write rows at token ids, growing the matrix once if it is too short."""
    weight = pair.embedding.weight
    num_rows = max(ids) + 1
    if num_rows > len(weight):
        longer = weight.new_empty(num_rows, weight.shape[1])
        longer[: len(weight)] = weight
        longer[len(weight) :] = 0  # tokens of other pipelines that share the tokenizer
        set_matrix(pair, longer)
    weight[torch.tensor(ids, device=weight.device)] = rows


def _without_gaps(pair: TextPair, names: set[str]) -> Tensor | None:
    """Return an encoder's matrix without the rows of tokens that its tokenizer still has, None if it holds none."""
    record = record_of(pair.encoder)
    if record is None:  # memory ran out before its first row was written
        return None
    matrix = pair.embedding.weight.detach()
    spare = spare_rows(pair, record)
    removed = set(_ids(pair.tokenizer, names).values())
    start = min(removed | {record.spare_start})
    kept = [i for i in range(start, min(len(pair.tokenizer), len(matrix))) if i not in removed]
    tail = matrix[kept]
    # Tokens of ours whose rows only another encoder holds: here is padding, if anything, which stays where it is.
    others = [name for known in row_table(pair.tokenizer).values() for name in known if name not in record.ids]
    foreign = set(_ids(pair.tokenizer, others).values())
    for place, old_id in enumerate(kept, start - record.spare_start):
        if old_id in foreign and 0 <= place < len(spare):
            tail[place + record.spare_start - start] = spare[place]
    num_spare_gone = max(start + len(kept) - record.spare_start, 0)
    return torch.cat([matrix[:start], tail, spare[num_spare_gone:]])


def _forget_rows(pair: TextPair, triggers: Iterable[str], matrix: Tensor | None) -> None:
    """Give an encoder the matrix of `_without_gaps`, now that the tokens are gone."""
    record = record_of(pair.encoder)
    if record is None or matrix is None:
        discard_spare_rows(pair.encoder)
        return
    set_matrix(pair, matrix)
    for trigger in triggers:
        record.concepts.pop(trigger, None)
    record.ids = _ids(pair.tokenizer, [name for names in record.concepts.values() for name in names])
    keep_record(pair, record)


def _ids(tokenizer: PreTrainedTokenizerBase, names: Iterable[str]) -> dict[str, int]:
    """Return ``{token: id}`` of those that a tokenizer has; others may have removed some."""
    return {name: cast(int, tokenizer.convert_tokens_to_ids(name)) for name in names if has_token(tokenizer, name)}


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


def _check_can_adopt(pair: TextPair, where: str) -> None:
    """Check that a pair's tokenizers would give the ids that the encoder's own concepts already have."""
    unknown = unknown_concepts(pair)
    names = [name for known in unknown.values() for name in known]
    teachers = [tokenizer for tokenizer, readers in list(_READERS.items()) if pair.encoder in readers]
    for slot in pair.slots if names else ():
        expected = list(range(len(slot.tokenizer), len(slot.tokenizer) + len(names)))
        if not any(teacher.convert_tokens_to_ids(names) == expected for teacher in teachers):
            raise ConceptLoadError(
                f"{where}: it holds {', '.join(unknown)}, which {slot.component_name} does not know; give this "
                "pipeline the tokenizer of the one that loaded them, or unload them there first"
            )


def _check_ids(pair: TextPair, where: str) -> None:
    """Check that an encoder's rows are where its tokenizer says.

    They are not if somebody shares one of the two with a pipeline that unloads a concept, and copied the other.
    """
    record = record_of(pair.encoder)
    now = _ids(pair.tokenizer, record.ids) if record else {}
    moved = [name for name, token_id in now.items() if record is not None and record.ids[name] != token_id]
    # Stock `unload_textual_inversion` moves tokens and rows together, and leaves as many rows as tokens.
    if moved and len(pair.tokenizer) != weight_of(pair.embedding).shape[0]:
        raise ConceptLoadError(
            f"{where}: its rows of {', '.join(sorted(record.concepts) if record else [])} are not where the tokenizer "
            "says: another pipeline that shares only one of the two has unloaded a concept; give this pipeline both"
        )


def _add_tokens(pair: TextPair, concepts: Mapping[str, list[str]]) -> None:
    """Make ``{trigger: [row name, ...]}`` known to a pair's tokenizers."""
    for slot in pair.slots if concepts else ():
        names = [name for known in concepts.values() for name in known if not has_token(slot.tokenizer, name)]
        # Not normalised: the names must be found as they are, whatever the tokenizer does to case and accents.
        slot.tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
        for trigger, known in concepts.items():
            register_trigger(slot.tokenizer, trigger, known, slot.processor)


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


def _refresh_config(pipe: Any, pair: TextPair) -> None:
    """Renew ``pipe.config``, which records each component's class: the tokenizers' may have changed."""
    for slot in pair.slots:
        setattr(pipe, slot.component_name, slot.processor or slot.tokenizer)
