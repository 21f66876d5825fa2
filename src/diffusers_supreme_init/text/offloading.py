"""Text encoders whose weights are elsewhere: sequential offloading (accelerate) and group offloading (diffusers).

Model offloading needs nothing of this: its weights are always whole, on one device or the other.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, SequentialHook, remove_hook_from_module
from diffusers.hooks import group_offloading
from torch import Tensor, nn
from transformers import PreTrainedModel


def why_out_of_reach(encoder: PreTrainedModel, embedding: nn.Module) -> str | None:
    """Return why the rows of an encoder cannot be written as it is now, or None if they can."""
    weight = cast(Tensor, embedding.weight)
    if weight.is_meta:
        hook = _align_hook(embedding)
        if hook is None:
            return "its weights are not loaded (they are on the meta device)"
        if not isinstance(getattr(hook.weights_map, "dataset", None), dict):
            return "its weights are offloaded to disk"
    group = group_offloading._get_top_level_group_offload_hook(encoder)
    if group is not None and group.config.offload_to_disk_path is not None:
        return "its weights are offloaded to disk"
    return None


def weight_of(embedding: nn.Module) -> Tensor:
    """Return an embedding's matrix ``(num_rows, hidden_size)`` to read from, wherever it is kept."""
    weight = cast(Tensor, embedding.weight)
    hook = _align_hook(embedding)
    return cast(Tensor, hook.weights_map["weight"]) if weight.is_meta and hook is not None else weight.detach()


@contextlib.contextmanager
def reachable_weights(encoder: PreTrainedModel) -> Iterator[None]:
    """Give an encoder real weights for a while, then offload it again as it was, new rows included."""
    hooks = [hook for module in encoder.modules() if (hook := _align_hook(module)) is not None and hook.offload]
    if hooks:
        remove_hook_from_module(encoder, recurse=True)
        encoder.tie_weights()  # accelerate gives T5's two names of one matrix back as two parameters
    try:
        yield
    finally:
        if hooks:
            cpu_offload(encoder, hooks[0].execution_device, offload_buffers=hooks[0].offload_buffers)
        # Group offloading keeps pinned copies of the weights, made when it was enabled. diffusers' own LoRA loader
        # renews them this way; it does nothing where there is no group offloading.
        group_offloading._maybe_remove_and_reapply_group_offloading(encoder)


def _align_hook(module: nn.Module) -> AlignDevicesHook | None:
    """Return the hook that brings a module's weights to the device they are needed on."""
    hook: Any = getattr(module, "_hf_hook", None)
    hooks = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
    return next((one for one in hooks if isinstance(one, AlignDevicesHook) and one.weights_map is not None), None)
