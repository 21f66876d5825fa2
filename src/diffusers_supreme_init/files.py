"""Reading and writing whole files, atomically and reproducibly: equal contents give equal bytes."""

import json
import math
import os
import re
import secrets
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from .errors import EmbeddingFileError, OutputError, one_line
from .file_names import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES
from .inputs.file_kinds import PICKLE, SAFETENSORS, kind_of_file
from .inputs.paths import expanded, local_path


def write_atomically(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file under a temporary name in the same folder, then rename it, so that it never exists incomplete.

    Raises:
        OutputError: The folder cannot be created or written to, or the disk is full. An existing file is unchanged.
    """
    target = local_path(path)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unique = target.with_name(f".{secrets.token_hex(8)}.tmp")
        with open(unique, "xb") as file:  # not mkstemp: its mode 0600 would make the file unreadable to other users
            temporary = unique
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {str(target)!r}: {error.strerror or error}; choose another output_dir"
        ) from error
    return target


def json_bytes(record: Mapping[str, Any]) -> bytes:
    """Return the contents of a JSON file; NaN and infinity, which JSON lacks, become null."""
    return (json.dumps(without_nan(record), indent=1, allow_nan=False) + "\n").encode()


def without_nan(value: Any) -> Any:
    """Return JSON values with None in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return value


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Create a folder if needed, and check before hours of work that files can be written there.

    Raises:
        OutputError: The folder cannot be created or written to.
    """
    target = local_path(folder)
    try:
        probe = write_atomically(target / ".writable", b"")
    except OutputError as error:
        # Not with the name of a file that nobody asked for.
        raise OutputError(str(error).replace(str(target / ".writable"), str(target))) from error.__cause__
    probe.unlink(missing_ok=True)  # another process may have removed it already
    return target


def hub_id(name: object) -> str | None:
    """Return a model's name if it is a Hub id, or None if it is a local path, which is private.

    A relative path of two parts that no longer exists is taken for an id, since the name alone does not show it.
    """
    text = str(name or "")
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", text) is not None and not text.startswith(".")
    return text if is_id and not Path(text).exists() else None


def read_safetensors(source: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        EmbeddingFileError: The file is missing, damaged or something else, or its name does not end in
            ``.safetensors``.
    """
    path = expanded(source)
    where = repr(str(path))
    if not os.path.isfile(path):  # Path.is_file raises an error on texts that are too long for a path
        raise EmbeddingFileError(f"expected an embedding file, got {where}, which does not exist")
    kind = kind_of_file(path)
    if kind == PICKLE or (kind is None and path.suffix.lower() in PICKLE_SUFFIXES):
        rename = "" if path.suffix.lower() in PICKLE_SUFFIXES else "rename it to .pt and "
        raise EmbeddingFileError(
            f"expected a .safetensors file, got {where}, a pickle; pickles can run code when they are opened: where "
            f"you trust this one, {rename}pass allow_pickle=True, or convert it once with `supreme-init "
            "convert --allow_pickle`"
        )
    if kind not in (None, SAFETENSORS):
        raise EmbeddingFileError(f"{where}: expected a whole safetensors file, got {kind}")
    if path.suffix.lower() not in SAFETENSORS_SUFFIXES:
        rename = "; rename it" if kind == SAFETENSORS else ""
        raise EmbeddingFileError(f"expected a .safetensors file, got {where}{rename}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
            return tensors, file.metadata() or {}
    except PermissionError as error:
        raise EmbeddingFileError(f"{where}: cannot be read ({one_line(error)})") from error
    except Exception as error:  # a damaged file can make safetensors and torch raise almost anything
        raise EmbeddingFileError(
            f"{where}: expected a whole safetensors file, got a damaged one ({one_line(error)})"
        ) from error


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the contents of a safetensors file; equal arguments give equal bytes."""
    return _canonical(safetensors.torch.save(dict(tensors), metadata=dict(metadata)))


def _canonical(data: bytes) -> bytes:
    """Sort the keys of the header, because safetensors writes metadata in an order that differs between calls."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.dumps(
        json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    header += b" " * (-len(header) % 8)  # the format aligns the tensors to 8 bytes
    return struct.pack("<Q", len(header)) + header + data[8 + size :]
