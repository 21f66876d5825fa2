"""Load concepts into any pipeline, and unload them: `load_multitoken_inversion`, `unload_multitoken_inversion`.

Everything is read and checked before the first row is written; a failed load leaves the pipeline unchanged.
"""

import logging
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .errors import ConceptLoadError, SupremeInitWarning
from .file_names import token_from_name
from .formats.embedding_file import LearnedEmbedding
from .formats.library import check_only
from .formats.readers import read_concepts
from .loading.matching import ConceptRequest, LoadedConcept, plan_load
from .loading.sources import ConceptFiles, ConceptSource, SourceOptions, find_concepts
from .multitoken import arm
from .text.changes import changed, refresh_config
from .text.prompt_cleaning import why_lost
from .text.text_pairs import TextPair, find_text_pairs
from .text.vocabulary import ConceptVocabulary
from .triggers import folded, trigger_table

logger = logging.getLogger(__name__)

_Found: TypeAlias = tuple[ConceptSource, tuple[LearnedEmbedding, ...]]
"""A concept with the source that holds it."""


class MultiTokenInversionLoaderMixin:
    """The loader methods of a pipeline; importing the package adds them to every diffusers pipeline."""

    def load_multitoken_inversion(
        self,
        source: ConceptSource | Sequence[ConceptSource],
        *,
        token: str | Sequence[str] | None = None,
        only: str | Sequence[str] | None = None,
        description: str | bool = True,
        text_encoder: str | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        allow_pickle: bool = False,
        weight_name: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        hub_token: str | bool | None = None,
    ) -> list[LoadedConcept]:
        """Load one or more concepts; afterwards their placeholder tokens work in prompts.

        ```python
        pipe.load_multitoken_inversion("user/mug")
        pipe("a photo of <mug> on the beach").images[0]
        ```

        Rows are loaded into every text encoder that they were trained for. For example, rows of Stable Diffusion 1.5
        also fit the first text encoder of SDXL and Flux. A text encoder without rows reads the description that they
        started from (``<mug>`` becomes "a skull and bones mug"). Loading the same concept again changes nothing.

        Args:
            source: A Hub id, a folder, a file, a state dict ``{placeholder_token: rows}``, rows
                ``(num_vectors, hidden_size)`` (with `token`), or a sequence of these.
                Files may have any format that `read_embeddings` knows. All concepts of a folder or repository are
                loaded.
            token: The placeholder token to use instead of the file's own, one per concept; for rows without a name,
                also one per row: each row becomes a concept of its own. A file that does not name its concept is named
                after itself: ``mug.pt`` becomes ``<mug>``.
            only: Placeholder tokens of the concepts to load, ``["<mug>", "<cat>"]``; None: all that the sources hold.
            description: Words for text encoders without rows. True: the description in the file, if any; False: none;
                or your own words, for a single concept.
            text_encoder: The only text encoder to load into, its name or the component itself, for a file of another
                program that does not name one.
            tokenizer: The tokenizer of `text_encoder`, which diffusers' own loader asks for; here it is only checked.
            allow_pickle: Also read ``.pt`` and ``.bin`` files, with PyTorch's restricted unpickler.
            weight_name: File name within a folder or repository; None: ``learned_embeds.safetensors`` (and ``_2``
                ...).
            subfolder: Folder within a folder or repository.
            revision: Branch, tag or commit of a repository.
            cache_dir: Folder for downloads; None: the Hub client's cache.
            local_files_only: Never download.
            hub_token: Access token for private repositories; None: the one you are logged in with.

        Returns:
            One report per concept. It lists the text encoders that have its rows, those that read the description,
            those that have neither, and the parts of the source that were not used, with reasons.

        Raises:
            EmbeddingFileError: A file is missing, damaged, a pickle without `allow_pickle`, does not hold one concept
                or does not name it; the Hub fails; or the sources lack a concept that `only` names.
            ConceptLoadError: A concept fits no text encoder or several different ones, or clashes with a loaded one;
                a text encoder cannot take rows (quantised, offloaded to disk, being trained); the numbers of tokens
                and concepts differ; or `text_encoder` or `tokenizer` is not one of the pipeline.
            PlaceholderTokenError: A placeholder token is a token of the vocabulary.

        Warns:
            SupremeInitWarning: A text encoder has neither rows nor a description, or the pipeline would remove the
                placeholder token from prompts before it tokenizes them.
        """
        options = SourceOptions(weight_name, subfolder, revision, cache_dir, local_files_only, hub_token, allow_pickle)
        pairs = _text_pairs(self)
        encoder_name = _encoder_name(pairs, text_encoder, tokenizer)
        requests = _requests(source, token, only, description, encoder_name, options)
        plan = plan_load(pairs, requests)
        # Whoever passes a component loads into the others by calls of their own, as with diffusers' loader.
        is_complete = isinstance(text_encoder, str | None) and tokenizer is None
        # Before any change: a warning may be turned into an error.
        _warn(self, plan.reports, description is not False and is_complete)
        with changed(self, pairs, plan.changes):
            return plan.reports

    def unload_multitoken_inversion(self, token: str | Sequence[str] | None = None) -> None:
        """Remove loaded concepts.

        All other concepts keep their token ids and rows. Removed rows that lie before those of another concept stay in
        the matrix, unused, until that concept is removed too. Once no concept is left, the vocabulary, the matrix and
        the configuration are as before loading.

        Args:
            token: One placeholder token or several; None: all loaded concepts.

        Raises:
            ConceptLoadError: A concept is not loaded (the message lists those that are), or a text encoder cannot be
                changed (offloaded to disk, being trained).
        """
        _unload(self, token)


def attach_to_diffusers(module: ModuleType) -> None:
    """Add the methods of `MultiTokenInversionLoaderMixin` to the pipeline class of a diffusers module.

    `__init__.py` registers it to be called as soon as diffusers has imported the module. Existing methods are kept.
    """
    # This module imports `multitoken`, which has to be imported before the first pipeline is loaded: diffusers looks
    # for the tokenizers of saved pipelines only in modules that are imported already.
    module = import_module(module.__name__)  # waits if another thread is still importing it
    for class_name in {"DiffusionPipeline", "ModularPipeline"} & vars(module).keys():
        pipeline_class = getattr(module, class_name)
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
    found = _read_sources(sources, [only] if isinstance(only, str) else only, options, has_token=bool(token))
    tokens: list[str | None] = [token] if isinstance(token, str) else list(token) if token else [None for _ in found]
    if len(tokens) != len(found):
        found = _one_per_row(found, len(tokens))
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


def _one_per_row(found: Sequence[_Found], num_tokens: int) -> list[_Found]:
    """Return a concept for each row of the only one in `found`, as diffusers reads rows and a list of tokens.

    Raises:
        ConceptLoadError: There are several concepts, or the only one has a name or another number of rows.
    """
    counts = {part.num_vectors for _, embeddings in found for part in embeddings}
    is_nameless = all(part.placeholder_token is None for _, embeddings in found for part in embeddings)
    if len(found) != 1 or not is_nameless or counts != {num_tokens}:
        rows = f" or for each of its {min(counts)} rows" if len(found) == 1 and is_nameless else ""
        raise ConceptLoadError(f"token: expected one for each of {len(found)} concepts{rows}, got {num_tokens}")
    ((source, embeddings),) = found
    return [
        (source, tuple(replace(part, rows=part.rows[index : index + 1]) for part in embeddings))
        for index in range(num_tokens)
    ]


def _read_sources(
    sources: Sequence[ConceptSource], only: Sequence[str] | None, options: SourceOptions, *, has_token: bool
) -> list[_Found]:
    """Return the concepts that `only` names, each with its source, in the order of the sources; None: all concepts."""
    # Each of several sources may hold some of the concepts, so `only` is checked once all of them are read.
    chosen = only if len(sources) == 1 else None
    found = [
        (source, concept)
        for source in sources
        for files in find_concepts(source, options, chosen)
        for concept in _read(files, options, has_token)
    ]
    if only is None:
        return found
    tokens = [str(embeddings[0].placeholder_token) for _, embeddings in found]
    places = [repr(str(one)) for one in sources if isinstance(one, str | os.PathLike)]
    check_only(only, tokens, " and ".join(places) or "the given rows")
    wanted = {folded(token) for token in only}
    return [one for one, token in zip(found, tokens, strict=True) if folded(token) in wanted]


def _read(files: ConceptFiles, options: SourceOptions, has_token: bool) -> list[tuple[LearnedEmbedding, ...]]:
    """Return the concepts in some files: one in several files, or those of one file."""
    of_files = [read_concepts(file, allow_pickle=options.allow_pickle) for file in files]
    if len(files) == 1:
        return [_marked(concept, files[0], has_token) for concept in of_files[0]]
    found = [_marked(concepts[0], file, has_token) for file, concepts in zip(files, of_files, strict=True)]
    return [tuple(part for parts in found for part in parts)]


def _marked(
    parts: tuple[LearnedEmbedding, ...], file: str | os.PathLike[str] | Mapping[str, Any], has_token: bool
) -> tuple[LearnedEmbedding, ...]:
    """Return the parts of a concept with what only the name of their file says: the text encoder, or the concept."""
    if isinstance(file, Mapping):
        return parts
    # A foreign file in diffusers' own format names its text encoder only by the number in the file name.
    if (number := re.fullmatch(r"learned_embeds_(\d)\.\w+", Path(file).name)) is not None:
        key = f"text_encoder_{number[1]}"
        return tuple(
            replace(part, encoder_key=key) if part.encoder is None and part.encoder_key is None else part
            for part in parts
        )
    name = None if has_token or any(part.placeholder_token for part in parts) else token_from_name(file)
    if name is None:
        return parts
    logger.warning("%s does not name its concept, which becomes %s; token= gives it another name", file, name)
    return tuple(replace(part, placeholder_token=name) for part in parts)


def _encoder_name(
    pairs: Sequence[TextPair], text_encoder: str | PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase | None
) -> str | None:
    """Return the name of the text encoder to load into, which may be given as the component; None: any.

    Raises:
        ConceptLoadError: The component is not one of the pipeline's, or the tokenizer is not that of the text encoder.
    """
    name = text_encoder if isinstance(text_encoder, str) else None
    if text_encoder is not None and name is None:
        encoder = getattr(text_encoder, "_orig_mod", text_encoder)  # `torch.compile(encoder)` wraps it
        name = next((pair.encoder_name for pair in pairs if pair.encoder is encoder), None)
        if name is None:
            names = ", ".join(pair.encoder_name for pair in pairs)
            raise ConceptLoadError(
                f"text_encoder: expected a text encoder of this pipeline or its name ({names}), got a "
                f"{type(text_encoder).__name__} that is not one of them"
            )
    if tokenizer is None:
        return name
    owners = [pair.encoder_name for pair in pairs if any(slot.tokenizer is tokenizer for slot in pair.slots)]
    if not owners or (name is not None and name not in owners):
        raise ConceptLoadError(
            f"tokenizer: expected the tokenizer of {name or 'a text encoder of this pipeline'}, got a "
            f"{type(tokenizer).__name__} that is not; leave it out"
        )
    return name or owners[0]


def _text_pairs(pipe: Any) -> list[TextPair]:
    pairs = find_text_pairs(pipe)
    if not pairs:
        raise ConceptLoadError(
            f"expected a pipeline with a text encoder and its tokenizer, got {type(pipe).__name__} with "
            f"{', '.join(name for name, part in pipe.components.items() if part is not None) or 'no components'}"
        )
    for pair in pairs:
        for slot in pair.slots:
            if trigger_table(slot.tokenizer):  # a plain AutoTokenizer loads the table, but not the class
                arm(slot.tokenizer, slot.processor)
    return pairs


def _unload(pipe: Any, token: str | Sequence[str] | None) -> None:
    pairs = _text_pairs(pipe)
    vocabularies = [ConceptVocabulary(pair) for pair in pairs]
    loaded = list(dict.fromkeys(trigger for vocabulary in vocabularies for trigger in vocabulary.entries))
    wanted = loaded if token is None else [token] if isinstance(token, str) else list(token)
    known = {folded(trigger) for trigger in loaded}
    unknown = [trigger for trigger in wanted if folded(trigger) not in known]
    if unknown:
        raise ConceptLoadError(
            f"unload: expected loaded concepts ({', '.join(loaded) or 'there are none'}), got {unknown}"
        )
    spellings = [[vocabulary.spelling(trigger) for trigger in wanted] for vocabulary in vocabularies]
    for vocabulary, triggers in zip(vocabularies, spellings, strict=True):
        if not vocabulary.concepts.keys().isdisjoint(triggers):
            vocabulary.check_can_change()  # for all encoders, before the first change
    for pair, triggers in zip(pairs, spellings, strict=True):
        # Made anew: removing the rows of one encoder also removes those of encoders that share its tokenizer.
        vocabulary = ConceptVocabulary(pair)
        own = [trigger for trigger in triggers if trigger is not None]
        vocabulary.remove(own)
        vocabulary.drop_descriptions(own)
        refresh_config(pipe, pair)


def _warn(pipe: Any, reports: Sequence[LoadedConcept], is_description_wanted: bool) -> None:
    for report in reports:
        token = report.placeholder_token
        if report.missing and is_description_wanted:
            warnings.warn(
                f"{token}: {', '.join(report.missing)} will read it as letters, since there are neither rows nor a "
                "description for it; pass e.g. description='a red mug', or description=False to accept this",
                SupremeInitWarning,
                stacklevel=3,
            )
        if (why := why_lost(pipe, token)) is not None:
            warnings.warn(f"{token}: {why}", SupremeInitWarning, stacklevel=3)
