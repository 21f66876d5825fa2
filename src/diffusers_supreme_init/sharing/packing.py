"""The packs of a library on the Hub: of the concepts that are there and of those that are pushed."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from ..file_names import is_pack_name
from ..files import read_safetensors
from ..formats.library import LibraryEntry
from ..formats.pack import PackedFile, members_of_pack, pack_bytes, packs_of
from .repository_files import RepositoryFiles
from .upload import Upload


def with_packs(
    entries: Mapping[str, LibraryEntry], upload: Upload, there: RepositoryFiles
) -> tuple[dict[str, LibraryEntry], dict[str, bytes], list[str]]:
    """Put all concepts of a library into packs.

    Args:
        entries: All of its concepts, ``{folder: entry}``: those that are there, and those of the upload.
        upload: The upload, under its names there.
        there: The repository.

    Returns:
        The entries with their packs, ``{name: bytes}`` of the packs that change, and those that are not used any more.
    """
    names = packs_of(entries)
    made = {
        name: replace(entry, sha256=_digests(name, entry, upload, there), pack=names[name])
        for name, entry in entries.items()
    }
    before = there.library() or {}
    packs: dict[str, bytes] = {}
    opened: dict[str, dict[str, PackedFile]] = {}
    for pack in sorted(set(names.values())):
        members = {name: entry for name, entry in made.items() if entry.pack == pack}
        old = {name: entry.sha256 for name, entry in before.items() if entry.pack == pack}
        if pack in there.files and old == {name: entry.sha256 for name, entry in members.items()}:
            continue
        for needed in {before[name].pack for name in members if name in before} - opened.keys():
            if needed is not None and needed in there.files:
                opened[needed] = members_of_pack(there.fetch("", needed) / needed)
        packed = {name: one for of_pack in opened.values() for name, one in of_pack.items()}
        packs[pack] = pack_bytes(
            {
                f"{name}/{weights}": _file(f"{name}/{weights}", digest, packed, upload, there)
                for name, entry in members.items()
                for weights, digest in zip(entry.weights, entry.sha256, strict=True)
            }
        )
    stale = [path for path in there.files if is_pack_name(path) and path not in names.values()]
    return made, packs, stale


def _digests(name: str, entry: LibraryEntry, upload: Upload, there: RepositoryFiles) -> tuple[str, ...]:
    """Return the digests of a concept's files: of those that are pushed, of their bytes; of others, as listed."""
    paths = [f"{name}/{weights}" for weights in entry.weights]
    own = [upload.contents[path] for path in paths if path in upload.contents]
    if len(own) < len(paths) and entry.sha256:
        return entry.sha256
    if len(own) < len(paths):
        own = [(there.fetch(f"{name}/", weights) / weights).read_bytes() for weights in entry.weights]
    return tuple(hashlib.sha256(data).hexdigest() for data in own)


def _file(
    path: str, digest: str, packed: Mapping[str, PackedFile], upload: Upload, there: RepositoryFiles
) -> PackedFile:
    """Return a file from the upload, or else from an old pack, or else from its folder there."""
    if path in upload.contents:
        return *read_safetensors(upload.folder / upload.local_names[path]), digest
    if path in packed and packed[path][2] == digest:
        return packed[path]
    name, _, weights = path.rpartition("/")
    return *read_safetensors(there.fetch(f"{name}/", weights) / weights), digest
