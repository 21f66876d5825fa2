"""Find the files of concepts in a source: a file, a folder, a state dict, or a repository on the Hub."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from huggingface_hub import (
    _CACHED_NO_EXIST,
    hf_hub_download,
    is_offline_mode,
    list_repo_files,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor

from ..errors import EmbeddingFileError, one_line, shown
from ..file_names import PICKLE_SUFFIXES, RECORD_NAME, SAFETENSORS_SUFFIXES, WEIGHT_NAMES
from ..formats.embedding_file import LearnedEmbedding
from ..formats.library import LibraryEntry, choose_folders, find_concept_folders, read_index, read_library
from ..formats.pack import read_pack
from ..formats.readers import KOHYA_KEY, pickle_advice
from ..hub_connection import HUB_FAILURES
from ..inputs.paths import expanded, starts_like_path

ConceptSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Tensor] | Tensor
ConceptFiles: TypeAlias = Sequence[str | os.PathLike[str] | Mapping[str, Tensor] | LearnedEmbedding]
"""The files of one concept, one per text encoder; or its embeddings, if they were read with others from a pack."""

_NUM_DOWNLOADS = 8
"""At once. Of a pack that holds more concepts, no more than these are downloaded one by one."""

_HUB_ADDRESS = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)(?:models/)?(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+)(?:/(?P<path>[^?#]+?))?)?/?(?:[?#].*)?"
)
_FILE_SUFFIXES = (*SAFETENSORS_SUFFIXES, *PICKLE_SUFFIXES)
_HUB_REVISION = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")


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
    return _download_concepts(str(source), choices, options, only)


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


def _is_known_to_be_absent(repo_id: str, name: str, options: SourceOptions) -> bool:
    """Whether the Hub client's cache has noted that the repository has no such file."""
    path = f"{options.subfolder}/{name}" if options.subfolder else name
    known = try_to_load_from_cache(repo_id, path, cache_dir=options.cache_dir, revision=options.revision)
    return known is _CACHED_NO_EXIST


def _download_concepts(
    repo_id: str, choices: Sequence[Sequence[str]], options: SourceOptions, only: Sequence[str] | None
) -> list[ConceptFiles]:
    try:
        return [_download(repo_id, choices, options)]
    except _NoConceptError as error:
        library = None if options.weight_name else _find_library(repo_id, options)
        if library is None:
            raise EmbeddingFileError(f"{error}{_what_there_is(repo_id, options)}") from error
    entries, options = library
    known = {name: entry for name, entry in entries.items() if entry is not None}
    # Without its entry, a concept's token is known only from its files, so all are downloaded and chosen from later.
    names = list(entries) if only is None or len(known) < len(entries) else choose_folders(known, only, repr(repo_id))

    packed = _unpack(repo_id, {name: entry for name, entry in known.items() if name in set(names)}, known, options)

    def download(name: str) -> ConceptFiles:
        if name in packed:
            return packed[name]
        entry = entries[name]
        subfolder = f"{options.subfolder}/{name}" if options.subfolder else name
        wanted = [WEIGHT_NAMES if entry is None else entry.weights]
        try:
            return _download(repo_id, wanted, replace(options, subfolder=subfolder), all_of_them=entry is not None)
        except _NoConceptError as error:
            raise EmbeddingFileError(f"{repo_id}/{subfolder}: {error}") from error

    with ThreadPoolExecutor(_NUM_DOWNLOADS) as pool:
        return list(pool.map(download, names))


def _unpack(
    repo_id: str,
    wanted: Mapping[str, LibraryEntry],
    listed: Mapping[str, LibraryEntry],
    options: SourceOptions,
) -> dict[str, tuple[LearnedEmbedding, ...]]:
    """Return the concepts of a library that come in its packs, ``{folder: embeddings}``.

    A pack is downloaded if all or many of its concepts are wanted; of others, the folders are.
    """
    sizes = Counter(entry.pack for entry in listed.values())
    of_pack: defaultdict[str, dict[str, LibraryEntry]] = defaultdict(dict)
    for name, entry in wanted.items():
        if entry.pack is not None:
            of_pack[entry.pack][name] = entry
    chosen = [pack for pack, own in of_pack.items() if len(own) > _NUM_DOWNLOADS or len(own) == sizes[pack] > 1]

    def unpack(pack: str) -> dict[str, tuple[LearnedEmbedding, ...]]:
        try:
            (path,) = _download(repo_id, [[pack]], options)
        except _NoConceptError:
            return {}
        return read_pack(path, of_pack[pack])

    with ThreadPoolExecutor(_NUM_DOWNLOADS) as pool:
        return {name: found for one in pool.map(unpack, chosen) for name, found in one.items()}


def _find_library(
    repo_id: str, options: SourceOptions
) -> tuple[Mapping[str, LibraryEntry | None], SourceOptions] | None:
    """Return ``{folder: entry}`` of a library on the Hub, and options for its commit; None if it is not a library.

    Libraries without an index are recognised by folders with embedding files. Their entries are None.
    """
    below = f"{options.subfolder}/" if options.subfolder else ""
    try:
        (index,) = _download(repo_id, [[RECORD_NAME]], options)
    except _NoConceptError:
        names = [
            PurePosixPath(name.removeprefix(below)) for name in _files_of(repo_id, options) if name.startswith(below)
        ]
        found = sorted({name.parts[0] for name in names if len(name.parts) == 2 and name.name in WEIGHT_NAMES})
        return (dict.fromkeys(found), options) if found else None
    listed = read_index(index.read_bytes())
    # All files have to come from the commit of the index: .../snapshots/COMMIT/SUBFOLDER/training.json
    commit = index.parents[len(PurePosixPath(below).parts)].name
    return (listed, replace(options, revision=commit)) if listed else None


class _NoConceptError(EmbeddingFileError):
    """A repository has none of the wanted files, or only some where all are needed."""


def _download(
    repo_id: str, choices: Sequence[Sequence[str]], options: SourceOptions, *, all_of_them: bool = False
) -> list[Path]:
    """Download the files of the first list of which the repository has any, or with `all_of_them` every file.

    Most concepts have files for some text encoders only, so missing files are normally ignored.

    Raises:
        EmbeddingFileError: The Hub fails, or the files do not exist (`_NoConceptError`).
    """
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
                if not (
                    options.local_files_only or is_offline_mode() or _is_known_to_be_absent(repo_id, name, options)
                ):
                    raise EmbeddingFileError(
                        f"cannot load {name} of {repo_id!r}: the Hub does not answer ({one_line(error)}); try again, "
                        "or pass local_files_only=True to take what was downloaded before"
                    ) from error
            except EntryNotFoundError as error:
                missing = error  # a concept has files for its own text encoders only
            except HUB_FAILURES as error:
                raise EmbeddingFileError(f"cannot load {repo_id!r} from the Hub: {one_line(error)}") from error
            else:
                files.append(Path(file))
        if len(files) == len(names) or (files and not all_of_them):
            return files
    raise _NoConceptError(
        f"no folder {repo_id!r} here; expected {choices[0][0]} in the repository of that name on the Hub, got none"
    ) from missing


def _what_there_is(repo_id: str, options: SourceOptions) -> str:
    """Return the part of a message that says which files a repository has instead, and how to load them."""
    if options.local_files_only or is_offline_mode():
        return ", and nothing that was downloaded before"
    try:
        files = [Path(name) for name in _files_of(repo_id, options)]
    except EmbeddingFileError as error:
        return f" ({one_line(error)})"
    folders = sorted({file.parent.as_posix() for file in files if file.name in WEIGHT_NAMES and len(file.parts) > 1})
    if folders:
        return f"; it has {', '.join(folders[:6])}: pass subfolder={folders[0]!r}"
    names = sorted(file.as_posix() for file in files if file.suffix in (".safetensors", ".pti", ".bin", ".pt"))
    pickled = ", allow_pickle=True" if names and names[0].endswith((".bin", ".pt")) else ""
    return f"; it has {', '.join(names[:6])}: pass weight_name={names[0]!r}{pickled}" if names else ""


def _files_of(repo_id: str, options: SourceOptions) -> list[str]:
    """Return the names of all files of a repository; empty if the Hub client is offline.

    Raises:
        EmbeddingFileError: The Hub fails.
    """
    if options.local_files_only or is_offline_mode():
        return []
    try:
        return list_repo_files(repo_id, revision=options.revision, token=options.hub_token)
    except HUB_FAILURES as error:
        raise EmbeddingFileError(f"cannot load {repo_id!r} from the Hub: {one_line(error)}") from error
