"""Embedding files -> any pipeline: `load_multitoken_inversion` and its inverse.

Everything is read and checked before the first row is written; a failed load leaves the pipeline as it was.
"""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from diffusers import DiffusionPipeline, ModularPipeline

from .errors import ConceptLoadError, SupremeInitWarning
from .formats.embedding_file import LearnedEmbedding
from .formats.library import check_only
from .formats.readers import read_embeddings
from .loading.matching import ConceptRequest, LoadedConcept, plan_load
from .loading.sources import ConceptFiles, ConceptSource, SourceOptions, find_concepts
from .multitoken import arm
from .text.changes import changed, refresh_config
from .text.prompt_cleaning import why_lost
from .text.text_pairs import TextPair, find_text_pairs
from .text.vocabulary import ConceptVocabulary
from .triggers import trigger_table


class MultiTokenInversionLoaderMixin:
    """The loader methods of a pipeline; importing the package gives them to every diffusers pipeline."""

    def load_multitoken_inversion(
        self,
        source: ConceptSource | Sequence[ConceptSource],
        *,
        token: str | Sequence[str] | None = None,
        only: str | Sequence[str] | None = None,
        description: str | bool = True,
        text_encoder: str | None = None,
        allow_pickle: bool = False,
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

        Rows go to every text encoder they were trained for: those of Stable Diffusion 1.5 also to the first encoder of
        SDXL and Flux. A text encoder that the source has no rows for reads the description they started from
        (``<mug>`` becomes "a skull and bones mug"). Loading the same concept again changes nothing.

        Args:
            source: A Hub id, a folder, a file, a state dict ``{placeholder_token: rows}``, rows
                ``(num_vectors, hidden_size)`` (with `token`), or a sequence of them.
                Files may be of any format that `read_embeddings` knows. A folder or repository of many concepts gives
                all of them.
            token: The placeholder token to use instead of the file's own, one per concept.
            only: Placeholder tokens of the concepts to load, ``["<mug>", "<cat>"]``; None: all that the sources hold.
            description: Words for text encoders without rows. True: those in the file, if any; False: none; or your
                own.
            text_encoder: Name of the only text encoder to load into, where a file of another program does not say
                which one it is for.
            allow_pickle: Also read ``.pt`` and ``.bin`` files, with PyTorch's restricted unpickler.
            weight_name: File name within a folder or repository; None: ``learned_embeds.safetensors`` (and ``_2``).
            subfolder: Folder within a folder or repository.
            revision: Branch, tag or commit of a repository.
            cache_dir: Where downloads are kept; None: the Hub client's cache.
            local_files_only: Never download.
            hub_token: Access token for private repositories; None: the one you are logged in with.

        Returns:
            One report per concept: the text encoders that have its rows, those that read the description, those that
            it is missing for, and parts of the source that were not used, with the reasons.

        Raises:
            EmbeddingFileError: A file is missing, damaged, a pickle, not one concept, or does not name it; or the
                sources hold no concept that `only` names.
            ConceptLoadError: A concept fits no text encoder or several, clashes with a loaded one, or an encoder
                cannot take rows (quantised, offloaded to disk, being trained).
            PlaceholderTokenError: A placeholder token is a token of the vocabulary.

        Warns:
            SupremeInitWarning: A text encoder has neither rows nor description, or the pipeline itself would take the
                placeholder token out of prompts.
        """
        options = SourceOptions(weight_name, subfolder, revision, cache_dir, local_files_only, hub_token, allow_pickle)
        requests = _requests(source, token, only, description, text_encoder, options)
        pairs = _text_pairs(self)
        plan = plan_load(pairs, requests)
        _warn(self, plan.reports, description is not False)  # who turns warnings into errors gets them before a change
        with changed(self, pairs, plan.changes):
            return plan.reports

    def unload_multitoken_inversion(self, token: str | Sequence[str] | None = None) -> None:
        """Remove one concept, several, or (None) all.

        The others keep their token ids and rows. After the last one, vocabulary, matrix and config are as before
        loading; rows that lie before those of another concept stay in the matrix, unread, until that one goes too.

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


def _requests(
    source: ConceptSource | Sequence[ConceptSource],
    token: str | Sequence[str] | None,
    only: str | Sequence[str] | None,
    description: str | bool,
    text_encoder: str | None,
    options: SourceOptions,
) -> list[ConceptRequest]:
    sources: list[ConceptSource] = list(source) if isinstance(source, list | tuple) else [cast(ConceptSource, source)]
    if not isinstance(description, str | bool):
        raise ConceptLoadError(f"description: expected a text, True or False, got {description!r}")
    found = _read_sources(sources, [only] if isinstance(only, str) else only, options)
    tokens: list[str | None] = [token] if isinstance(token, str) else list(token) if token else [None for _ in found]
    if len(tokens) != len(found):
        raise ConceptLoadError(f"token: expected one for each of {len(found)} concepts, got {len(tokens)}")
    if isinstance(description, str) and len(found) != 1:
        raise ConceptLoadError(f"description: expected True or False for {len(found)} concepts, got one text")
    return [
        ConceptRequest(
            embeddings=embeddings,
            token=one_token,
            description=description,
            text_encoder=text_encoder,
            source=repr(str(one_source)) if isinstance(one_source, str | os.PathLike) else "the given rows",
        )
        for (one_source, embeddings), one_token in zip(found, tokens, strict=True)
    ]


def _read_sources(
    sources: Sequence[ConceptSource], only: Sequence[str] | None, options: SourceOptions
) -> list[tuple[ConceptSource, tuple[LearnedEmbedding, ...]]]:
    """Return the concepts of all sources that `only` names, each with its source, in the order of the sources."""
    chosen = only if len(sources) == 1 else None  # of several, each may hold some
    found = [(source, _read(files, options)) for source in sources for files in find_concepts(source, options, chosen)]
    if only is None:
        return found
    tokens = [str(embeddings[0].placeholder_token) for _, embeddings in found]
    places = [repr(str(one)) for one in sources if isinstance(one, str | os.PathLike)]
    check_only(only, tokens, " and ".join(places) or "the given rows")
    wanted = {token.lower() for token in only}
    return [one for one, token in zip(found, tokens, strict=True) if token.lower() in wanted]


def _read(files: ConceptFiles, options: SourceOptions) -> tuple[LearnedEmbedding, ...]:
    embeddings: list[LearnedEmbedding] = []
    for file in files:
        # Foreign files of diffusers' own format say only by their name which text encoder they are for.
        number = re.fullmatch(r"learned_embeds_(\d)\.\w+", Path(file).name) if not isinstance(file, Mapping) else None
        for part in read_embeddings(file, allow_pickle=options.allow_pickle):
            is_unmarked = number is not None and part.encoder is None and part.encoder_key is None
            embeddings.append(
                replace(part, encoder_key=f"text_encoder_{number[1]}") if is_unmarked and number else part
            )
    return tuple(embeddings)


def _text_pairs(pipe: Any) -> list[TextPair]:
    pairs = find_text_pairs(pipe)
    if not pairs:
        raise ConceptLoadError(
            f"expected a pipeline with a text encoder and its tokenizer, got {type(pipe).__name__} with "
            f"{', '.join(name for name, part in pipe.components.items() if part is not None) or 'no components'}"
        )
    for pair in pairs:
        for slot in pair.slots:
            if trigger_table(slot.tokenizer):  # loaded by a plain AutoTokenizer, it has the table but not the class
                arm(slot.tokenizer, slot.processor)
    return pairs


def _unload(pipe: Any, token: str | Sequence[str] | None) -> None:
    pairs = _text_pairs(pipe)
    vocabularies = [ConceptVocabulary(pair) for pair in pairs]
    loaded = list(dict.fromkeys(trigger for vocabulary in vocabularies for trigger in vocabulary.entries))
    wanted = loaded if token is None else [token] if isinstance(token, str) else list(token)
    known = {trigger.lower() for trigger in loaded}
    unknown = [trigger for trigger in wanted if trigger.lower() not in known]
    if unknown:
        raise ConceptLoadError(
            f"unload: expected loaded concepts ({', '.join(loaded) or 'there are none'}), got {unknown}"
        )
    spellings = [[vocabulary.spelling(trigger) for trigger in wanted] for vocabulary in vocabularies]
    for vocabulary, triggers in zip(vocabularies, spellings, strict=True):
        if not vocabulary.concepts.keys().isdisjoint(triggers):
            vocabulary.check_can_change()  # what prevents adding rows prevents removing them
    for pair, triggers in zip(pairs, spellings, strict=True):
        # Read again: an encoder that shares its tokenizer with one before it has lost the rows with that one's.
        vocabulary = ConceptVocabulary(pair)
        own = [trigger for trigger in triggers if trigger is not None]
        vocabulary.remove(own)
        vocabulary.forget(own)
        refresh_config(pipe, pair)


def _warn(pipe: Any, reports: Sequence[LoadedConcept], is_description_wanted: bool) -> None:
    for report in reports:
        token = report.placeholder_token
        if report.missing and is_description_wanted:
            warnings.warn(
                f"{token}: {', '.join(report.missing)} will read it as letters, since there are neither rows nor a "
                "description for it; pass description='a red mug' or alike, or description=False to leave it so",
                SupremeInitWarning,
                stacklevel=3,
            )
        if (why := why_lost(pipe, token)) is not None:
            warnings.warn(f"{token}: {why}", SupremeInitWarning, stacklevel=3)
