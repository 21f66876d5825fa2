"""Read the concepts of sources, each with the name that it has or gets from its file."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import ConceptLoadError
from ..file_names import token_from_name
from ..formats.embedding_file import LearnedEmbedding
from ..formats.library import check_only
from ..formats.readers import read_concepts, read_embeddings
from ..triggers import folded
from .options import ConceptFiles, ConceptSource, SourceOptions
from .sources import find_concepts

logger = logging.getLogger(__name__)

FoundConcept: TypeAlias = tuple[ConceptSource, tuple[LearnedEmbedding, ...]]
"""A concept with the source that holds it."""


def read_sources(
    sources: Sequence[ConceptSource], only: Sequence[str] | None, options: SourceOptions, *, has_token: bool
) -> list[FoundConcept]:
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


def one_per_row(found: Sequence[FoundConcept], num_tokens: int) -> list[FoundConcept]:
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


def _read(files: ConceptFiles, options: SourceOptions, has_token: bool) -> list[tuple[LearnedEmbedding, ...]]:
    """Return the concepts in some files: one in several files, or those of one file."""
    packed = tuple(one for one in files if isinstance(one, LearnedEmbedding))
    unread = [one for one in files if not isinstance(one, LearnedEmbedding)]
    if packed:
        return [packed]
    if len(unread) == 1:
        concepts = read_concepts(unread[0], allow_pickle=options.allow_pickle)
        return [_marked(concept, unread[0], has_token) for concept in concepts]
    found = [_marked(read_embeddings(file, allow_pickle=options.allow_pickle), file, has_token) for file in unread]
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
