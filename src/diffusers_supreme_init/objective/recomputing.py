"""Less memory for more time: activations that are computed again in the backward pass."""

import contextlib
import functools
from collections.abc import Iterator

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


@contextlib.contextmanager
def gradient_checkpointing(denoiser: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Recompute a denoiser's activations in the backward pass, unless it does so already."""
    switch = enabled and not denoiser.is_gradient_checkpointing
    if switch:
        denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    try:
        yield
    finally:
        if switch:
            denoiser.disable_gradient_checkpointing()  # type: ignore[operator]


@contextlib.contextmanager
def recomputed_layers(encoder: PreTrainedModel, *, enabled: bool) -> Iterator[None]:
    """Recompute the layers of a text encoder in the backward pass; use within `frozen`.

    transformers recomputes a layer only in training mode. The layers alone are put into it, and not what they consist
    of, so no dropout is switched on. Layers that the user has told to recompute do so as well, but only here.
    """
    layers = [part for part in encoder.modules() if enabled and isinstance(part, GradientCheckpointingLayer)]
    config = encoder.config.get_text_config()
    with contextlib.ExitStack() as stack:
        if layers and getattr(config, "use_cache", False):
            # The cache of keys and values would be written twice; transformers leaves it out, with a warning.
            stack.enter_context(_replaced(config, use_cache=False))
        for layer in layers:
            recompute = functools.partial(checkpoint, use_reentrant=False)
            options = {"gradient_checkpointing": True, "_gradient_checkpointing_func": recompute, "training": True}
            stack.enter_context(_replaced(layer, **options))
        yield


@contextlib.contextmanager
def _replaced(holder: object, **values: object) -> Iterator[None]:
    """Set attributes of one object for a while."""
    own = {name: vars(holder)[name] for name in values if name in vars(holder)}
    for name, value in values.items():
        setattr(holder, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in own:
                setattr(holder, name, own[name])
            else:
                delattr(holder, name)
