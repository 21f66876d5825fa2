"""Load concepts into any pipeline, and unload them: `load_multitoken_inversion`, `unload_multitoken_inversion`.

Everything is read and checked before the first row is written; a failed load leaves the pipeline unchanged.
"""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from diffusers import DiffusionPipeline, ModularPipeline

from .errors import ConceptLoadError, SupremeInitWarning, shown
from .formats.embedding_file import LearnedEmbedding
from .formats.library import check_only
from .formats.readers import read_embeddings
from .inputs.paths import expanded, looks_like_path
from .loading.matching import ConceptRequest, LoadedConcept, plan_load
from .loading.sources import ConceptFiles, ConceptSource, SourceOptions, find_concepts
from .multitoken import arm
from .text.changes import changed, refresh_config
from .text.prompt_cleaning import why_lost
from .text.text_pairs import TextPair, find_text_pairs
from .text.torch_state import own_torch_state
from .text.vocabulary import ConceptVocabulary
from .triggers import trigger_table


class MultiTokenInversionLoaderMixin:
    """The loader methods of a pipeline; importing the package adds them to every diffusers pipeline."""

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
            token: The placeholder token to use instead of the file's own, one per concept.
            only: Placeholder tokens of the concepts to load, ``["<mug>", "<cat>"]``; None: all that the sources hold.
            description: Words for text encoders without rows. True: the description in the file, if any; False: none;
                or your own words, for a single concept.
            text_encoder: Name of the only text encoder to load into, for a file of another program that does not name
                one.
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
                or a text encoder cannot take rows (quantised, offloaded to disk, being trained).
            PlaceholderTokenError: A placeholder token is a token of the vocabulary.

        Warns:
            SupremeInitWarning: A text encoder has neither rows nor a description, or the pipeline would remove the
                placeholder token from prompts before it tokenizes them.
        """
        cache = None if cache_dir is None else expanded(cache_dir)
        options = SourceOptions(weight_name, subfolder, revision, cache, local_files_only, hub_token, allow_pickle)
        requests = _requests(source, token, only, description, text_encoder, options)
        pairs = _text_pairs(self)
        try:
            plan = plan_load(pairs, requests)
        except ConceptLoadError as error:
            raise ConceptLoadError(f"{error}{_encoders_without_tokenizer(self, pairs)}") from error
        _warn(self, plan.reports, description is not False)  # before any change: a warning may be turned into an error
        with own_torch_state(), changed(self, pairs, plan.changes):
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


def attach_to_diffusers() -> None:
    """Add the methods of `MultiTokenInversionLoaderMixin` to every diffusers pipeline; existing methods are kept."""
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
        raise ConceptLoadError(f"description: expected a text, True or False, got {shown(description)}")
    if isinstance(description, str) and looks_like_path(description):
        raise ConceptLoadError(f"description: expected words, got {shown(description)}, which looks like a path")
    given = _texts("token", token)
    found = _read_sources(sources, _texts("only", only), options)
    tokens: list[str | None] = [*given] if given else [None for _ in found]
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
    """Return the concepts that `only` names, each with its source, in the order of the sources; None: all concepts."""
    # Each of several sources may hold some of the concepts, so `only` is checked once all of them are read.
    chosen = only if len(sources) == 1 else None
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
        # A foreign file in diffusers' own format names its text encoder only by the number in the file name.
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
        readers = {name: part for name, part in pipe.components.items() if re.search("text_encoder|tokenizer", name)}
        found = [f"no {name}" if part is None else f"{name} ({type(part).__name__})" for name, part in readers.items()]
        raise ConceptLoadError(
            f"expected a pipeline with a text encoder and its tokenizer, got {type(pipe).__name__} with "
            f"{', '.join(found) or 'neither'}; both have to be classes of transformers"
        )
    for pair in pairs:
        for slot in pair.slots:
            if trigger_table(slot.tokenizer):  # a plain AutoTokenizer loads the table, but not the class
                arm(slot.tokenizer, slot.processor)
    return pairs


def _encoders_without_tokenizer(pipe: Any, pairs: Sequence[TextPair]) -> str:
    known = {pair.encoder_name for pair in pairs}
    readers = [name for name, part in pipe.components.items() if name.startswith("text_encoder") and part is not None]
    names = [name for name in readers if name not in known]
    return f"; not counted, for lack of a tokenizer of transformers: {', '.join(names)}" if names else ""


def _texts(name: str, value: Any) -> list[str] | None:
    """Return an argument that may be one text or several."""
    if value is None or isinstance(value, str):
        return None if value is None else [value]
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(one, str) for one in value):
        raise ConceptLoadError(f"{name}: expected a text or a list of texts, got {shown(value)}")
    return list(value)


def _unload(pipe: Any, token: str | Sequence[str] | None) -> None:
    pairs = _text_pairs(pipe)
    vocabularies = [ConceptVocabulary(pair) for pair in pairs]
    loaded = list(dict.fromkeys(trigger for vocabulary in vocabularies for trigger in vocabulary.entries))
    asked = _texts("token", token)
    wanted = loaded if asked is None else asked
    known = {trigger.lower() for trigger in loaded}
    unknown = [trigger for trigger in wanted if trigger.lower() not in known]
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
