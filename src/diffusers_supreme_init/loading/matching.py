"""Match rows to text encoders: the load is planned and checked before anything changes."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import ConceptLoadError, EmbeddingFileError, PlaceholderTokenError, shown
from ..formats.embedding_file import LearnedEmbedding
from ..text.changes import Change
from ..text.encoder_identity import EncoderIdentity
from ..text.text_pairs import TextPair, identify_encoder
from ..text.vocabulary import ConceptVocabulary
from ..triggers import Entry, Triggers, check_trigger_is_free, find_trigger, folded, trigger_table

_ARCHITECTURE_OF_KEY = {"clip": "CLIP", "t5": "T5", "umt5": "UMT5", "llama": "Llama", "gemma": "Gemma", "qwen": "Qwen"}
"""Start of a foreign file's key (``clip_l``, ``t5xxl``, ``gemma2_2b``) -> start of the text encoder's class name."""


@dataclass(frozen=True)
class LoadedConcept:
    """The report of `load_multitoken_inversion` on one concept; ``print`` shows it in words.

    Attributes:
        placeholder_token: The word to use in prompts.
        num_vectors: ``{text encoder: number of rows}`` of text encoders that have the concept's rows now.
        described: ``{text encoder: description}`` of text encoders that read the description instead.
        missing: ``{text encoder: reason}`` of text encoders that read the placeholder token as letters.
        unused: ``{part: reason}`` of parts of the source that fit no text encoder of this pipeline.
    """

    placeholder_token: str
    num_vectors: dict[str, int]
    described: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the text encoders that have the concept's rows now."""
        return tuple(self.num_vectors)

    def __str__(self) -> str:
        """Return the report in words, one line per text encoder or part."""
        lines = [f"{self.placeholder_token}: {count} rows in {name}" for name, count in self.num_vectors.items()]
        lines += [f"  {name} reads {words!r} instead" for name, words in self.described.items()]
        lines += [f"  {name} does not know it: {why}" for name, why in self.missing.items()]
        lines += [f"  {part} is not used: {why}" for part, why in self.unused.items()]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class ConceptRequest:
    """One concept to load.

    Attributes:
        embeddings: Its parts, one per text encoder.
        token: The placeholder token to use; None: the file's own.
        description: Words for text encoders that get no rows; True: the file's own; False: none.
        text_encoder: Name of the text encoder that the user chose; None: those that the parts fit.
        source: Name of the source in messages.
    """

    embeddings: tuple[LearnedEmbedding, ...]
    token: str | None = None
    description: str | bool = True
    text_encoder: str | None = None
    source: str = "the given rows"


@dataclass(frozen=True)
class LoadPlan:
    """The changes by name of the text encoder, and one report per concept."""

    changes: dict[str, Change]
    reports: list[LoadedConcept] = field(default_factory=list)


def plan_load(pairs: Sequence[TextPair], requests: Sequence[ConceptRequest]) -> LoadPlan:
    """Decide which text encoders get the rows of each concept; nothing is changed.

    Rows of this package go to every text encoder with the identity they were trained for. Foreign rows go to the text
    encoder that their key names, or to the only one of their width. A text encoder without rows gets the description.

    Raises:
        ConceptLoadError: A concept fits no text encoder or several different ones, or clashes with a loaded one; or an
            encoder cannot take rows.
        EmbeddingFileError: Neither a file nor the user names its concept.
        PlaceholderTokenError: A placeholder token is a token of the vocabulary.
    """
    plan = LoadPlan({pair.encoder_name: Change() for pair in pairs})
    vocabularies = [ConceptVocabulary(pair) for pair in pairs]
    identify = functools.cache(lambda index: identify_encoder(pairs[index]))
    check = functools.cache(lambda index: vocabularies[index].check_can_change())
    names: set[str] = set()
    for request in requests:
        trigger = _trigger_of(request)
        if folded(trigger) in names:
            raise ConceptLoadError(f"{trigger}: expected different names, got it twice; rename one with token=")
        names.add(folded(trigger))
        served, unused = _serve(trigger, request, pairs, identify)
        for index, embedding in served.items():
            check(index)
            if _is_new(trigger, embedding, vocabularies[index]):
                plan.changes[pairs[index].encoder_name].rows[trigger] = embedding.rows
        _check_shared_tokenizers(trigger, pairs, served)
        num_vectors = {pairs[index].encoder_name: embedding.num_vectors for index, embedding in sorted(served.items())}
        report = LoadedConcept(trigger, num_vectors, unused=unused)
        plan.reports.append(report)
        _describe_elsewhere(report, request, vocabularies, plan)
    _check_descriptions(pairs, plan)
    return plan


def _trigger_of(request: ConceptRequest) -> str:
    if request.token is not None:
        if not isinstance(request.token, str):
            raise PlaceholderTokenError(f"token: expected a name such as '<mug>', got {shown(request.token)}")
        return request.token
    names = list(dict.fromkeys(embedding.placeholder_token for embedding in request.embeddings))
    if len(names) > 1:
        raise ConceptLoadError(f"expected files of one concept, got {names}; load them one by one with weight_name=")
    if names[0] is None:
        raise EmbeddingFileError(f"{request.source}: it does not name its concept; pass e.g. token='<mug>'")
    return names[0]


def _serve(
    trigger: str,
    request: ConceptRequest,
    pairs: Sequence[TextPair],
    identify: Callable[[int], EncoderIdentity],
) -> tuple[dict[int, LearnedEmbedding], dict[str, str]]:
    """Return ``{index of the text encoder: its part}``, and ``{part: reason}`` of parts that fit none."""
    candidates = [index for index, pair in enumerate(pairs) if request.text_encoder in (None, pair.encoder_name)]
    if not candidates:
        names = ", ".join(pair.encoder_name for pair in pairs)
        raise ConceptLoadError(f"{trigger}: text_encoder: expected one of {names}, got {shown(request.text_encoder)}")
    served: dict[int, LearnedEmbedding] = {}
    unused: dict[str, str] = {}
    for number, part in enumerate(request.embeddings, 1):
        fitting, expected = _fitting(part, candidates, pairs, identify, is_chosen=request.text_encoder is not None)
        found = [pairs[index].encoder_name for index in fitting]
        if len(fitting) > 1 and len({identify(index) for index in fitting}) > 1:
            raise ConceptLoadError(
                f"{trigger}: expected {expected}, got {', '.join(found)}; choose one with text_encoder={found[0]!r}"
            )
        for index, name in zip(fitting, found, strict=True):
            if index in served:
                raise ConceptLoadError(
                    f"{trigger}: expected one part for {name}, got two; load one file with weight_name="
                )
            served[index] = part
        if not fitting:
            unused[part.encoder_key or f"part {number}"] = f"it is for {expected}"
    if not served:
        expected = "; ".join(why.removeprefix("it is for ") for why in unused.values())
        model = next(
            (part.base_model for part in request.embeddings if part.base_model), "the model it was trained on"
        )
        raise ConceptLoadError(
            f"{trigger}: expected {expected}, got {', '.join(pair.label for pair in pairs)}; "
            f"load it into a pipeline of {model}"
        )
    return served, unused


def _fitting(
    embedding: LearnedEmbedding,
    candidates: Sequence[int],
    pairs: Sequence[TextPair],
    identify: Callable[[int], EncoderIdentity],
    *,
    is_chosen: bool,
) -> tuple[list[int], str]:
    """Return the indices of the text encoders that a part fits, and a text that says what it is for."""
    width = embedding.hidden_size
    fitting = [index for index in candidates if pairs[index].hidden_size == width]
    if embedding.encoder is not None:
        own = embedding.encoder
        others = ", not another" if any(identify(index).class_name == own.class_name for index in fitting) else ""
        expected = f"{own.class_name} of width {width} with the vocabulary it was trained with{others}"
        exact = [index for index in fitting if identify(index) == own]
        return exact or [index for index in fitting if own.serves(identify(index))], expected
    if is_chosen:
        return fitting, f"a text encoder of width {width}"
    key = embedding.encoder_key or ""
    by_name = [index for index in fitting if pairs[index].encoder_name == key]
    kind = next((kind for prefix, kind in _ARCHITECTURE_OF_KEY.items() if key.startswith(prefix)), None)
    if kind is None:
        return by_name or fitting, f"exactly one text encoder of width {width}"
    by_kind = [index for index in fitting if type(pairs[index].encoder).__name__.startswith(kind)]
    return by_kind, f"exactly one text encoder of kind {key} and width {width}"


def _is_new(trigger: str, embedding: LearnedEmbedding, vocabulary: ConceptVocabulary) -> bool:
    """Whether a concept has to be added; False if the same concept is already loaded.

    Raises:
        ConceptLoadError: The rows overflow in the encoder's dtype, or another concept has this name.
        PlaceholderTokenError: The placeholder token is a token of the vocabulary.
    """
    rows = embedding.rows.to(vocabulary.pair.embedding.weight.dtype)
    if not torch.isfinite(rows).all():
        raise ConceptLoadError(
            f"{trigger}: its rows overflow in {rows.dtype}; load the pipeline in bfloat16 or float32"
        )
    registered = vocabulary.spelling(trigger)
    names = None if registered is None else vocabulary.entries[registered]
    if registered is None or not isinstance(names, list):
        for slot in vocabulary.pair.slots:
            if find_trigger(slot.tokenizer, trigger) is None:  # a trigger read as a description may get rows
                check_trigger_is_free(trigger, slot.tokenizer)
        return True
    is_same_name = registered == trigger and len(names) == len(rows)
    if not vocabulary.holds(registered) and is_same_name:
        return True  # loaded by another pipeline that shares the tokenizer, but not the encoder
    if is_same_name and _are_equal(vocabulary.rows_of(registered).cpu(), rows.cpu()):
        return not vocabulary.is_known(registered)  # the encoder has the rows, but a tokenizer may not know them
    raise ConceptLoadError(
        f"{trigger}: another concept of that name is loaded; unload_multitoken_inversion({registered!r}) first, "
        "or give this one another name with token="
    )


def _are_equal(held: Tensor, rows: Tensor) -> bool:
    """Whether rows are equal to those held, even if the encoder was in half precision since they were loaded."""
    rounded = (rows.to(dtype).to(held.dtype) for dtype in (rows.dtype, torch.float16, torch.bfloat16))
    return any(torch.equal(held, one) for one in rounded)


def _check_shared_tokenizers(trigger: str, pairs: Sequence[TextPair], served: Mapping[int, LearnedEmbedding]) -> None:
    """Check that text encoders that share a tokenizer all get the concept, each with the same number of rows."""
    for index, embedding in served.items():
        own = {id(slot.tokenizer) for slot in pairs[index].slots}
        for other, pair in enumerate(pairs):
            if own.isdisjoint(id(slot.tokenizer) for slot in pair.slots):
                continue
            if other not in served or served[other].num_vectors != embedding.num_vectors:
                raise ConceptLoadError(
                    f"{trigger}: {pairs[index].encoder_name} and {pair.encoder_name} share one tokenizer object, so "
                    "expected as many rows for both; give each encoder a tokenizer of its own (copy.deepcopy)"
                )


def _describe_elsewhere(
    report: LoadedConcept, request: ConceptRequest, vocabularies: Sequence[ConceptVocabulary], plan: LoadPlan
) -> None:
    """Plan that text encoders without rows read the description, or report them as missing if there is none."""
    trigger = report.placeholder_token
    words = request.description if isinstance(request.description, str) else None
    if request.description is True:
        words = next((part.description for part in request.embeddings if part.description), None)
    for vocabulary in vocabularies:
        pair, registered = vocabulary.pair, vocabulary.spelling(trigger)
        if pair.encoder_name in report.num_vectors or (registered is not None and vocabulary.holds(registered)):
            continue
        change = plan.changes[pair.encoder_name]
        if words is None or not words.strip():
            what = "no rows" if request.description is False else "neither rows nor a description"
            report.missing[pair.encoder_name] = f"the source has {what} for it"
            if trigger in trigger_table(pair.tokenizer):
                change.forgotten.append(trigger)
            continue
        if find_trigger(pair.tokenizer, trigger) is None:
            for slot in pair.slots:
                check_trigger_is_free(trigger, slot.tokenizer)
        report.described[pair.encoder_name] = change.descriptions[trigger] = " ".join(words.split())


def _check_descriptions(pairs: Sequence[TextPair], plan: LoadPlan) -> None:
    """Check that no description contains a trigger, since replacing triggers in a prompt might then never end."""
    for pair in pairs:
        own = plan.changes[pair.encoder_name]
        with_rows: dict[str, Entry] = {trigger: [] for trigger in own.rows}
        table = {**trigger_table(pair.tokenizer), **own.descriptions, **with_rows}
        triggers = Triggers(table)
        for described, words in table.items():
            if isinstance(words, str) and (found := next(triggers.finder.spans(words), None)) is not None:
                raise ConceptLoadError(
                    f"{triggers.spelling[folded(words[slice(*found)])]}: the description of {described} holds this "
                    f"word ({words!r}), as {pair.encoder_name} reads it; rename the concept with token=, or pass "
                    "description=False"
                )
