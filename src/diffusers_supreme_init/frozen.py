"""A user's pipeline during training: everything frozen, and afterwards exactly as it was."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .backbones import Backbone
from .errors import UnsupportedPipelineError


def check_trainable(backbone: Backbone) -> None:
    """Check that a pipeline's modules can be frozen, moved and wrapped.

    Raises:
        UnsupportedPipelineError: The pipeline is offloaded, or its text encoder carries an adapter.
    """
    for name, module in backbone.pipe.components.items():
        if isinstance(module, nn.Module) and any(hasattr(part, "_hf_hook") for part in module.modules()):
            raise UnsupportedPipelineError(
                f"{name}: expected a pipeline without offloading hooks, got one; train before enabling offloading, or "
                "call pipe.remove_all_hooks()"
            )
    for pair in backbone.trained:
        if any(isinstance(module, BaseTunerLayer) for module in pair.encoder.modules()):
            raise UnsupportedPipelineError(
                f"{pair.encoder_name}: expected a plain text encoder, got one with an adapter (LoRA?); fuse it "
                "(pipe.fuse_lora()) and unload its weights, or train on a pipeline without it"
            )


@contextlib.contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a module for a while; a quantised one that is on an accelerator already stays there."""
    home = next(module.parameters()).device
    if home == device or (is_quantised(module) and home.type != "cpu"):
        yield
        return
    try:
        module.to(device)  # what fails halfway, for lack of memory, goes home too
        yield
    finally:
        module.to(home)


def is_quantised(module: nn.Module) -> bool:
    """Whether a module was loaded with a quantisation config: its weights are then no plain numbers."""
    return getattr(module, "hf_quantizer", None) is not None or bool(getattr(module, "is_quantized", False))


@contextlib.contextmanager
def upcast(module: nn.Module) -> Iterator[None]:
    """Run a half-precision module in float32: fp16 autoencoders overflow, and they run only once per picture.

    Going to float32 and back changes no bit of the weights.
    """
    dtypes = {parameter.dtype for parameter in module.parameters()}
    is_half = len(dtypes) == 1 and dtypes <= {torch.float16, torch.bfloat16} and not is_quantised(module)
    if is_half:
        module.float()
    try:
        yield
    finally:
        if is_half:
            nn.Module.to(module, dtypes.pop())  # diffusers' own warns of casts, and this one only undoes ours


@contextlib.contextmanager
def frozen(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Set modules to evaluation without gradients to their weights; restore both kinds of flags at the end."""
    training = [(part, part.training) for module in modules for part in module.modules()]
    requires_grad = [(weight, weight.requires_grad) for module in modules for weight in module.parameters()]
    try:
        for module in modules:
            module.requires_grad_(False).eval()
        yield
    finally:
        for part, was_training in training:
            part.training = was_training
        for weight, required_grad in requires_grad:
            weight.requires_grad_(required_grad)


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
