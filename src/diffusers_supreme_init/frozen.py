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
    if any(isinstance(module, BaseTunerLayer) for module in backbone.pair.encoder.modules()):
        raise UnsupportedPipelineError(
            f"{backbone.pair.encoder_name}: expected a plain text encoder, got one with an adapter (LoRA?); fuse it "
            "(pipe.fuse_lora()) and unload its weights, or train on a pipeline without it"
        )


@contextlib.contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a module for a while."""
    home = next(module.parameters()).device
    try:
        module.to(device)  # what fails halfway, for lack of memory, goes home too
        yield
    finally:
        module.to(home)


@contextlib.contextmanager
def upcast(module: nn.Module) -> Iterator[None]:
    """Run a half-precision module in float32: fp16 autoencoders overflow, and they run only once per picture.

    Going to float32 and back changes no bit of the weights.
    """
    dtypes = {parameter.dtype for parameter in module.parameters()}
    is_half = len(dtypes) == 1 and dtypes <= {torch.float16, torch.bfloat16}
    if is_half:
        module.float()
    try:
        yield
    finally:
        if is_half:
            module.to(dtypes.pop())


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
def ready_to_step(backbone: Backbone, device: torch.device, *, checkpointing: bool = False) -> Iterator[None]:
    """Freeze what the steps need and put it on a device; the autoencoder makes room."""
    encoder, denoiser = backbone.pair.encoder, backbone.denoiser
    with (
        frozen([encoder, denoiser]),
        on_device(encoder, device),
        on_device(denoiser, device),
        on_device(backbone.autoencoder, torch.device("cpu")),
        gradient_checkpointing(denoiser, enabled=checkpointing),
    ):
        yield


@contextlib.contextmanager
def ready_to_encode(backbone: Backbone, device: torch.device) -> Iterator[None]:
    """Freeze the autoencoder and put it on a device, in float32 if it is half precision."""
    autoencoder = backbone.autoencoder
    with frozen([autoencoder]), upcast(autoencoder), on_device(autoencoder, device):
        yield


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
