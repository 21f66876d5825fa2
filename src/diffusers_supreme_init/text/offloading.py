"""Access to offloaded text encoders: sequential offloading (accelerate) and group offloading (diffusers).

Model offloading needs no special treatment: the whole model is always on one device or the other.
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
    """Return why the rows of an encoder cannot be written at present, or None if they can."""
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
    """Return an embedding's matrix, ``(num_rows, hidden_size)``, for reading, even while it is offloaded."""
    weight = cast(Tensor, embedding.weight)
    hook = _align_hook(embedding)
    return cast(Tensor, hook.weights_map["weight"]) if weight.is_meta and hook is not None else weight.detach()


@contextlib.contextmanager
def reachable_weights(encoder: PreTrainedModel) -> Iterator[None]:
    """Load an encoder's offloaded weights; on exit, offload it again in the same way, including new rows."""
    hooks = [hook for module in encoder.modules() if (hook := _align_hook(module)) is not None and hook.offload]
    if hooks:
        remove_hook_from_module(encoder, recurse=True)
        encoder.tie_weights()  # accelerate restores T5's shared matrix as two separate parameters
    try:
        yield
    finally:
        if hooks:
            cpu_offload(encoder, hooks[0].execution_device, offload_buffers=hooks[0].offload_buffers)
        # Group offloading works on copies of the weights that were made when it was enabled, so they are made again.
        # diffusers' own LoRA loader does it with this call, which does nothing without group offloading.
        group_offloading._maybe_remove_and_reapply_group_offloading(encoder)


def _align_hook(module: nn.Module) -> AlignDevicesHook | None:
    """Return the accelerate hook that loads a module's offloaded weights when they are needed, or None."""
    hook: Any = getattr(module, "_hf_hook", None)
    hooks = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
    return next((one for one in hooks if isinstance(one, AlignDevicesHook) and one.weights_map is not None), None)
