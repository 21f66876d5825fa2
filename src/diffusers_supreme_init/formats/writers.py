"""`LearnedEmbedding` -> files in any `EmbeddingFormat`.

The metadata of safetensors files hold everything but the rows, as one JSON object per text encoder, so that nothing is
lost when a file is read again. The only pickles with room for this JSON object are those of A1111.
"""

import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import EmbeddingFileError
from ..file_names import PICKLE_SUFFIXES, weight_name_for
from ..files import safetensors_bytes, write_atomically
from ..inputs.paths import local_path
from .embedding_file import (
    METADATA_KEY,
    LearnedEmbedding,
    checked_rows,
    checked_token,
    embedding_bytes,
    own_json,
)
from .programs import EmbeddingProgram, check_has_both_of_xl, format_for, is_stable_diffusion
from .readers import ENCODER_WIDTHS, KOHYA_KEY, ONETRAINER_KEY, ONETRAINER_NAMES, EmbeddingFormat

logger = logging.getLogger(__name__)

_KEYS_BY_IDENTITY = {
    ("CLIPTextModel", 768): "clip_l",
    ("CLIPTextModel", 1024): "clip_h",
    ("CLIPTextModel", 1280): "clip_g",
    ("T5EncoderModel", 4096): "t5xxl",
    ("UMT5EncoderModel", 4096): "umt5xxl",
    ("LlamaModel", 4096): "llama",
    ("LlamaForCausalLM", 4096): "llama",
    ("Gemma2Model", 2304): "gemma2_2b",
    ("Qwen2_5_VLForConditionalGeneration", 3584): "qwen25_7b",
    ("Qwen3Model", 2560): "qwen3_4b",
}
"""``{(class name without "WithProjection", hidden_size): key of the text encoder}``."""

_ONETRAINER_KEYS = ("clip_l", "clip_g", "t5xxl", "llama", "gemma2_2b")

_FAMILIES = (("clip_l", "t5xxl"), ("llama", "clip_l"), ("clip_l", "clip_g", "t5xxl", "llama"))
"""Keys of text encoders in the order of a pipeline's components; `_weight_names` names the pipelines."""


def write_embeddings(
    path: str | os.PathLike[str],
    embeddings: Sequence[LearnedEmbedding],
    format: EmbeddingFormat | EmbeddingProgram,  # noqa: A002 - the usual name of this argument
) -> list[Path]:
    """Write one concept, each file atomically; equal concepts give equal bytes.

    Args:
        path: A file, ``.safetensors`` or ``.pt``; for ``"diffusers"`` a folder, or a ``.safetensors`` file if there is
            one text encoder; for ``"a1111"`` a pickle, ``.pt``, unless the concept is one of SDXL.
        embeddings: One per text encoder, rows ``(num_vectors, hidden_size)``.
        format: The format to write, or the program to write for.

    Returns:
        The files: one per text encoder for ``"diffusers"``, otherwise one.

    Raises:
        EmbeddingFileError: The format cannot hold the concept, the program cannot read it, or the rows are unusable;
            nothing is written.
        OutputError: A file cannot be written.
    """
    return [write_atomically(file, data) for file, data in file_contents(local_path(path), embeddings, format).items()]


def file_contents(path: Path, embeddings: Sequence[LearnedEmbedding], format_name: str) -> dict[Path, bytes]:
    """Return ``{file: contents}`` of a concept; all checks are made here, before anything is written.

    Raises:
        EmbeddingFileError: The format cannot hold the concept, the program cannot read it, or the rows are unusable.
    """
    keys = [encoder_key_of(embedding) for embedding in embeddings]
    format_name = format_for(format_name, path, embeddings, keys)
    tokens = list(dict.fromkeys(embedding.placeholder_token for embedding in embeddings))
    if len(tokens) != 1:
        raise EmbeddingFileError(f"expected embeddings of one concept, got {tokens}; give them one name with token=")
    if tokens[0] is not None:
        checked_token(tokens[0])
    if format_name == "diffusers":
        is_file = path.suffix.lower() == ".safetensors" and not path.is_dir()
        if is_file and len(embeddings) > 1:
            raise EmbeddingFileError(f"{path}: expected a folder for {len(embeddings)} text encoders, got a file name")
        if path.suffix.lower() in PICKLE_SUFFIXES and not path.is_dir():
            raise EmbeddingFileError(
                f"diffusers: expected a folder or a .safetensors file as target, got {str(path)!r}"
            )
        files = [path] if is_file else [path / name for name in _weight_names(embeddings)]
        return {file: embedding_bytes(embedding) for file, embedding in zip(files, embeddings, strict=True)}
    if format_name == "comfyui":
        return {path: _file(path, *_of_comfyui(embeddings))}
    if format_name == "onetrainer" and not is_stable_diffusion(embeddings, keys):
        return {path: _file(path, *_of_onetrainer(embeddings, keys))}
    if len(embeddings) != 1:
        raise EmbeddingFileError(
            f"{format_name}: expected one text encoder, got {len(embeddings)}; write format='comfyui' or 'diffusers'"
        )
    rows = _rows(embeddings[0])
    if format_name == "a1111":
        return {path: _of_a1111(path, embeddings[0], rows)}
    if format_name == "per-token":
        if len(rows) > 1:
            logger.warning(
                "%s: ComfyUI, InvokeAI and sd-scripts will read only the first of its %d rows, and A1111 none; write "
                "format='kohya' or the program's name for them",
                path,
                len(rows),
            )
        names = _row_names(tokens[0], len(rows))
        tensors = {name: row.clone() for name, row in zip(names, rows, strict=True)}
    else:
        tensors = {KOHYA_KEY if format_name == "kohya" else ONETRAINER_KEY: rows}
    return {path: _file(path, tensors, {next(iter(tensors)): embeddings[0]})}


def encoder_key_of(embedding: LearnedEmbedding) -> str | None:
    """Return the key of an embedding's text encoder, derived from its `encoder` if not given; None if unknown."""
    if embedding.encoder_key is not None or embedding.encoder is None:
        return embedding.encoder_key
    identity = (embedding.encoder.class_name.removesuffix("WithProjection"), embedding.encoder.hidden_size)
    return _KEYS_BY_IDENTITY.get(identity)


def _weight_names(embeddings: Sequence[LearnedEmbedding]) -> list[str]:
    """Return the name of each embedding's file in a diffusers folder.

    A file has the number of its text encoder in the first of these pipelines that has all the keys: Flux (``clip_l``,
    ``t5xxl``), HunyuanVideo (``llama``, ``clip_l``), SDXL, SD 3 and HiDream (``clip_l``, ``clip_g``, ``t5xxl``,
    ``llama``). So ``clip_g`` is always ``learned_embeds_2.safetensors``. Other embeddings are numbered in their order.
    """
    keys = [encoder_key_of(embedding) for embedding in embeddings]
    family: Sequence[str | None] = next((family for family in _FAMILIES if set(keys) <= set(family)), keys)
    numbers = [family.index(key) for key in keys] if len(set(keys)) == len(keys) else range(len(keys))
    return [weight_name_for(f"text_encoder_{number + 1}" if number else "text_encoder") for number in numbers]


def _rows(embedding: LearnedEmbedding) -> Tensor:
    return checked_rows(embedding.rows, f"rows of {embedding.placeholder_token}").cpu()


def _row_names(token: str | None, num_vectors: int) -> list[str]:
    if token is None:
        return [f"<{index}>" for index in range(num_vectors)]
    return [token, *(f"{token}_{index}" for index in range(1, num_vectors))]


def _of_comfyui(embeddings: Sequence[LearnedEmbedding]) -> tuple[dict[str, Tensor], dict[str, LearnedEmbedding]]:
    keys = [encoder_key_of(embedding) for embedding in embeddings]
    known = {key: embedding for key, embedding in zip(keys, embeddings, strict=True) if key is not None}
    if len(known) != len(embeddings):
        encoders = [one.encoder.class_name if one.encoder else "text encoder" for one in embeddings]
        got = ", ".join(
            f"a {encoder} of width {one.hidden_size}" for encoder, one in zip(encoders, embeddings, strict=True)
        )
        raise EmbeddingFileError(
            f"comfyui: expected a different, known text encoder for each embedding, got {got}; pass e.g. "
            f"encoder_keys={list(ENCODER_WIDTHS)[: len(embeddings)]}"
        )
    return {key: _rows(embedding) for key, embedding in known.items()}, known


def _of_onetrainer(
    embeddings: Sequence[LearnedEmbedding], keys: Sequence[str | None]
) -> tuple[dict[str, Tensor], dict[str, LearnedEmbedding]]:
    check_has_both_of_xl("onetrainer", embeddings, keys)
    unknown = [key or "an unknown text encoder" for key in keys if key not in _ONETRAINER_KEYS]
    if unknown:
        raise EmbeddingFileError(
            f"onetrainer: expected rows for some of {', '.join(_ONETRAINER_KEYS)}, which it trains, got them for "
            f"{', '.join(unknown)}; pass e.g. encoder_keys=['clip_l'] if the file does not name its text encoder"
        )
    rows, noted = _of_comfyui(embeddings)
    names = {key: ONETRAINER_NAMES.get(key, key) for key in rows}
    return {names[key]: rows[key] for key in rows}, {names[key]: noted[key] for key in noted}


def _of_a1111(path: Path, embedding: LearnedEmbedding, rows: Tensor) -> bytes:
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        raise EmbeddingFileError(f"a1111: expected a target that ends in .pt, got {str(path)!r}")
    steps = embedding.training.get("steps")
    return _pickle(
        {
            "string_to_token": {"*": 265},  # the id of "*</w>" in CLIP's vocabulary, as A1111 writes it
            "string_to_param": {"*": rows},
            **({} if embedding.placeholder_token is None else {"name": embedding.placeholder_token}),
            "step": steps if type(steps) is int else None,
            "sd_checkpoint": None,
            "sd_checkpoint_name": embedding.base_model,
            METADATA_KEY: _noted(embedding),
        }
    )


def _file(path: Path, tensors: Mapping[str, Tensor], noted: Mapping[str, LearnedEmbedding]) -> bytes:
    if path.suffix.lower() == ".safetensors":
        notes = {f"{METADATA_KEY}.{key}": _noted(embedding) for key, embedding in noted.items()}
        return safetensors_bytes(tensors, {"format": "pt", **notes})
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        raise EmbeddingFileError(f"expected a target that ends in .safetensors (or .pt), got {str(path)!r}")
    if any(embedding.description or embedding.placeholder_token for embedding in noted.values()):
        logger.warning("%s: this pickle has no room for the description; a .safetensors file has", path)
    return _pickle(dict(tensors))


def _noted(embedding: LearnedEmbedding) -> str:
    names = {"placeholder_token": embedding.placeholder_token, "architecture": embedding.architecture}
    return own_json(embedding, **names, encoder_key=embedding.encoder_key if embedding.encoder is None else None)


def _pickle(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
