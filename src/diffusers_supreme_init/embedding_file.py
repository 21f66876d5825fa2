"""The file of a concept: ``learned_embeds.safetensors``, the format of diffusers' own textual inversion.

Exactly one tensor, ``{placeholder_token: (num_vectors, hidden_size) float32}``, so that stock
``load_textual_inversion`` reads it; everything else is safetensors metadata: ModelSpec keys, and one JSON object under
`METADATA_KEY`. A second text encoder has a second file, ``learned_embeds_2.safetensors``. No other module knows this.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import EmbeddingFileError
from .files import write_atomically
from .text_pairs import EncoderIdentity
from .version import __version__

WEIGHT_NAME = "learned_embeds.safetensors"
METADATA_KEY = "diffusers_supreme_init"
FORMAT_VERSION = 1

_NAMELESS_KEYS = frozenset({"emb_params", "emp_params"})
"""Keys that other trainers write in place of the token."""


@dataclass(frozen=True, kw_only=True)
class LearnedEmbedding:
    """One concept for one text encoder, as it is in a file.

    Attributes:
        placeholder_token: The word to use in prompts.
        rows: Float32 ``(num_vectors, hidden_size)``.
        description: The words the rows started from; None if unknown.
        initializer_tokens: The token each row started from.
        base_model: Hub id of the model it was trained on; None if unknown or local.
        encoder: The text encoder it was trained for; None in foreign files.
        architecture: ModelSpec architecture, e.g. ``"stable-diffusion-v1/textual-inversion"``.
        training: Settings and results of the run; JSON values, no paths, no dates.
    """

    placeholder_token: str
    rows: Tensor
    description: str | None = None
    initializer_tokens: tuple[str, ...] = ()
    base_model: str | None = None
    encoder: EncoderIdentity | None = None
    architecture: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_vectors(self) -> int:
        """Number of rows."""
        return self.rows.shape[0]

    @property
    def hidden_size(self) -> int:
        """Width of a row."""
        return self.rows.shape[1]


def weight_name_for(encoder_name: str) -> str:
    """Return the file name that serves a text encoder: ``learned_embeds_2.safetensors`` for ``text_encoder_2``."""
    number = re.search(r"_(\d+)$", encoder_name)
    return f"learned_embeds_{number[1]}.safetensors" if number else WEIGHT_NAME


def write_embedding(path: str | os.PathLike[str], embedding: LearnedEmbedding) -> Path:
    """Write one concept, atomically; equal concepts give equal bytes.

    Raises:
        EmbeddingFileError: The rows are not finite or not ``(num_vectors, hidden_size)``.
        OutputError: The file cannot be written.
    """
    rows = _checked_rows(embedding.rows, f"rows of {embedding.placeholder_token}").float().cpu().contiguous()
    data = safetensors.torch.save({embedding.placeholder_token: rows}, metadata=_metadata(embedding, rows))
    return write_atomically(path, _canonical(data))


def read_embedding(source: str | os.PathLike[str] | Mapping[str, Tensor]) -> LearnedEmbedding:
    """Read one concept from a file, or from a state dict ``{placeholder_token: rows}``.

    A single vector ``(hidden_size,)``, as older files have it, counts as one row.

    Raises:
        EmbeddingFileError: The file is missing, damaged, a pickle, or does not hold exactly one usable tensor.
    """
    if isinstance(source, Mapping):
        return _to_embedding(dict(source), {}, "the given state dict")
    path = Path(source)
    where = repr(str(path))
    if not path.is_file():
        raise EmbeddingFileError(f"expected an embedding file, got {where}, which does not exist")
    if path.suffix != ".safetensors":
        raise EmbeddingFileError(
            f"expected a .safetensors file, got {where}; pickles (.bin, .pt) can run code when they are opened: "
            "convert it with safetensors where you trust it"
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise EmbeddingFileError(f"{where}: expected a whole safetensors file, got a damaged one ({error})") from error
    return _to_embedding(tensors, metadata, where)


def _to_embedding(tensors: dict[Any, Any], metadata: dict[str, str], where: str) -> LearnedEmbedding:
    if len(tensors) != 1:
        raise EmbeddingFileError(
            f"{where}: expected exactly one tensor, got {len(tensors)} ({', '.join(map(str, sorted(tensors)[:6]))}); "
            "pass one of them as a state dict {placeholder_token: tensor}"
        )
    ((token, rows),) = tensors.items()
    if not isinstance(token, str) or not isinstance(rows, Tensor):
        raise EmbeddingFileError(
            f"{where}: expected {{placeholder_token: tensor}}, got {{{token!r}: {type(rows).__name__}}}"
        )
    rows = _checked_rows(rows[None] if rows.ndim == 1 else rows, where)
    try:
        own = json.loads(metadata.get(METADATA_KEY, "{}"))
        encoder = EncoderIdentity(**own["encoder"]) if own.get("encoder") else None
        return LearnedEmbedding(
            placeholder_token=token,
            rows=rows.detach().float(),
            description=own.get("description"),
            initializer_tokens=tuple(own.get("initializer_tokens", ())),
            base_model=own.get("base_model"),
            encoder=encoder,
            architecture=metadata.get("modelspec.architecture"),
            training=own.get("training", {}),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise EmbeddingFileError(f"{where}: expected metadata of this package, got damaged ones ({error})") from error


def needs_name(embedding: LearnedEmbedding) -> bool:
    """Whether the file's key is one that trainers write in place of the token, so that the user has to name it."""
    return embedding.placeholder_token in _NAMELESS_KEYS


def _checked_rows(rows: Tensor, where: str) -> Tensor:
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 1:
        raise EmbeddingFileError(
            f"{where}: expected (num_vectors, hidden_size) with rows, got shape {tuple(rows.shape)}"
        )
    if not rows.is_floating_point():
        raise EmbeddingFileError(f"{where}: expected floating-point rows, got {rows.dtype}")
    if not torch.isfinite(rows.float()).all():
        raise EmbeddingFileError(f"{where}: expected finite rows, got NaN or infinity; train again with a lower rate")
    return rows


def _metadata(embedding: LearnedEmbedding, rows: Tensor) -> dict[str, str]:
    own = {
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "description": embedding.description,
        "initializer_tokens": list(embedding.initializer_tokens),
        "base_model": embedding.base_model,
        "encoder": asdict(embedding.encoder) if embedding.encoder else None,
        "training": dict(embedding.training),
    }
    metadata = {
        "format": "pt",
        METADATA_KEY: json.dumps(own, sort_keys=True),
        # ModelSpec 1.0.1 (github.com/Stability-AI/ModelSpec), which user interfaces show.
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": embedding.placeholder_token,
        "modelspec.trigger_phrase": embedding.placeholder_token,
        "modelspec.hash_sha256": "0x" + hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
    }
    if embedding.architecture:
        metadata["modelspec.architecture"] = embedding.architecture
    if embedding.description:
        metadata["modelspec.description"] = f"started from: {embedding.description}"
    return metadata


def _canonical(data: bytes) -> bytes:
    """Sort the header's keys: safetensors writes metadata in an order that differs from call to call."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.dumps(
        json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    header += b" " * (-len(header) % 8)  # the format wants the tensors aligned to 8 bytes
    return struct.pack("<Q", len(header)) + header + data[8 + size :]
