"""Tiny pipelines for other tasks (inpainting, ControlNet, adapters, video), with the parts of a text-to-image one."""

import inspect
import typing
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import MotionAdapter, MultiAdapter, T2IAdapter, UNet2DConditionModel
from diffusers.models.controlnets.controlnet_z_image import ZImageControlNetModel

from .families import quiet
from .language_tokenizers import qwen_processor
from .text import seeded

Config = Mapping[str, Any]

_PIXELS: Config = {"conditioning_embedding_out_channels": (4, 8)}  # the picture is as small as its latents then
_CONTROLNETS: Mapping[str, Config] = {
    "ControlNetModel": _PIXELS,
    "ControlNetUnionModel": {**_PIXELS, "num_trans_channel": 8, "num_trans_head": 2, "num_proj_channel": 8},
    "HunyuanDiT2DControlNetModel": {"transformer_num_layers": 2},
    "SD3ControlNetModel": {"num_layers": 1},
    "SparseControlNetModel": {
        **_PIXELS,
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "motion_num_attention_heads": 2,
    },
}
"""What is not as in the configuration of the denoiser."""

_OPTIONS: Mapping[str, Config] = {
    "PixArtSigmaPAGPipeline": {"pag_applied_layers": "blocks.0"},  # tiny transformers lack that of the default
}


def for_another_task(pipeline_class: type, pipe: Any, several: bool = False, **parts: Any) -> Any:
    """Return a pipeline of another class that shares the parts of a text-to-image pipeline.

    Args:
        pipeline_class: Class of the new pipeline.
        pipe: A tiny pipeline.
        several: Whether it has two ControlNets or adapters rather than one.
        parts: Parts that stand in for those of `pipe`.
    """
    shared = {**pipe.components, **parts}
    options: dict[str, Any] = dict(_OPTIONS.get(pipeline_class.__name__, {}))
    for name, parameter in list(inspect.signature(pipeline_class.__init__).parameters.items())[1:]:
        if name in shared:
            options[name] = shared[name]
        elif name in options:
            continue
        elif name == "controlnet":
            models = [_controlnet(_first_class(parameter.annotation), shared, seed) for seed in range(1 + several)]
            options[name] = models if several else models[0]
        elif name == "adapter":
            adapters = [_t2i_adapter(shared["unet"], seed) for seed in range(1 + several)]
            options[name] = MultiAdapter(adapters) if several else adapters[0]
        elif name == "motion_adapter":
            options[name] = _motion_adapter(shared["unet"])
        elif name == "processor":
            options[name] = qwen_processor(parameter.annotation)
            options[name].tokenizer = shared["tokenizer"]
        elif name == "requires_safety_checker":
            options[name] = False
        elif parameter.default is parameter.empty:
            options[name] = None
    return quiet(pipeline_class(**options))


def takes_several(pipeline_class: type) -> bool:
    """Whether a pipeline class takes a list of ControlNets or adapters."""
    parameters = inspect.signature(pipeline_class.__init__).parameters
    models = [parameters[name].annotation for name in ("controlnet", "adapter") if name in parameters]
    return any(typing.get_origin(choice) is list for model in models for choice in typing.get_args(model))


def _first_class(annotation: Any) -> type:
    return next(iter(typing.get_args(annotation)), annotation)


def _controlnet(model_class: type, parts: Config, seed: int) -> torch.nn.Module:
    if model_class is ZImageControlNetModel:
        return z_image_controlnet()
    names = inspect.signature(model_class).parameters
    denoiser = parts.get("unet") or parts["transformer"]
    config = {name: value for name, value in denoiser.config.items() if name in names}
    return seeded(lambda: model_class(**(config | _CONTROLNETS.get(model_class.__name__, {}))), seed)


def z_image_controlnet() -> ZImageControlNetModel:
    """Return a ControlNet for the tiny Z-Image, whose layers it reads."""
    sizes = {"dim": 32, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
    options = {"control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 4}
    return seeded(lambda: ZImageControlNetModel(**sizes, **options))


def _t2i_adapter(unet: UNet2DConditionModel, seed: int) -> T2IAdapter:
    channels = unet.config.block_out_channels
    return seeded(lambda: T2IAdapter(channels=channels, num_res_blocks=1, downscale_factor=2), seed)


def _motion_adapter(unet: UNet2DConditionModel) -> MotionAdapter:
    return seeded(
        lambda: MotionAdapter(
            block_out_channels=unet.config.block_out_channels,
            motion_layers_per_block=unet.config.layers_per_block,
            motion_norm_num_groups=2,
            motion_num_attention_heads=2,
        )
    )
