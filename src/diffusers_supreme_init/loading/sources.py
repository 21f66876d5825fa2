"""Find the files of concepts in a source: a file, a folder, a state dict, or a repository on the Hub."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from torch import Tensor

from ..errors import EmbeddingFileError, shown
from ..file_names import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES, WEIGHT_NAMES
from ..formats.library import choose_folders, find_concept_folders, read_library
from ..formats.readers import KOHYA_KEY, pickle_advice
from ..inputs.paths import expanded, starts_like_path
from .hub_sources import download_concepts
from .options import ConceptFiles, ConceptSource, SourceOptions

_HUB_ADDRESS = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)(?:models/)?(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+)(?:/(?P<path>[^?#]+?))?)?/?(?:[?#].*)?"
)
_FILE_SUFFIXES = (*SAFETENSORS_SUFFIXES, *PICKLE_SUFFIXES)
_HUB_REVISION = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")


def find_concepts(
    source: ConceptSource, options: SourceOptions, only: Sequence[str] | None = None
) -> list[ConceptFiles]:
    """Return the files of each concept of one source, downloading them if it is a Hub id.

    Args:
        source: One concept, or a library: a folder or repository of many concepts.
        options: Where in the source to look, and how to reach the Hub.
        only: Placeholder tokens to choose from a library; None: all. It does not affect a source of one concept.

    Raises:
        EmbeddingFileError: There is no such file, folder, repository or concept; the Hub fails; `weight_name` or
            `subfolder` leads out of the source; or the source has no place that they or `revision` could name.
    """
    for place in (options.weight_name, options.subfolder, options.revision):
        if place is not None and not isinstance(place, str):
            raise EmbeddingFileError(f"weight_name, subfolder, revision: expected texts, got {shown(place)}")
    if isinstance(source, Tensor | Mapping):
        _check_unused(options, ("weight_name", "subfolder", "revision"), "rows")
        return [[{KOHYA_KEY: source} if isinstance(source, Tensor) else source]]  # a tensor has no name
    if not isinstance(source, str | os.PathLike) or not os.fspath(source).strip():
        got = repr(source) if isinstance(source, str) else f"a {type(source).__name__}"
        raise EmbeddingFileError(f"expected a file, a folder, a Hub id 'user/name' or a state dict, got {got}")
    for name in (options.weight_name, options.subfolder):
        if name is not None and (".." in PurePosixPath(name).parts or Path(name).is_absolute() or "\\" in name):
            raise EmbeddingFileError(f"weight_name and subfolder: expected a path below the source, got {name!r}")
    path = expanded(source)
    if os.path.isfile(path):  # Path.is_file raises an error on texts that are too long for a path
        _check_unused(options, ("weight_name", "subfolder", "revision"), f"the file {shown(source)}")
        return [[path]]
    choices = _accepted_names(options)
    if os.path.isdir(path):
        _check_unused(options, ("revision",), f"the folder {shown(source)}")
        folder = path / (options.subfolder or "")
        for names in choices:
            if found := [folder / name for name in names if (folder / name).is_file()]:
                return [found]
        library = {} if options.weight_name else read_library(folder) or find_concept_folders(folder)
        if library:
            chosen = choose_folders(library, only, repr(str(folder)))
            return [[folder / name / weights for weights in library[name].weights] for name in chosen]
        raise EmbeddingFileError(
            f"expected {choices[0][0]} in {str(folder)!r}, got no such file; see weight_name= and subfolder="
            + (pickle_advice(folder) if folder.is_dir() else "")
        )
    _check_hub_id(source)
    return download_concepts(str(source), choices, options, only)


def _check_unused(options: SourceOptions, names: Sequence[str], kind: str) -> None:
    """Check that options are not set that a source of this kind cannot follow: another file would be loaded."""
    if unused := [name for name in names if getattr(options, name)]:
        where = "a Hub id" if unused == ["revision"] else "a folder or a Hub id"
        given = ", ".join(f"{name}={shown(getattr(options, name))}" for name in unused)
        raise EmbeddingFileError(f"{given}: expected {where} to look in, got {kind}; leave {', '.join(unused)} out")


def _check_hub_id(source: str | os.PathLike[str]) -> None:
    """Check that what does not exist here has the form ``user/name``; if it has another form of an id, say which."""
    text = os.fspath(source).strip()
    if isinstance(source, str) and (instead := _HUB_ADDRESS.fullmatch(text) or _HUB_REVISION.fullmatch(text)):
        found = instead.groupdict()
        arguments = [repr(found["repo"])]
        if (revision := found.get("revision")) not in (None, "main"):
            arguments.append(f"revision={revision!r}")
        if path := found.get("path"):
            folder, _, name = path.rpartition("/") if "." in path.rpartition("/")[2] else (path, "", "")
            arguments += [f"{key}={value!r}" for key, value in (("subfolder", folder), ("weight_name", name)) if value]
        raise EmbeddingFileError(f"expected a Hub id 'user/name', got {text!r}; pass {', '.join(arguments)}")
    is_id = text.count("/") == 1 and not text.endswith("/")
    if isinstance(source, os.PathLike) or not is_id or starts_like_path(text) or text.lower().endswith(_FILE_SUFFIXES):
        raise EmbeddingFileError(
            f"expected a file, a folder or a Hub id 'user/name', got {shown(source)}: it does not exist"
        )


def _accepted_names(options: SourceOptions) -> list[list[str]]:
    """Return lists of file names, one name per text encoder; the first list of which a file exists is used."""
    if options.weight_name:
        return [[options.weight_name]]
    pickles = [name.replace(".safetensors", ".bin") for name in WEIGHT_NAMES]  # diffusers wrote these until 2023
    return [list(WEIGHT_NAMES), pickles] if options.allow_pickle else [list(WEIGHT_NAMES)]
