"""Where a concept comes from: a file, a folder, a state dict, or a repository on the Hub."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor

from .embedding_file import WEIGHT_NAME, weight_name_for
from .errors import EmbeddingFileError
from .formats import KOHYA_KEY
from .hub_connection import HUB_FAILURES, one_line

ConceptSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Tensor] | Tensor


@dataclass(frozen=True)
class SourceOptions:
    """Where in a folder or repository to look, and how to reach the Hub; see `load_multitoken_inversion`."""

    weight_name: str | None
    subfolder: str | None
    revision: str | None
    cache_dir: str | Path | None
    local_files_only: bool
    hub_token: str | bool | None
    allow_pickle: bool = False


def find_embedding_files(
    source: ConceptSource, options: SourceOptions
) -> Sequence[str | os.PathLike[str] | Mapping[str, Tensor]]:
    """Return the files of one source, one per text encoder, downloading them if it is a Hub id.

    Raises:
        EmbeddingFileError: There is no such file, folder or repository, or a name leads out of it.
    """
    if isinstance(source, Tensor):
        return [{KOHYA_KEY: source}]  # rows without a name
    if isinstance(source, Mapping):
        return [source]
    if not isinstance(source, str | os.PathLike):
        raise EmbeddingFileError(
            f"expected a file, a folder, a Hub id 'user/name' or a state dict, got a {type(source).__name__}"
        )
    for name in (options.weight_name, options.subfolder):
        if name is not None and (".." in PurePosixPath(name).parts or Path(name).is_absolute() or "\\" in name):
            raise EmbeddingFileError(f"weight_name and subfolder: expected a path below the source, got {name!r}")
    path = Path(source)
    if os.path.isfile(path):  # unlike Path.is_file, it takes a name that is too long for one
        return [path]
    choices = _file_names(options)
    if os.path.isdir(path):
        folder = path / (options.subfolder or "")
        for names in choices:
            if found := [folder / name for name in names if (folder / name).is_file()]:
                return list(found)
        name = choices[0][0]
        below = sorted(str(path.parent) for path in folder.glob(f"*/{name}"))
        way_out = f"load its folders: {below[:4]}" if below else "see weight_name="
        raise EmbeddingFileError(f"expected {name} in {str(folder)!r}, got no such file; {way_out}")
    if (
        isinstance(source, os.PathLike)
        or str(source).count("/") != 1
        or path.suffix in (".safetensors", ".bin", ".pt")
    ):
        raise EmbeddingFileError(
            f"expected a file, a folder or a Hub id 'user/name', got {str(source)!r}: it does not exist"
        )
    return list(_download(str(source), choices, options))


def _file_names(options: SourceOptions) -> list[list[str]]:
    """Return the names to look for: the first list of which a file is there, one per text encoder, is taken."""
    if options.weight_name:
        return [[options.weight_name]]
    names = [WEIGHT_NAME, *(weight_name_for(f"text_encoder_{number}") for number in (2, 3, 4))]
    pickles = [name.replace(".safetensors", ".bin") for name in names]  # what diffusers wrote until 2023
    return [names, pickles] if options.allow_pickle else [names]


def _download(repo_id: str, choices: Sequence[Sequence[str]], options: SourceOptions) -> list[Path]:
    missing: Exception | None = None
    for names in choices:
        files: list[Path] = []
        for name in names:
            try:
                file = hf_hub_download(
                    repo_id,
                    name,
                    subfolder=options.subfolder,
                    revision=options.revision,
                    cache_dir=options.cache_dir,
                    local_files_only=options.local_files_only,
                    token=options.hub_token,
                )
            except LocalEntryNotFoundError as error:
                missing = error
                if not (options.local_files_only or is_offline_mode()):
                    break  # the Hub does not answer: asking for the other names would only take longer
            except EntryNotFoundError as error:
                missing = error  # a concept has files for its own encoders only
            except HUB_FAILURES as error:
                raise EmbeddingFileError(f"cannot load {repo_id!r} from the Hub: {one_line(error)}") from error
            else:
                files.append(Path(file))
        if files:
            return files
    raise EmbeddingFileError(
        f"expected {choices[0][0]} in the repository {repo_id!r}, got none ({missing})"
    ) from missing
