"""Load concepts into any pipeline, and unload them: `load_multitoken_inversion`, `unload_multitoken_inversion`.

Everything is read and checked before the first row is written; a failed load leaves the pipeline unchanged.
"""

import os
import re
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .errors import ConceptLoadError, SupremeInitWarning, shown
from .inputs.field_values import is_text
from .inputs.paths import expanded, looks_like_path
from .loading.matching import ConceptRequest, LoadedConcept, plan_load
from .loading.options import ConceptSource, SourceOptions
from .loading.reading import one_per_row, read_sources
from .multitoken import arm
from .text.changes import changed, changing, refresh_config
from .text.prompt_cleaning import why_lost
from .text.text_pairs import TextPair, find_text_pairs
from .text.torch_state import own_torch_state
from .text.vocabulary import ConceptVocabulary
from .triggers import folded, trigger_table


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
                program that does not name one. Given the component, no warning says that others lack the rows: as with
                diffusers' own loader, each gets them by a call of its own.
            tokenizer: The tokenizer of `text_encoder`, which diffusers' own loader asks for; here it is only checked.
            allow_pickle: Also read ``.pt`` and ``.bin`` files, with PyTorch's restricted unpickler.
            weight_name: File name within a folder or repository; None: ``learned_embeds.safetensors`` (and ``_2``
                ...). It is refused, like the next two, for a source that it cannot apply to.
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
                or does not name it; the Hub fails; the sources lack a concept that `only` names; or `weight_name`,
                `subfolder` or `revision` cannot apply to a source.
            ConceptLoadError: A concept fits no text encoder or several different ones, or clashes with a loaded one;
                a text encoder cannot take rows (quantised, offloaded to disk, being trained); the numbers of tokens
                and concepts differ; or `text_encoder` or `tokenizer` is not one of the pipeline.
            PlaceholderTokenError: A placeholder token is a token of the vocabulary.

        Warns:
            SupremeInitWarning: A text encoder has neither rows nor a description, or the pipeline would remove the
                placeholder token from prompts before it tokenizes them.
        """
        cache = None if cache_dir is None else expanded(cache_dir)
        options = SourceOptions(weight_name, subfolder, revision, cache, local_files_only, hub_token, allow_pickle)
        encoder_name = _encoder_name(_text_pairs(self), text_encoder, tokenizer)
        requests = _requests(source, token, only, description, encoder_name, options)
        # Whoever passes a component loads into the others by calls of their own, as with diffusers' loader.
        is_complete = isinstance(text_encoder, str | None) and tokenizer is None
        with changing:  # from the plan to the change, but not while files are downloaded
            pairs = _text_pairs(self)
            try:
                plan = plan_load(pairs, requests)
            except ConceptLoadError as error:
                raise ConceptLoadError(f"{error}{_encoders_without_tokenizer(self, pairs)}") from error
            # Before any change: a warning may be turned into an error.
            _warn(self, plan.reports, description is not False and is_complete)
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
        with changing:
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
    if not isinstance(description, bool) and not is_text(description):
        raise ConceptLoadError(f"description: expected a text, True or False, got {shown(description)}")
    if isinstance(description, str) and looks_like_path(description):
        raise ConceptLoadError(f"description: expected words, got {shown(description)}, which looks like a path")
    given = _texts("token", token)
    found = read_sources(sources, _texts("only", only), options, has_token=bool(given))
    tokens: list[str | None] = [*given] if given else [None for _ in found]
    if len(tokens) != len(found):
        found = one_per_row(found, len(tokens))
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
                f"text_encoder: expected a text encoder of this pipeline or its name ({names}), got "
                f"{shown(text_encoder)}, which is not one of them"
            )
    if tokenizer is None:
        return name
    owners = [pair.encoder_name for pair in pairs if any(slot.tokenizer is tokenizer for slot in pair.slots)]
    if not owners or (name is not None and name not in owners):
        raise ConceptLoadError(
            f"tokenizer: expected the tokenizer of {name or 'a text encoder of this pipeline'}, got "
            f"{shown(tokenizer)}, which is not; leave it out"
        )
    return name or owners[0]


def _text_pairs(pipe: Any) -> list[TextPair]:
    pairs = find_text_pairs(pipe)
    if not pairs:
        readers = {name: part for name, part in pipe.components.items() if re.search("text_encoder|tokenizer", name)}
        found = [f"no {name}" if part is None else f"{name} ({type(part).__name__})" for name, part in readers.items()]
        raise ConceptLoadError(
            f"expected a pipeline with a text encoder and its tokenizer, got {type(pipe).__name__} with "
            f"{', '.join(found) or 'neither'}; both have to be classes of transformers"
        )
    with changing:
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
