"""The concepts of a text encoder and its tokenizers: add their rows and row tokens, and remove them without a trace.

The encoder's configuration records which rows belong to which concept. Token ids never change: a concept removed from
the middle leaves a hole. The matrix and the vocabulary shrink once the rows at their end are no longer used.
"""

import contextlib
import gc
from collections.abc import Collection, Iterable, Mapping
from typing import cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from ..errors import ConceptLoadError
from ..multitoken import add_triggers, remove_triggers
from ..triggers import Entry, folded, has_token, row_names, row_table, trigger_table
from .encoder_record import (
    Cut,
    EncoderRecord,
    correct_legacy_eos,
    encoder_record_of,
    keep_record,
    new_record,
    set_matrix,
)
from .offloading import reachable_weights, weight_of, why_out_of_reach
from .row_tokens import Circle, circle_around, connect, drop_free_tail, next_id, teach
from .text_pairs import TextPair
from .trained_rows import is_trained


class ConceptVocabulary:
    """The concepts that one text encoder and its tokenizers know at present.

    Attributes:
        pair: The text encoder and its tokenizers.
        entries: ``{trigger: row names or description}`` of all concepts that the tokenizers or the encoder know.
    """

    def __init__(self, pair: TextPair) -> None:
        """Read the encoder's configuration and the tokenizers' trigger tables."""
        self.pair = pair
        self._read()

    def _read(self) -> None:
        self._record = encoder_record_of(self.pair.encoder)
        tables = [row_table(slot.tokenizer) for slot in self.pair.slots]
        held = self._record.concepts if self._record else {}
        # These concepts were loaded into the encoder by another pipeline, which has tokenizers of its own.
        self._unknown = {one: names for one, names in held.items() if any(one not in table for table in tables)}
        self.entries: dict[str, Entry] = {**trigger_table(self.pair.tokenizer), **self._unknown}
        self._spelling = {folded(trigger): trigger for trigger in self.entries}
        if self._record is not None and not self._unknown:
            connect(self.pair.encoder, [slot.tokenizer for slot in self.pair.slots])

    @property
    def concepts(self) -> dict[str, list[str]]:
        """``{trigger: [row name, ...]}`` of concepts with rows, here or in an encoder that shares the tokenizer."""
        return {trigger: entry for trigger, entry in self.entries.items() if isinstance(entry, list)}

    def spelling(self, trigger: str) -> str | None:
        """Return the registered spelling of a trigger, which matches as `folded`, or None."""
        return self._spelling.get(folded(trigger))

    def is_known(self, trigger: str) -> bool:
        """Whether all tokenizers know a trigger; False if only the encoder does, through another pipeline."""
        return trigger in self.entries and trigger not in self._unknown

    def holds(self, trigger: str) -> bool:
        """Whether the encoder has the rows of a concept.

        False if only the tokenizer knows the concept, through another pipeline that shares it, or if stock
        ``unload_textual_inversion`` has removed the rows.
        """
        names = self._record.concepts.get(trigger) if self._record else None
        return names is not None and (trigger in self._unknown or has_token(self.pair.tokenizer, names[0]))

    def rows_of(self, trigger: str) -> Tensor:
        """Return a copy of a concept's rows, ``(num_vectors, hidden_size)``, even if the encoder is offloaded."""
        return weight_of(self.pair.embedding)[self._ids_of(trigger)].clone()

    def check_can_change(self) -> None:
        """Check that rows can be added and removed at present.

        Raises:
            ConceptLoadError: The encoder is being trained, offloaded to disk, not loaded or quantised; or the encoder
                and its tokenizers disagree about token ids.
        """
        pair, embedding = self.pair, self.pair.embedding
        where = f"{pair.encoder_name} ({type(pair.encoder).__name__})"
        if is_trained(embedding) or isinstance(embedding, BaseTunerLayer):
            raise ConceptLoadError(
                f"{where}: its embeddings are being trained; load concepts before or after `train()`"
            )
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
        self._check_can_learn(where)
        self._check_ids(where)

    @torch.no_grad()
    def add(self, concepts: Mapping[str, Tensor]) -> None:
        """Add concepts: row tokens and triggers to the tokenizers, and rows to the matrix, which is resized once.

        Concepts that another pipeline has loaded into a shared encoder are made known to the tokenizers first.

        Args:
            concepts: ``{trigger: rows}`` with rows ``(num_vectors, hidden_size)``. The number of rows must be the same
                as before for a concept that the encoder or the tokenizer already knows.
        """
        pair = self.pair
        if self._record is not None:
            self._teach(self._unknown, self._record.ids)
        with reachable_weights(pair.encoder):
            record = self._record or new_record(pair, next_id(pair.tokenizer))
            added, ids = self._placed(concepts, record)
            self._teach(added, ids)
            _write(pair, list(ids.values()), torch.cat([rows.to(pair.embedding.weight) for rows in concepts.values()]))
            record.concepts = {**record.concepts, **added}
            record.ids = {**record.ids, **ids}
            correct_legacy_eos(pair)
            keep_record(pair, record)
        self._read()

    @torch.no_grad()
    def write(self, trigger: str, rows: Tensor) -> None:
        """Overwrite a concept's rows, ``(num_vectors, hidden_size)``, in place."""
        weight = self.pair.embedding.weight
        weight[torch.tensor(self._ids_of(trigger), device=weight.device)] = rows.to(weight)

    @torch.no_grad()
    def remove(self, triggers: Iterable[str]) -> None:
        """Undo `add` for some concepts, in all encoders and tokenizers of the circle (see `row_tokens`).

        The triggers are plain text from then on. The matrix, the vocabulary and the configuration are restored once no
        row behind those of the concepts is in use.

        Args:
            triggers: The concepts to remove; those without rows are ignored.
        """
        wanted = set(triggers)
        gone = {trigger: names for trigger, names in self.concepts.items() if trigger in wanted}
        if not gone and self._record is None:
            return
        circle = self._circle()
        if circle.names_read_elsewhere():
            gc.collect()  # tokenizers of a deleted pipeline may live on in a reference cycle
        used = circle.names_in_use(without=gone) | circle.names_read_elsewhere()
        processors = {id(slot.tokenizer): slot.processor for slot in self.pair.slots}
        with contextlib.ExitStack() as stack:
            for encoder in circle.encoders:
                stack.enter_context(reachable_weights(encoder))
            # All new matrices are made before the first change, because memory may run out.
            cuts = [
                Cut(TextPair(self.pair.encoder_name, encoder, self.pair.slots), circle.ids, used)
                for encoder in circle.encoders
            ]
            for tokenizer in circle.tokenizers:
                own = [trigger for trigger, names in row_table(tokenizer).items() if gone.get(trigger) == names]
                remove_triggers(tokenizer, own, processors.get(id(tokenizer)))
                drop_free_tail(tokenizer, used)
            for cut in cuts:
                cut.make(gone)
        self._read()

    def set_descriptions(self, descriptions: Mapping[str, str]) -> None:
        """Make the tokenizers read triggers as words, ``{trigger: description}``."""
        for slot in self.pair.slots if descriptions else ():
            add_triggers(slot.tokenizer, descriptions, slot.processor)
        self._read()

    def drop_descriptions(self, triggers: Collection[str]) -> None:
        """Undo `set_descriptions`: triggers without rows are plain text again."""
        for slot in self.pair.slots if triggers else ():
            with_rows = row_table(slot.tokenizer)
            remove_triggers(slot.tokenizer, [one for one in triggers if one not in with_rows], slot.processor)
        self._read()

    def _circle(self) -> Circle:
        return circle_around(self.pair.encoder, [slot.tokenizer for slot in self.pair.slots])

    def _ids_of(self, trigger: str) -> list[int]:
        if trigger not in self._unknown:
            return self.pair.row_ids(trigger)
        record = cast(EncoderRecord, self._record)
        return [record.ids[name] for name in record.concepts[trigger]]

    def _placed(
        self, concepts: Mapping[str, Tensor], record: EncoderRecord
    ) -> tuple[dict[str, list[str]], dict[str, int]]:
        """Return ``{trigger: [row name, ...]}`` and ``{row name: token id}`` of concepts, known or newly chosen.

        New ids come after all ids in the circle. A hole is not given to another concept, because a copy of a tokenizer
        may still know the removed one and would read the new rows.
        """
        circle, known = self._circle(), self.concepts
        ids = dict(circle.ids)
        num_rows = len(self.pair.embedding.weight)  # stock `unload_textual_inversion` may have removed rows
        left = {name: token_id for name, token_id in record.ids.items() if name not in ids and token_id < num_rows}
        taken = circle.names_taken() | left.keys()
        added: dict[str, list[str]] = {}
        for trigger, rows in concepts.items():
            added[trigger] = known.get(trigger) or row_names(trigger, len(rows), taken)
            taken.update(added[trigger])
        names = [name for own in added.values() for name in own]
        start = max([*map(next_id, circle.tokenizers), *(token_id + 1 for token_id in left.values())])
        ids |= {name: token_id for token_id, name in enumerate((one for one in names if one not in ids), start)}
        return added, {name: ids[name] for name in names}

    def _teach(self, concepts: Mapping[str, list[str]], ids: Mapping[str, int]) -> None:
        """Add concepts ``{trigger: [row name, ...]}`` to the tokenizers, at ids ``{row name: token id}``."""
        for slot in self.pair.slots if concepts else ():
            teach(slot.tokenizer, {name: ids[name] for names in concepts.values() for name in names})
            known = row_table(slot.tokenizer)
            new = {trigger: names for trigger, names in concepts.items() if trigger not in known}
            add_triggers(slot.tokenizer, new, slot.processor)

    def _check_can_learn(self, where: str) -> None:
        """Check that tokenizers that do not know the encoder's concepts have the concepts' token ids free.

        Raises:
            ConceptLoadError: A tokenizer has other tokens at these ids, or another vocabulary.
        """
        record = self._record
        if record is None:
            return
        for slot in self.pair.slots if self._unknown else ():
            known = slot.tokenizer.added_tokens_encoder
            names = [name for names in self._unknown.values() for name in names if name not in known]
            new = [record.ids[name] for name in names]
            if new and not record.spare_start <= next_id(slot.tokenizer) <= min(new):
                raise ConceptLoadError(
                    f"{where}: it holds {', '.join(self._unknown)}, which {slot.component_name} does not know; give "
                    "this pipeline the tokenizer of the one that loaded them, or unload them there first"
                )

    def _check_ids(self, where: str) -> None:
        """Check that the encoder's rows are at the ids that its tokenizer gives them.

        Stock ``unload_textual_inversion`` moves tokens and rows together, and leaves as many rows as tokens. So moved
        ids are an error only if these numbers differ; ids beyond the matrix always are.

        Raises:
            ConceptLoadError: Rows and ids disagree, because only the encoder or only the tokenizer was changed.
        """
        known = {} if self._record is None else self._record.ids
        now = self.pair.tokenizer.added_tokens_encoder
        num_rows = weight_of(self.pair.embedding).shape[0]
        moved = any(now.get(name, token_id) != token_id for name, token_id in known.items())
        lost = any(now.get(name, -1) >= num_rows for name in known)
        if lost or (moved and len(self.pair.tokenizer) != num_rows):
            raise ConceptLoadError(
                f"{where}: its rows of {', '.join(sorted(self.concepts))} are not where the tokenizer says: "
                "`unload_textual_inversion` of another pipeline that shares only one of the two has moved them; give "
                "this pipeline both"
            )


def _write(pair: TextPair, ids: list[int], rows: Tensor) -> None:
    """Write rows at token ids; if the matrix is too short, lengthen it once."""
    weight = pair.embedding.weight
    num_rows = max(ids) + 1
    if num_rows > len(weight):
        longer = weight.new_empty(num_rows, weight.shape[1])
        longer[: len(weight)] = weight
        longer[len(weight) :] = 0  # rows that are not written below: other pipelines' tokens in a shared tokenizer
        set_matrix(pair, longer)
    weight[torch.tensor(ids, device=weight.device)] = rows
