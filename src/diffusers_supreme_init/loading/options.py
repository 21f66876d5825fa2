"""What concepts are loaded from, and the arguments of loading that say where in it to look."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from ..formats.embedding_file import LearnedEmbedding

ConceptSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Tensor] | Tensor
ConceptFiles: TypeAlias = Sequence[str | os.PathLike[str] | Mapping[str, Tensor] | LearnedEmbedding]
"""The files of one concept, one per text encoder; or its embeddings, if they were read with others from a pack."""


@dataclass(frozen=True)
class SourceOptions:
    """Arguments of `load_multitoken_inversion` that say where in a source to look, and how to reach the Hub."""

    weight_name: str | None = None
    subfolder: str | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    hub_token: str | bool | None = None
    allow_pickle: bool = False
