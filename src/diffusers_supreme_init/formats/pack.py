"""A pack: one file with the embeddings of up to 1,000 concepts of a library, so that loading all takes few requests.

It is a safetensors file, ``{"mug/learned_embeds.safetensors": rows}``; the metadata of each embedding file, and the
digest of its bytes, are the metadata of that name. The folders of the concepts stay what counts: rows whose file has
another digest by now are not taken from a pack.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from ..errors import EmbeddingFileError
from ..file_names import pack_name
from ..files import read_safetensors, safetensors_bytes
from .embedding_file import METADATA_KEY, LearnedEmbedding, own_embedding
from .library import LibraryEntry

MAX_PACKED = 1000
"""Concepts in one pack."""
PackedFile: TypeAlias = tuple[Mapping[str, Tensor], Mapping[str, str], str]
"""Tensors and metadata of an embedding file, and the SHA-256 of its bytes."""
_KEPT = (METADATA_KEY, "modelspec.architecture")


def packs_of(folders: Iterable[str]) -> dict[str, str]:
    """Return ``{folder: name of its pack}``.

    It follows from the hash of a name, so that a new concept changes only one pack, as long as their number stays.
    """
    digests = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in folders}
    count = 1
    while max(_sizes(digests.values(), count), default=0) > MAX_PACKED:
        count *= 2
    return {name: pack_name(digest % count, count) for name, digest in digests.items()}


def pack_bytes(embeddings: Mapping[str, PackedFile]) -> bytes:
    """Return the contents of a pack.

    Args:
        embeddings: ``{"folder/file name": file}``.
    """
    rows, about = {}, {}
    for name, (tensors, metadata, digest) in sorted(embeddings.items()):
        ((token, rows[name]),) = tensors.items()
        kept = {key: metadata[key] for key in _KEPT if key in metadata}
        about[name] = json.dumps({"placeholder_token": token, "sha256": digest, **kept})
    return safetensors_bytes(rows, about)


def members_of_pack(path: Path) -> dict[str, PackedFile]:
    """Return what a pack was made of, as `pack_bytes` takes it.

    Raises:
        EmbeddingFileError: The pack is damaged.
    """
    tensors, metadata = read_safetensors(path)
    found: dict[str, PackedFile] = {}
    for name, rows in tensors.items():
        try:
            about = json.loads(metadata[name])
            found[name] = {about.pop("placeholder_token"): rows}, about, about.pop("sha256")
        except (KeyError, ValueError, AttributeError) as error:
            raise EmbeddingFileError(f"{str(path)!r}: expected a whole pack, got a damaged one ({error})") from error
    return found


def read_pack(path: Path, entries: Mapping[str, LibraryEntry]) -> dict[str, tuple[LearnedEmbedding, ...]]:
    """Return the concepts of a pack that are wanted and whose files are still those that were packed.

    Args:
        path: The pack.
        entries: Wanted concepts, ``{folder: entry}``, as the index has them.

    Raises:
        EmbeddingFileError: The pack is damaged.
    """
    tensors, metadata = read_safetensors(path)
    found = {}
    for folder, entry in entries.items():
        names = [f"{folder}/{weights}" for weights in entry.weights]
        try:
            about = [json.loads(metadata[name]) for name in names]
            digests = tuple(one["sha256"] for one in about)
            tokens = [one["placeholder_token"] for one in about]
        except KeyError:
            continue  # packed before this concept came
        except (ValueError, TypeError) as error:
            raise EmbeddingFileError(f"{str(path)!r}: expected a whole pack, got a damaged one ({error})") from error
        if digests == entry.sha256:
            found[folder] = _embeddings(names, tokens, tensors, about, str(path))
    return found


def _embeddings(
    names: Sequence[str], tokens: Sequence[str], tensors: Mapping, about: Sequence[Mapping[str, str]], where: str
) -> tuple[LearnedEmbedding, ...]:
    return tuple(
        own_embedding({token: tensors[name]}, one, f"{name} of {where!r}")
        for name, token, one in zip(names, tokens, about, strict=True)
    )


def _sizes(digests: Iterable[int], count: int) -> list[int]:
    sizes = [0] * count
    for digest in digests:
        sizes[digest % count] += 1
    return sizes
