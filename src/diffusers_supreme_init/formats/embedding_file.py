"""The file of a concept: ``learned_embeds.safetensors``, the format of diffusers' own textual inversion.

It holds exactly one tensor, ``{placeholder_token: (num_vectors, hidden_size) float32}``, so that stock
``load_textual_inversion`` reads it. Everything else is safetensors metadata: ModelSpec keys, and one JSON object under
`METADATA_KEY`. A second text encoder has a second file, ``learned_embeds_2.safetensors``. `readers` and `writers` know
the formats of other programs, and keep the same JSON object if a file has room for it.
"""

import hashlib
import json
import logging
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import EmbeddingFileError, shown
from ..files import read_safetensors, safetensors_bytes, write_atomically
from ..text.encoder_identity import EncoderIdentity
from ..version import __version__

logger = logging.getLogger(__name__)

METADATA_KEY = "diffusers_supreme_init"
FORMAT_VERSION = 1

_HALF_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class LearnedEmbedding:
    """One concept for one text encoder, as in a file.

    A *foreign* file was written by another program.

    Attributes:
        placeholder_token: The word to use in prompts; None if the file does not name its concept.
        rows: ``(num_vectors, hidden_size)``, in the floating-point dtype of the file.
        description: The words that the rows started from; None if unknown.
        initializer_tokens: The token that each row started from.
        base_model: Hub id of the model that the concept was trained on; None if unknown or local.
        encoder: The text encoder that the concept was trained for; None in foreign files.
        encoder_key: The text encoder that a foreign file names, e.g. ``"clip_g"``; None if it names none.
        architecture: ModelSpec architecture, e.g. ``"stable-diffusion-v1/textual-inversion"``.
        training: Settings and results of the run; JSON values, no paths, no dates.
    """

    placeholder_token: str | None
    rows: Tensor
    description: str | None = None
    initializer_tokens: tuple[str, ...] = ()
    base_model: str | None = None
    encoder: EncoderIdentity | None = None
    encoder_key: str | None = None
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


def write_embedding(path: str | os.PathLike[str], embedding: LearnedEmbedding) -> Path:
    """Write one concept atomically; equal concepts give equal bytes.

    Half-precision rows are written as float32, which holds them exactly, and their dtype is recorded. Float64 rows are
    rounded to float32, and a warning is logged.

    Raises:
        EmbeddingFileError: The rows are not finite or not ``(num_vectors, hidden_size)``, or the concept has no name
            that can be typed.
        OutputError: The file cannot be written.
    """
    return write_atomically(path, embedding_bytes(embedding))


def embedding_bytes(embedding: LearnedEmbedding) -> bytes:
    """Return the contents of the file that `write_embedding` writes."""
    token = checked_token(embedding.placeholder_token)
    rows = checked_rows(embedding.rows, f"rows of {token}")
    if rows.dtype == torch.float64:
        logger.warning("%s: float64 rows are rounded to float32", token)
    rows = rows.float().cpu()
    return safetensors_bytes({token: rows}, _metadata(embedding, token, rows))


def read_embedding(source: str | os.PathLike[str] | Mapping[str, Tensor]) -> LearnedEmbedding:
    """Read one concept from a file, or from a state dict ``{placeholder_token: rows}``; see `read_embeddings`.

    A single vector ``(hidden_size,)``, as in older files, counts as one row.

    Raises:
        EmbeddingFileError: The file is missing, damaged, a pickle, or does not hold exactly one usable tensor.
    """
    if isinstance(source, Mapping):
        return own_embedding(dict(source), {}, "the given state dict")
    tensors, metadata = read_safetensors(source)
    return own_embedding(tensors, metadata, repr(str(source)))


def own_embedding(tensors: Mapping[Any, Any], metadata: Mapping[str, str], where: str) -> LearnedEmbedding:
    """Return the embedding of a state dict ``{placeholder_token: rows}`` with this package's metadata, if any.

    Args:
        tensors: The state dict.
        metadata: Safetensors metadata; empty if there is none.
        where: Name of the source, for messages.

    Raises:
        EmbeddingFileError: The state dict does not hold exactly one usable tensor, or the metadata are damaged.
    """
    if len(tensors) != 1:
        raise EmbeddingFileError(
            f"{where}: expected exactly one tensor, got {len(tensors)} ({', '.join(map(str, list(tensors)[:6]))}); "
            "pass one of them as a state dict {placeholder_token: tensor}, or, if they are the rows of one concept, "
            "stack them (torch.stack)"
        )
    ((token, rows),) = tensors.items()
    if not isinstance(token, str) or not isinstance(rows, Tensor):
        raise EmbeddingFileError(
            f"{where}: expected {{placeholder_token: tensor}}, got {{{str(token)[:40]!r}: {type(rows).__name__}}}"
        )
    rows = checked_rows(rows, where)
    fields = own_fields(metadata.get(METADATA_KEY), rows, where)
    dtype = fields.pop("dtype")
    if dtype is not None:
        rows = checked_rows(rows.to(dtype), where)
    fields["architecture"] = metadata.get("modelspec.architecture")
    return LearnedEmbedding(**{**fields, "placeholder_token": token, "rows": rows})


def own_json(embedding: LearnedEmbedding, **others: str | None) -> str:
    """Return the JSON text that `own_fields` reads: an embedding without its name and rows, and `others`."""
    own = {
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "description": embedding.description,
        "initializer_tokens": list(embedding.initializer_tokens),
        "base_model": embedding.base_model,
        "encoder": asdict(embedding.encoder) if embedding.encoder else None,
        "training": dict(embedding.training),
    }
    return json.dumps(own | {name: value for name, value in others.items() if value is not None}, sort_keys=True)


def own_fields(text: Any, rows: Tensor, where: str) -> dict[str, Any]:
    """Parse the text of `own_json` into arguments of `LearnedEmbedding`, and ``dtype``.

    Args:
        text: The text; None: the defaults are returned.
        rows: The rows that the text belongs to.
        where: Name of the source, for messages.

    Raises:
        EmbeddingFileError: The text is damaged, or belongs to rows of another width.
    """
    try:
        own = {} if text is None else json.loads(text)
        encoder = EncoderIdentity(**own["encoder"]) if own.get("encoder") else None
        if encoder is not None:
            _text(encoder.class_name), _text(encoder.vocabulary)
            if type(encoder.hidden_size) is not int or encoder.hidden_size != rows.shape[1]:
                raise ValueError(f"a text encoder of width {encoder.hidden_size} beside rows of {rows.shape[1]}")
        tokens, training = own.get("initializer_tokens", []), own.get("training", {})
        if not isinstance(tokens, list) or None in tokens or not isinstance(training, dict):
            raise TypeError(f"{type(tokens).__name__} of tokens, {type(training).__name__} of training")
        names = ("placeholder_token", "description", "base_model", "encoder_key", "architecture")
        return {
            **{name: _text(own.get(name)) for name in names},
            "initializer_tokens": tuple(_text(token) for token in tokens),
            "encoder": encoder,
            "training": training,
            "dtype": _HALF_DTYPES[own["dtype"]] if own.get("dtype") is not None else None,
        }
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise EmbeddingFileError(f"{where}: expected metadata of this package, got damaged ones ({error})") from error


def checked_token(token: str | None) -> str:
    """Return a placeholder token unchanged, if a file can hold it.

    Raises:
        EmbeddingFileError: The token is None or empty, contains control characters, or is ``__metadata__``, which
            safetensors reserves.
    """
    if token is not None and not isinstance(token, str):
        raise EmbeddingFileError(f"expected a name such as '<mug>', got {shown(token)}")
    if token is None or not token.strip():
        raise EmbeddingFileError("expected a concept with a name, got one without; pass e.g. token='<mug>'")
    if token == "__metadata__" or any(unicodedata.category(character) in ("Cc", "Cs") for character in token):
        raise EmbeddingFileError(f"expected a placeholder token that can be typed, got {token!r}; pass token='<mug>'")
    return token


def checked_rows(rows: Any, where: str) -> Tensor:
    """Return a detached copy of rows, ``(num_vectors, hidden_size)``; a single vector counts as one row.

    Raises:
        EmbeddingFileError: The rows are not a dense tensor of that shape with finite 16, 32 or 64 bit numbers.
    """
    if not isinstance(rows, Tensor):
        raise EmbeddingFileError(f"{where}: expected a tensor, got {type(rows).__name__}")
    if rows.layout != torch.strided or rows.is_quantized or rows.is_meta or rows.is_nested:
        raise EmbeddingFileError(f"{where}: expected a dense tensor with data, got a sparse, quantised or empty one")
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 1:
        raise EmbeddingFileError(
            f"{where}: expected (num_vectors, hidden_size) with rows, got shape {tuple(rows.shape)}"
        )
    if rows.dtype not in _DTYPES:
        raise EmbeddingFileError(f"{where}: expected 16, 32 or 64 bit floating-point rows, got {rows.dtype}")
    if not torch.isfinite(rows.float()).all():
        raise EmbeddingFileError(f"{where}: expected finite rows, got NaN or infinity; train again with a lower rate")
    return rows.detach().clone(memory_format=torch.contiguous_format)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        (value or "").encode()  # fails for lone surrogates, which JSON can hold but UTF-8 cannot
        return value
    raise TypeError(f"a {type(value).__name__} in place of a text")


def _metadata(embedding: LearnedEmbedding, token: str, rows: Tensor) -> dict[str, str]:
    dtype = str(embedding.rows.dtype).removeprefix("torch.")
    # The key is left out if the identity of the text encoder is known, since it can be derived from that.
    encoder_key = embedding.encoder_key if embedding.encoder is None else None
    metadata = {
        "format": "pt",
        METADATA_KEY: own_json(embedding, dtype=dtype if dtype in _HALF_DTYPES else None, encoder_key=encoder_key),
        # User interfaces show these fields of ModelSpec 1.0.1 (github.com/Stability-AI/ModelSpec).
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": token,
        "modelspec.trigger_phrase": token,
        "modelspec.hash_sha256": "0x" + hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
    }
    if embedding.architecture:
        metadata["modelspec.architecture"] = embedding.architecture
    if embedding.description:
        metadata["modelspec.description"] = f"started from: {embedding.description}"
    return metadata
