"""Checks that saving or publishing a concept loses no learned rows unless the user says so.

The rule for folders and repositories is the same. A place of a single concept refuses another concept; a library takes
any. An existing concept with other rows is replaced only with ``overwrite=True``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import EmbeddingFileError, OutputError
from ..file_names import RECORD_NAME
from ..formats.embedding_file import LearnedEmbedding, read_embedding
from ..formats.library import weights_in
from ..triggers import folded


@dataclass(frozen=True)
class SavedConcept:
    """A concept as saved, with the facts that decide whether another of the same name may replace it.

    Attributes:
        placeholder_token: The concept's name.
        rows: ``{file name: (num_vectors, hidden_size)}``, float32 as in the file.
        losses: Mean training loss of each step, as listed in the concept's record.
    """

    placeholder_token: str
    rows: Mapping[str, Tensor]
    losses: Sequence[float | None]

    def keeps(self, old: "SavedConcept") -> bool:
        """Whether replacing `old` loses nothing: the rows are the same, or this is the same run at a later step."""
        if self.rows.keys() != old.rows.keys():
            return False
        is_same_run = bool(old.losses) and list(self.losses[: len(old.losses)]) == list(old.losses)
        return is_same_run or all(torch.equal(rows, self.rows[name]) for name, rows in old.rows.items())


def saved_concept(embeddings: Mapping[str, LearnedEmbedding], losses: Sequence[float | None]) -> SavedConcept:
    """Return the concept that is about to be saved, from ``{file name: embedding}``."""
    tokens = [str(one.placeholder_token) for one in embeddings.values()]
    return SavedConcept(tokens[0], {name: one.rows.float().cpu() for name, one in embeddings.items()}, losses)


def read_saved_concept(folder: Path, weights: Sequence[str] | None = None) -> SavedConcept | None:
    """Return the concept in a folder; None if there is no embedding.

    Args:
        folder: The folder of one concept.
        weights: Names of its embedding files; None: all that are there.

    Raises:
        EmbeddingFileError: An embedding is damaged.
    """
    names = weights_in(folder) if weights is None else weights
    embeddings = {name: read_embedding(folder / name) for name in names}
    return saved_concept(embeddings, _recorded_losses(folder / RECORD_NAME)) if embeddings else None


def check_may_replace(folder: Path, new: SavedConcept, *, overwrite: bool) -> None:
    """Check that a concept may be written into a folder.

    Raises:
        OutputError: The folder holds another concept; or, without `overwrite`, this one with other rows or in damaged
            files.
    """
    try:
        old = read_saved_concept(folder)
    except EmbeddingFileError as error:
        if overwrite:
            return
        raise OutputError(f"cannot replace what is in {str(folder)!r}: {error}; pass overwrite=True") from error
    if old is not None:
        check_replaces(old, new, str(folder), overwrite=overwrite)


def check_replaces(old: SavedConcept, new: SavedConcept, where: str, *, overwrite: bool) -> None:
    """Check that concept `old`, at place `where`, may be replaced by `new`.

    Raises:
        OutputError: The concepts have different names, or different rows and `overwrite` is False.
    """
    if folded(old.placeholder_token) != folded(new.placeholder_token):
        raise OutputError(
            f"expected a place for {new.placeholder_token}, got {where!r} with {old.placeholder_token}; choose another"
        )
    if not overwrite and not new.keeps(old):
        raise OutputError(
            f"{where!r} holds {old.placeholder_token} with other rows; pass overwrite=True to replace them, or choose "
            "another place"
        )


def _recorded_losses(path: Path) -> list[float | None]:
    try:
        record: Any = json.loads(path.read_bytes())
        losses = record["losses"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
    return losses if isinstance(losses, list) else []
