"""Hub id or folder -> model; errors are one line that names the model and says what to do."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..errors import DescriberError, DescriberLoadError


def split_revision(model: str) -> tuple[str, str | None]:
    """Split ``"user/name@revision"`` into id and revision; an existing folder is not split."""
    model = os.path.expanduser(model)
    if os.path.exists(model) or "@" not in model:
        return model, None
    name, _, revision = model.rpartition("@")
    return name, revision


@contextlib.contextmanager
def explained(model: str, kind: str) -> Iterator[None]:
    """Turn errors of transformers during loading into `DescriberLoadError`.

    Args:
        model: Hub id or folder, as the user gave it.
        kind: The model's purpose, e.g. ``"captioner"``.
    """
    is_path = Path(model).is_absolute() or model.startswith(".") or model.count("/") > 1
    if is_path and not Path(split_revision(model)[0]).exists():
        raise DescriberLoadError(
            f"{kind}: expected a folder with a model or an id on the Hub, got {model!r}, which does not exist"
        )
    try:
        yield
    except DescriberError:
        raise
    except (
        ImportError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:
        message = " ".join(str(error).split()).split(". ")[0][:200]
        if "torchvision" in str(error).lower():
            raise DescriberLoadError(
                f"{kind} {model!r}: expected a model that works without torchvision, got one whose processor needs "
                "it; install the extra diffusers-supreme-init[vlm] from the same index as your torch (another "
                "build of torchvision breaks the imports of transformers and diffusers), or choose another model"
            ) from error
        if isinstance(error, ImportError):
            raise DescriberLoadError(f"{kind} {model!r}: a package is missing ({message}); install it") from error
        if isinstance(error, OSError):
            raise DescriberLoadError(
                f"{kind}: expected a folder with a model or an id on the Hub, got {model!r}, which cannot be loaded "
                f"({message})"
            ) from error
        raise DescriberLoadError(
            f"{kind}: expected a model that transformers can use as a {kind}, got {model!r} ({message})"
        ) from error


@contextlib.contextmanager
def answering(model: str, kind: str) -> Iterator[None]:
    """Turn errors of transformers while a model processes a picture into `DescriberError`."""
    try:
        yield
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        message = " ".join(str(error).split())[:200]
        raise DescriberError(
            f"{kind} {model!r}: expected an answer, got {type(error).__name__} ({message}); choose another model, "
            "other settings, or a device with more memory"
        ) from error


def load_part(auto_class: Any, model: str, **options: Any) -> Any:
    """Load a model or a processor through one of transformers' auto classes; never run a repository's code.

    Args:
        auto_class: E.g. `AutoProcessor`.
        model: Hub id (``"user/name"`` or ``"user/name@revision"``) or folder.
        options: Further arguments of `from_pretrained`.
    """
    name, revision = split_revision(model)
    return auto_class.from_pretrained(name, revision=revision, trust_remote_code=False, **options)


def load_picture_processor(model: str) -> Any:
    """Load the processor of an image-text-to-text model; torchvision is needed only by models that insist on it.

    transformers loads all parts of a processor or none, and each part for videos needs torchvision. Pictures never
    reach that part, so without torchvision the processor is loaded without it: `get_attributes` lists the parts.

    Args:
        model: Hub id (``"user/name"`` or ``"user/name@revision"``) or folder.

    Raises:
        ImportError or ValueError: The part for pictures needs torchvision as well, or another package is missing.
    """
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        return load_part(AutoProcessor, model)
    except (ImportError, ValueError) as error:
        if "torchvision" not in str(error).lower():
            raise
        config_class = type(load_part(AutoConfig, model))
        if config_class not in PROCESSOR_MAPPING:
            raise
        with contextlib.suppress(TypeError):  # the class passes its part for videos by name
            return load_part(_without_videos(PROCESSOR_MAPPING[config_class]), model)
        raise


def _without_videos(processor_class: Any) -> Any:
    class PictureProcessor(processor_class):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

    return PictureProcessor


def place(model: Any, device: torch.device | str | None) -> Any:
    """Move a loaded model to a device (None: the GPU if there is one), frozen and in eval mode."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().requires_grad_(False).to(device or default)
