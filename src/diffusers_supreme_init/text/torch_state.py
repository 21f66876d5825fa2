"""The state of torch in which rows are made and trained."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def own_torch_state() -> Iterator[None]:
    """Record gradients, make tensors on the CPU in float32, and do not autocast, whatever the caller has switched.

    The caller may have set ``no_grad``, ``inference_mode``, a default device, a default dtype or ``autocast``. All are
    as before at the end. It is also a decorator.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":  # the context would slow down every operation
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield
