"""An accelerator without memory: what it would hold is counted; `memory.py` runs training on it."""

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

ACCELERATOR = torch.device("meta")
"""Stands for the accelerator: nothing that stays on the host is there."""


class LiveBytes(TorchDispatchMode):
    """While entered, follow the storages that operators make on a device.

    `torch.distributed._tools.mem_tracker.MemTracker` would do, but it hooks the gradient of every weight, and so fails
    where they are frozen.

    Attributes:
        now: Bytes that are alive.
        peak: The largest `now` so far.
    """

    def __init__(self, device: torch.device, modules: Sequence[nn.Module] = ()) -> None:
        """Count the weights and buffers of modules from the beginning."""
        super().__init__()
        self.now = self.peak = 0
        self._device = device
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._follow(tensor)

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operator(*args, **(kwargs or {}))
        for value in tree_iter(made):
            if isinstance(value, Tensor):
                self._follow(value)
        return made

    def _follow(self, tensor: Tensor) -> None:
        # torch keeps a storage's Python object as long as anything, autograd included, holds the storage.
        storage = tensor.untyped_storage()
        key, num_bytes = id(storage), storage.nbytes()
        if tensor.device != self._device or key in self._alive:
            return

        def release(_: Any) -> None:
            del self._alive[key]
            self.now -= num_bytes

        self._alive[key] = weakref.ref(storage, release)
        self.now += num_bytes
        self.peak = max(self.peak, self.now)


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` as on CUDA: a kernel keeps query, key, value, result, and a number per query.

    CUDA's flash kernel, which takes no mask, keeps the same. Masks are prepared as for the kernel that takes them:
    numbers, with rows padded to a multiple of 8, before they are spread over heads without a copy. Keys and values
    that groups of heads share are counted as copied for each head, as the kernel that takes masks wants them.
    """
    if enable_gqa:
        group = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(group, -3), value.repeat_interleave(group, -3)
    if attn_mask is not None:
        num_keys = key.shape[-2]
        numbers = attn_mask.to(query.dtype)
        if num_keys % 8:
            numbers = functional.pad(numbers, (0, -num_keys % 8))[..., :num_keys]
        attn_mask = numbers.expand(*query.shape[:-1], num_keys)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    result: Tensor = kernel(query, key, value, attn_mask, needs_grad, dropout_p, is_causal, scale=scale)[0]
    return result


@contextlib.contextmanager
def fake_accelerator() -> Iterator[None]:
    """While entered, tensors have no memory, and `ACCELERATOR` attends as CUDA does."""
    attention = mock.patch.object(functional, "scaled_dot_product_attention", fused_attention)
    autocast = mock.patch.object(torch, "autocast", _no_autocast)
    with FakeTensorMode(allow_non_fake_inputs=True), attention, autocast:
        yield


def _no_autocast(device_type: str, dtype: Any = None, enabled: bool = True) -> Any:
    """Stand for `torch.autocast`, which does not know `ACCELERATOR`; models only switch it off."""
    if enabled:
        raise NotImplementedError(f"autocast on {device_type}")
    return contextlib.nullcontext()
