"""Pictures -> embeddings of length 1, by the vision models of transformers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..describers.model_loading import explained, load_part, place
from ..errors import DescriberError, MetricError
from .inputs import to_image

_BATCH_SIZE = 16


def load_model(model: str, model_types: Sequence[str], kind: str, device: torch.device | str) -> tuple[Any, Any]:
    """Load a model with all its weights, float32 and frozen, and its image processor, which uses pillow.

    Args:
        model: Hub id (``"user/name"`` or ``"user/name@revision"``) or folder.
        model_types: Accepted values of ``model_type`` in its configuration.
        kind: Name of the kind of model in errors, e.g. ``"CLIP model"``.
        device: Device of the model.

    Raises:
        MetricError: The model cannot be loaded, is of another type, or lacks weights, which transformers would draw
            at random.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    with explained_as_metric(model, kind):
        found = load_part(AutoConfig, model).model_type
    if found not in model_types:
        raise MetricError(
            f"{kind}: expected the type {' or '.join(model_types)}, got {model!r} of the type {found}; choose another"
        )
    with explained_as_metric(model, kind):
        image_processor = load_part(AutoImageProcessor, model, backend="pil")
        loaded, info = load_part(AutoModel, model, output_loading_info=True, dtype=torch.float32)
    if missing := info["missing_keys"]:
        raise MetricError(
            f"{kind} {model!r}: expected all weights, got none for {len(missing)} tensors like {min(missing)!r}; get "
            "the model again"
        )
    return place(loaded, device), image_processor


@contextlib.contextmanager
def explained_as_metric(model: str, kind: str) -> Iterator[None]:
    """Turn errors of transformers during loading into `MetricError`."""
    try:
        with explained(model, kind):
            yield
    except DescriberError as error:
        raise MetricError(str(error)) from error


@torch.no_grad()
def embed(
    pictures: Sequence[Tensor], image_processor: Any, network: Callable[[Tensor], Tensor], device: torch.device
) -> Tensor:
    """Return embeddings of length 1, ``(num_pictures, dim)``, float64, on the CPU.

    Args:
        pictures: ``(3, height, width)`` each, in [0, 1]; rounded to 8 bits, as image processors expect.
        image_processor: The model's image processor.
        network: Takes the processor's ``(batch, 3, size, size)``, returns ``(batch, dim)``.
        device: Device of the network.
    """
    embeddings = []
    for start in range(0, len(pictures), _BATCH_SIZE):
        images = [to_image(picture) for picture in pictures[start : start + _BATCH_SIZE]]
        pixel_values = image_processor(images=images, return_tensors="pt")["pixel_values"]
        embeddings.append(normalized(network(pixel_values.to(device))))
    return torch.cat(embeddings)


def normalized(embeddings: Tensor) -> Tensor:
    """Return embeddings scaled to length 1, float64, on the CPU."""
    return torch.nn.functional.normalize(embeddings.cpu().double(), dim=-1)


def mean_cosines(embeddings: Tensor, references: Tensor) -> Tensor:
    """Return each embedding's mean cosine with the references, ``(num_pictures,)``; all vectors have length 1."""
    return embeddings @ references.mean(0)
