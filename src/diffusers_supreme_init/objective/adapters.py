"""What users have loaded into a pipeline beside its weights: LoRA, which takes part in training, and IP-Adapter."""

import contextlib
from collections.abc import Iterator
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from peft.tuners.lora import LoraLayer
from torch import nn


def active_loras(pipe: Any) -> dict[str, dict[str, float]]:
    """Return the LoRAs that take part in what a pipeline draws, ``{component: {name: weight}}``."""
    found: dict[str, dict[str, float]] = {}
    for component, part in pipe.components.items():
        for layer in part.modules() if isinstance(part, nn.Module) else ():
            if isinstance(layer, LoraLayer) and not layer.disable_adapters and not layer.merged:
                for name in layer.active_adapters:
                    if name in layer.scaling:
                        weight = layer.scaling[name] * layer.r[name] / layer.lora_alpha[name]
                        found.setdefault(component, {}).setdefault(name, round(weight, 6))
    return found


def has_image_prompts(denoiser: nn.Module) -> bool:
    """Whether an IP-Adapter is loaded, without whose picture the denoiser refuses to work."""
    return isinstance(denoiser, UNet2DConditionModel) and bool(
        denoiser.encoder_hid_proj is not None and denoiser.config.encoder_hid_dim_type == "ip_image_proj"
    )


@contextlib.contextmanager
def image_prompts_set_aside(denoiser: nn.Module) -> Iterator[None]:
    """Take an IP-Adapter out of a UNet for a while: it wants a picture at each step, which training does not have."""
    if not has_image_prompts(denoiser):
        yield
        return
    unet: Any = denoiser
    projection, processors = unet.encoder_hid_proj, unet.attn_processors
    plain = {name: AttnProcessor2_0() if _reads_pictures(one) else one for name, one in processors.items()}
    try:
        unet.encoder_hid_proj = None
        unet.set_attn_processor(plain)
        yield
    finally:
        unet.set_attn_processor(processors)
        unet.encoder_hid_proj = projection


def _reads_pictures(processor: object) -> bool:
    return "IPAdapter" in type(processor).__name__
