"""Embedding files -> any pipeline: `load_multitoken_inversion` and its inverse.

Everything is read and checked before the first row is written; a failed load leaves the pipeline as it was.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModularPipeline
from torch import Tensor

from .embedding_file import LearnedEmbedding, needs_name, read_embedding
from .errors import ConceptLoadError, EmbeddingFileError
from .multitoken import find_trigger, trigger_table
from .placeholders import check_trigger_is_free
from .sources import ConceptSource, SourceOptions, find_embedding_files
from .text_pairs import TextPair, find_text_pairs, identify_encoder
from .vocabulary import add_rows, check_can_add_rows, remove_rows


@dataclass(frozen=True)
class LoadedConcept:
    """What `load_multitoken_inversion` did with one concept.

    Attributes:
        placeholder_token: The word to use in prompts.
        num_vectors: Rows per text encoder.
        loaded: Text encoders that know the concept now.
        missing: Text encoders that the files do not serve; they read the placeholder token as letters.
    """

    placeholder_token: str
    num_vectors: dict[str, int]
    loaded: tuple[str, ...]
    missing: tuple[str, ...]


class MultiTokenInversionLoaderMixin:
    """The loader methods of a pipeline; importing the package gives them to every diffusers pipeline."""

    def load_multitoken_inversion(
        self,
        source: ConceptSource | Sequence[ConceptSource],
        *,
        token: str | Sequence[str] | None = None,
        weight_name: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        hub_token: str | bool | None = None,
    ) -> list[LoadedConcept]:
        """Load one concept or several; afterwards their placeholder tokens work in prompts.

        ```python
        pipe.load_multitoken_inversion("user/mug")
        pipe("a photo of <mug> on the beach").images[0]
        ```

        Loading the same concept again changes nothing.

        Args:
            source: A Hub id, a folder, a file, a state dict ``{placeholder_token: rows}``, or a sequence of them.
            token: The placeholder token to use instead of the file's own, one per source.
            weight_name: File name within a folder or repository; None: ``learned_embeds.safetensors`` (and ``_2``).
            subfolder: Folder within a folder or repository.
            revision: Branch, tag or commit of a repository.
            cache_dir: Where downloads are kept; None: the Hub client's cache.
            local_files_only: Never download.
            hub_token: Access token for private repositories; None: the one you are logged in with.

        Returns:
            One report per concept: the text encoders it was loaded into, and those it is missing for.

        Raises:
            EmbeddingFileError: A file is missing, damaged, a pickle, or not one concept.
            ConceptLoadError: A concept fits no text encoder, or differs from the loaded one of the same name.
            PlaceholderTokenError: A placeholder token is a token of the vocabulary.
        """
        options = SourceOptions(weight_name, subfolder, revision, cache_dir, local_files_only, hub_token)
        return _load(self, source, token, options)

    def unload_multitoken_inversion(self, token: str | Sequence[str] | None = None) -> None:
        """Remove one concept, several, or (None) all; vocabulary, matrix and config are then as before loading.

        Raises:
            ConceptLoadError: A concept is not loaded; the message lists those that are.
        """
        _unload(self, token)


def attach_to_diffusers() -> None:
    """Give every diffusers pipeline the methods of `MultiTokenInversionLoaderMixin`; existing ones are kept."""
    for pipeline_class in (DiffusionPipeline, ModularPipeline):
        for name in ("load_multitoken_inversion", "unload_multitoken_inversion"):
            if not hasattr(pipeline_class, name):
                setattr(pipeline_class, name, getattr(MultiTokenInversionLoaderMixin, name))


def _load(
    pipe: Any,
    source: ConceptSource | Sequence[ConceptSource],
    token: str | Sequence[str] | None,
    options: SourceOptions,
) -> list[LoadedConcept]:
    sources = [source] if isinstance(source, str | os.PathLike | Mapping) else list(source)
    tokens: list[str | None] = [token] if isinstance(token, str) else list(token) if token else [None for _ in sources]
    if len(tokens) != len(sources):
        raise ConceptLoadError(f"token: expected one for each of {len(sources)} sources, got {len(tokens)}")
    pairs = find_text_pairs(pipe)
    if not pairs:
        raise ConceptLoadError(f"expected a pipeline with a text encoder and its tokenizer, got {type(pipe).__name__}")
    additions: dict[str, dict[str, Tensor]] = {pair.encoder_name: {} for pair in pairs}
    reports = []
    for one_source, one_token in zip(sources, tokens, strict=True):
        embeddings = [read_embedding(file) for file in find_embedding_files(one_source, options)]
        trigger = _trigger_of(embeddings, one_token)
        served = {}
        for embedding in embeddings:
            pair = _matching_pair(embedding, pairs)
            check_can_add_rows(pair)
            served[pair.encoder_name] = embedding.num_vectors
            if _is_new(trigger, embedding, pair, additions[pair.encoder_name]):
                additions[pair.encoder_name][trigger] = embedding.rows
        missing = tuple(pair.encoder_name for pair in pairs if pair.encoder_name not in served)
        reports.append(LoadedConcept(trigger, served, tuple(served), missing))
    for pair in pairs:
        if additions[pair.encoder_name]:
            add_rows(pipe, pair, additions[pair.encoder_name])
    return reports


def _unload(pipe: Any, token: str | Sequence[str] | None) -> None:
    pairs = find_text_pairs(pipe)
    loaded = list(dict.fromkeys(trigger for pair in pairs for trigger in trigger_table(pair.tokenizer)))
    wanted = loaded if token is None else [token] if isinstance(token, str) else list(token)
    known = {trigger.lower() for trigger in loaded}
    unknown = [trigger for trigger in wanted if trigger.lower() not in known]
    if unknown:
        raise ConceptLoadError(
            f"unload: expected loaded concepts ({', '.join(loaded) or 'there are none'}), got {unknown}"
        )
    removals = [(pair, _registered(pair, wanted)) for pair in pairs]
    for pair, triggers in removals:
        if triggers:
            check_can_add_rows(pair)  # what prevents adding rows prevents removing them
    for pair, triggers in removals:
        if triggers:
            remove_rows(pipe, pair, triggers)


def _registered(pair: TextPair, triggers: Sequence[str]) -> list[str]:
    found = (find_trigger(pair.tokenizer, trigger) for trigger in triggers)
    return list(dict.fromkeys(trigger for trigger in found if trigger is not None))


def _trigger_of(embeddings: Sequence[LearnedEmbedding], token: str | None) -> str:
    if token is not None:
        return token
    names = sorted({embedding.placeholder_token for embedding in embeddings})
    if len(names) > 1:
        raise ConceptLoadError(f"expected files of one concept, got {names}; load them one by one with weight_name=")
    if needs_name(embeddings[0]):
        raise EmbeddingFileError(
            f"the file calls its concept {names[0]!r}, which is no name; pass token='<mug>' or alike"
        )
    return names[0]


def _matching_pair(embedding: LearnedEmbedding, pairs: Sequence[TextPair]) -> TextPair:
    """Return the text encoder that an embedding is for: by identity, or the only one of its width."""
    if embedding.encoder is not None:
        matching = [pair for pair in pairs if identify_encoder(pair) == embedding.encoder]
        expected = (
            f"{embedding.encoder.class_name} of width {embedding.hidden_size} with the vocabulary it was trained with"
        )
    else:
        matching = [pair for pair in pairs if pair.hidden_size == embedding.hidden_size]
        expected = f"exactly one text encoder of width {embedding.hidden_size}"
    if len(matching) != 1:
        got = ", ".join(
            f"{pair.encoder_name}: {type(pair.encoder).__name__} of width {pair.hidden_size}" for pair in pairs
        )
        raise ConceptLoadError(
            f"{embedding.placeholder_token}: expected {expected}, got {got}; load it into a pipeline of "
            f"{embedding.base_model or 'the model it was trained on'}"
        )
    return matching[0]


def _is_new(trigger: str, embedding: LearnedEmbedding, pair: TextPair, planned: Mapping[str, Tensor]) -> bool:
    """Whether a concept has to be added; False if exactly this one is there already."""
    rows = embedding.rows.to(pair.embedding.weight.dtype)
    if not torch.isfinite(rows).all():
        raise ConceptLoadError(
            f"{trigger}: its rows overflow in {rows.dtype}; load the pipeline in bfloat16 or float32"
        )
    registered = find_trigger(pair.tokenizer, trigger)
    if registered is not None:
        loaded = pair.rows(registered).cpu()
        if registered == trigger and loaded.shape == rows.shape and torch.equal(loaded, rows.cpu()):
            return False
        raise ConceptLoadError(
            f"{trigger}: another concept of that name is loaded; unload_multitoken_inversion({registered!r}) first, "
            "or give this one another name with token="
        )
    if any(trigger.lower() == other.lower() for other in planned):
        raise ConceptLoadError(f"{trigger}: expected different names, got it twice; rename one with token=")
    check_trigger_is_free(trigger, pair.tokenizer)
    return True
