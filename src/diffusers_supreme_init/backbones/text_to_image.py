"""Pipelines for other tasks -> a text-to-image pipeline of the same parts, which training and its pictures need."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNetMotionModel


def text_to_image(pipeline_class: type, pipe: Any) -> Any:
    """Return a pipeline of `pipeline_class` with the parts of another; parts that it lacks are None.

    diffusers' `from_pipe` would cast the parts to float32.

    Args:
        pipeline_class: Class of a pipeline that draws from a prompt alone.
        pipe: A pipeline for another task: inpainting, ControlNet, image to image, video.
    """
    parts: dict[str, Any] = dict(pipe.components)
    if isinstance(parts.get("unet"), UNetMotionModel):
        parts["unet"] = without_motion(parts["unet"])
    known: Mapping[str, Any] = {"requires_safety_checker": parts.get("safety_checker") is not None} | pipe.config
    options = {}
    for name, parameter in inspect.signature(pipeline_class).parameters.items():
        if name in parts:
            options[name] = parts[name]
        elif parameter.default is inspect.Parameter.empty:
            options[name] = None
        else:
            options[name] = known.get(name, parameter.default)
    return pipeline_class(**options)


def without_motion(unet: UNetMotionModel) -> UNet2DConditionModel:
    """Return the UNet of pictures that AnimateDiff's UNet was made of; the two share their weights."""
    names = inspect.signature(UNet2DConditionModel).parameters
    config = {name: value for name, value in unet.config.items() if name in names}
    config["attention_head_dim"] = config.pop("num_attention_heads")  # the name that is wrong in old configurations
    for name in ("down_block_types", "up_block_types"):
        config[name] = tuple(kind.replace("Motion", "2D") for kind in config[name])
    with torch.device("meta"):
        plain = UNet2DConditionModel(**config)
    weights = {name: weight for name, weight in unet.state_dict().items() if "motion_modules." not in name}
    plain.load_state_dict(weights, assign=True)
    return plain.eval()
