"""Which parts of a pipeline are on the accelerator when: pictures are encoded, prompts are read, steps are made."""

import contextlib
from collections.abc import Iterable, Iterator

import torch

from .backbones import Backbone, is_clip
from .frozen import frozen, gradient_checkpointing, on_device, upcast
from .remembered_prompts import remembered_prompts


@contextlib.contextmanager
def ready_to_encode(backbone: Backbone, device: torch.device) -> Iterator[None]:
    """Freeze the autoencoder and put it on a device, in float32 if it is half precision."""
    autoencoder = backbone.autoencoder
    with frozen([autoencoder]), upcast(autoencoder), on_device(autoencoder, device):
        yield


@contextlib.contextmanager
def ready_to_step(
    backbone: Backbone, device: torch.device, prompts: Iterable[str] = (), *, checkpointing: bool = False
) -> Iterator[None]:
    """Freeze what the steps need and put it on a device; the autoencoder makes room.

    Text encoders that are not trained stay where they are, unless they are CLIPs, which are small. What they make of
    `prompts` is computed on the device first, while the denoiser is not there yet, and remembered.

    Args:
        backbone: Holds the concepts by now.
        device: Where training runs; parts that are there already stay there.
        prompts: All that the steps will ask for.
        checkpointing: Whether the denoiser recomputes its activations in the backward pass.
    """
    denoiser = backbone.denoiser
    on_call = [pair.encoder for pair in backbone.pairs if pair in backbone.trained or is_clip(pair)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(frozen([*(pair.encoder for pair in backbone.pairs), denoiser]))
        stack.enter_context(on_device(backbone.autoencoder, torch.device("cpu")))
        for encoder in on_call:
            stack.enter_context(on_device(encoder, device))
        stack.enter_context(remembered_prompts(backbone, backbone.described, prompts, device))
        stack.enter_context(on_device(denoiser, device))
        stack.enter_context(gradient_checkpointing(denoiser, enabled=checkpointing))
        yield
