"""File of weights, the user's or a published one -> the tensors that a metric needs."""

import importlib.util
import os
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from huggingface_hub import is_offline_mode
from torch import Tensor

from ..errors import MetricError
from ..inputs.paths import local_path

_HEADS_IN_TORCHMETRICS = ("functional", "image", "lpips_models", "vgg.pth")


def load_weights(
    path: str | os.PathLike[str] | None, url: str, shapes: Mapping[str, tuple[int, ...]], *, kind: str
) -> dict[str, Tensor]:
    """Return the tensors named by `shapes` from a file, float32, on the CPU; other tensors are ignored.

    Args:
        path: State dict (``.safetensors``, or ``.pth``, read with ``weights_only=True``); None: the published file,
            from torch's cache (``$TORCH_HOME/hub/checkpoints``, shared with torchvision) or downloaded into it.
        url: Address of the published file, whose name ends in the first digits of its SHA-256.
        shapes: Shape of each tensor.
        kind: Name of the weights in errors, e.g. ``"LPIPS weights"``.

    Raises:
        MetricError: The file is missing, damaged or of another model, or cannot be downloaded.
    """
    if path is None:
        path = _cached(url, kind)
    return select_weights(read_weights(path, kind=kind), shapes, where=f"{kind} {str(path)!r}", source=url)


def read_weights(path: str | os.PathLike[str], *, kind: str) -> dict[str, Any]:
    """Return the state dict in a file of weights, on the CPU.

    Raises:
        MetricError: The file is missing or damaged, or is not a state dict.
    """
    path = local_path(path)
    if not path.is_file():
        raise MetricError(f"{kind}: expected a file, got {str(path)!r}, which does not exist")
    try:
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path)
        # Published files were saved on a GPU, hence `map_location`.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the readers of safetensors and torch raise anything
        raise MetricError(
            f"{kind} {str(path)!r}: expected a state dict (.pth, .safetensors), got a damaged file or a whole pickled "
            f"model ({_one_line(error)}); get the file again, or save the model's state_dict()"
        ) from error
    if not isinstance(state, dict):
        raise MetricError(
            f"{kind} {str(path)!r}: expected a state dict, got {type(state).__name__}; save a state_dict()"
        )
    return state


def select_weights(
    state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], *, where: str, source: str
) -> dict[str, Tensor]:
    """Return the tensors named by `shapes`, float32.

    Args:
        state: State dict.
        shapes: Shape of each tensor.
        where: Name of the file in errors.
        source: Place of the right file, for errors.

    Raises:
        MetricError: A tensor is missing, has another shape, or is not finite.
    """
    missing = [key for key in shapes if key not in state]
    if missing:
        found = ", ".join(repr(key) for key in list(state)[:2]) or "nothing"
        raise MetricError(
            f"{where}: expected tensors like {missing[0]!r}, got {found}, ...; {len(missing)} of {len(shapes)} are "
            f"missing: use {source}"
        )
    for key, shape in shapes.items():
        tensor = state[key]
        got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        if got != shape:
            raise MetricError(f"{where}: expected {key!r} of shape {shape}, got {got}; use {source}")
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise MetricError(f"{where}: expected finite floats in {key!r}, got others; use {source}")
    return {key: state[key].detach().float() for key in shapes}


def find_heads() -> Path:
    """Return the LPIPS heads in the package data of torchmetrics, without importing it.

    Its import would import torchvision if that is installed, and fail if torchvision does not fit torch.

    Raises:
        MetricError: torchmetrics is not installed.
    """
    spec = importlib.util.find_spec("torchmetrics")
    folders = (spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders if (path := Path(folder, *_HEADS_IN_TORCHMETRICS)).is_file()]
    if not found:
        raise MetricError(
            "LPIPS heads: expected the package torchmetrics, which ships them, got none; install it with "
            "pip install --no-deps torchmetrics, or pass heads='path/to/vgg.pth'"
        )
    return found[0]


def _cached(url: str, kind: str) -> Path:
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.exists():
        return path
    if is_offline_mode():
        raise MetricError(
            f"{kind}: expected {str(path)!r}, got no such file, and HF_HUB_OFFLINE forbids downloading it; get {url} "
            "elsewhere and pass weights='path/to/the/file'"
        )
    try:
        torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, HTTPException, RuntimeError) as error:  # torch raises RuntimeError for another hash
        raise MetricError(
            f"{kind}: expected to download {url}, got {type(error).__name__} ({_one_line(error)}); get the file "
            "elsewhere and pass weights='path/to/the/file'"
        ) from error
    return path


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
