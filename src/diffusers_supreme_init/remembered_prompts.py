"""Text encoders that are not trained: what they make of each prompt is computed once and remembered.

A T5 is the largest part of a pipeline after its denoiser, sometimes before it. It has to be on the accelerator only
while the prompts of a run are read for the first time.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from .backbones import Backbone, is_clip
from .frozen import on_device
from .text_pairs import TextPair


@contextlib.contextmanager
def remembered_prompts(
    backbone: Backbone, pairs: Sequence[TextPair], prompts: Iterable[str], device: torch.device
) -> Iterator[None]:
    """Let text encoders read prompts once, each at a time on a device; while entered, their outputs come from memory.

    Args:
        backbone: Encodes prompts through the pipeline's own code.
        pairs: Text encoders without gradient; CLIPs among them are left alone.
        prompts: What will be asked for. Others are read where the encoder is, and remembered too.
        device: Where they are read.
    """
    large = [pair for pair in pairs if not is_clip(pair)]
    if not large:
        yield
        return
    with contextlib.ExitStack() as stack:
        for pair in large:
            stack.enter_context(_remembering(pair.encoder))
        with contextlib.ExitStack() as reading, torch.no_grad():
            for pair in large:
                reading.enter_context(on_device(pair.encoder, device))
            for prompt in dict.fromkeys(prompts):
                backbone.encode_prompts([prompt])
        yield


@contextlib.contextmanager
def _remembering(encoder: Any) -> Iterator[None]:
    """Replace an encoder's forward pass by a look-up, one prompt at a time, so that batches make no difference."""
    forward, known = encoder.forward, {}
    of_user = vars(encoder).get("forward")  # somebody may have replaced it before us

    def look_up(input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        made = []
        for index in range(len(input_ids)):
            ids = input_ids[index : index + 1]
            mask = None if attention_mask is None else attention_mask[index : index + 1]
            key = (tuple(ids[0].tolist()), None if mask is None else tuple(mask[0].tolist()))
            if key not in known:
                home = encoder.get_input_embeddings().weight.device
                given = {} if mask is None else {"attention_mask": mask.to(home)}
                with torch.no_grad():
                    known[key] = forward(ids.to(home), **given)[0].cpu()
            made.append(known[key])
        return BaseModelOutput(last_hidden_state=torch.cat(made).to(input_ids.device))

    encoder.forward = look_up
    try:
        yield
    finally:
        del encoder.forward
        if of_user is not None:
            encoder.forward = of_user
