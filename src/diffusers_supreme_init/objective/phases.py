"""Which parts of a pipeline are on the accelerator while it encodes pictures, reads prompts, trains, and draws."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from ..backbones import Backbone, is_clip
from ..frozen import frozen, gradient_checkpointing, on_device, upcast
from ..remembered_prompts import remembered_prompts

NO_PROMPT = ""
"""What guidance compares a prompt with; who draws lets the text encoders read it beside the prompts."""


@contextlib.contextmanager
def ready_to_encode(backbone: Backbone, device: torch.device) -> Iterator[None]:
    """Freeze the autoencoder and put it on a device, in float32 if it is half precision."""
    autoencoder = backbone.autoencoder
    with frozen([autoencoder]), upcast(autoencoder), on_device(autoencoder, device):
        yield


@contextlib.contextmanager
def ready_to_step(
    backbone: Backbone, device: torch.device, prompts: Iterable[str], *, checkpointing: bool = False
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


@contextlib.contextmanager
def ready_to_draw(backbone: Backbone, device: torch.device) -> Iterator[None]:
    """Put what only drawing needs on a device too: the autoencoder, a safety checker; within `ready_to_step`."""
    readers = [pair.encoder for pair in backbone.pairs]
    parts = [part for part in backbone.pipe.components.values() if isinstance(part, nn.Module)]
    with contextlib.ExitStack() as stack:
        for part in parts:
            if all(getattr(part, "_orig_mod", part) is not reader for reader in readers):
                stack.enter_context(on_device(part, device))
        yield
