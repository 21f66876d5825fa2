"""Download the files of concepts from a repository on the Hub: of one concept, or of some in a library."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import (
    _CACHED_NO_EXIST,
    hf_hub_download,
    is_offline_mode,
    list_repo_files,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from ..errors import EmbeddingFileError, one_line
from ..file_names import RECORD_NAME, WEIGHT_NAMES
from ..formats.embedding_file import LearnedEmbedding
from ..formats.library import LibraryEntry, choose_folders, read_index
from ..formats.pack import read_pack
from ..hub_connection import HUB_FAILURES
from .options import ConceptFiles, SourceOptions

_NUM_DOWNLOADS = 8
"""At once. Of a pack that holds more concepts, no more than these are downloaded one by one."""


def download_concepts(
    repo_id: str, choices: Sequence[Sequence[str]], options: SourceOptions, only: Sequence[str] | None
) -> list[ConceptFiles]:
    """Download the index of a repository and the files of each concept, of a library as packs where possible.

    Args:
        repo_id: Hub id.
        choices: Lists of file names of a single concept; the first list of which a file exists is taken.
        options: Where in the repository to look, and how to reach the Hub.
        only: Placeholder tokens to choose from a library; None: all.

    Raises:
        EmbeddingFileError: As `find_concepts`.
    """
    library = None
    if options.weight_name is None:
        try:
            library = _find_index(repo_id, options)
        except EmbeddingFileError:
            # A single concept that was downloaded before needs neither an index nor a Hub that answers.
            if not any(_is_downloaded(repo_id, name, options) for names in choices for name in names):
                raise
    if library is None:
        try:
            return [_download(repo_id, choices, options)]
        except _NoConceptError as error:
            library = None if options.weight_name else _find_folders(repo_id, options)
            if library is None:
                raise EmbeddingFileError(f"{error}{_what_there_is(repo_id, options)}") from error
    entries, options = library
    known = {name: entry for name, entry in entries.items() if entry is not None}
    # Without its entry, a concept's token is known only from its files, so all are downloaded and chosen from later.
    names = list(entries) if only is None or len(known) < len(entries) else choose_folders(known, only, repr(repo_id))

    packed = _unpack(repo_id, {name: known[name] for name in names if name in known}, known, options)

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


def _is_known_to_be_absent(repo_id: str, name: str, options: SourceOptions) -> bool:
    """Whether the Hub client's cache has noted that the repository has no such file."""
    return _in_cache(repo_id, name, options) is _CACHED_NO_EXIST


def _is_downloaded(repo_id: str, name: str, options: SourceOptions) -> bool:
    return isinstance(_in_cache(repo_id, name, options), str)


def _in_cache(repo_id: str, name: str, options: SourceOptions) -> Any:
    """Return a file's path in the Hub client's cache, its mark for a file that does not exist, or None."""
    path = f"{options.subfolder}/{name}" if options.subfolder else name
    return try_to_load_from_cache(repo_id, path, cache_dir=options.cache_dir, revision=options.revision)


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


def _find_index(
    repo_id: str, options: SourceOptions
) -> tuple[Mapping[str, LibraryEntry | None], SourceOptions] | None:
    """Return ``{folder: entry}`` of a library on the Hub, and options for its commit; None if it has no index."""
    try:
        (index,) = _download(repo_id, [[RECORD_NAME]], options)
    except _NoConceptError:
        return None
    listed = read_index(index.read_bytes())
    # All files have to come from the commit of the index: .../snapshots/COMMIT/SUBFOLDER/training.json
    commit = index.parents[len(PurePosixPath(options.subfolder or "").parts)].name
    return (listed, replace(options, revision=commit)) if listed else None


def _find_folders(repo_id: str, options: SourceOptions) -> tuple[Mapping[str, None], SourceOptions] | None:
    """Return the folders with embedding files of a repository without an index, and the options as they are."""
    below = f"{options.subfolder}/" if options.subfolder else ""
    names = [PurePosixPath(name.removeprefix(below)) for name in _files_of(repo_id, options) if name.startswith(below)]
    found = sorted({name.parts[0] for name in names if len(name.parts) == 2 and name.name in WEIGHT_NAMES})
    return (dict.fromkeys(found), options) if found else None


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
