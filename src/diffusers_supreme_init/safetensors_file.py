"""A safetensors file, read and written: the same bytes for the same tensors and metadata."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from .errors import EmbeddingFileError


def read_safetensors(source: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        EmbeddingFileError: The file is missing, damaged, or named like something else.
    """
    path = Path(source)
    where = repr(str(path))
    if not os.path.isfile(path):  # unlike Path.is_file, it takes a name that is too long for one
        raise EmbeddingFileError(f"expected an embedding file, got {where}, which does not exist")
    if path.suffix.lower() != ".safetensors":
        is_pickle = path.suffix.lower() in (".pt", ".bin", ".pth", ".ckpt")
        advice = (
            "; pickles can run code when they are opened: where you trust this one, pass allow_pickle=True, or "
            "convert it once with examples/convert.py --allow_pickle"
        )
        raise EmbeddingFileError(f"expected a .safetensors file, got {where}{advice if is_pickle else ''}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
            return tensors, file.metadata() or {}
    except Exception as error:  # whatever a damaged file makes the readers of safetensors and torch raise
        raise EmbeddingFileError(f"{where}: expected a whole safetensors file, got a damaged one ({error})") from error


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file; equal arguments give equal bytes."""
    return _canonical(safetensors.torch.save(dict(tensors), metadata=dict(metadata)))


def _canonical(data: bytes) -> bytes:
    """Sort the header's keys: safetensors writes metadata in an order that differs from call to call."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.dumps(
        json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    header += b" " * (-len(header) % 8)  # the format wants the tensors aligned to 8 bytes
    return struct.pack("<Q", len(header)) + header + data[8 + size :]
