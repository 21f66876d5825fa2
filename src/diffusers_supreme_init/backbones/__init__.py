"""Backbones: what is different between model families when rows are trained on them."""

from typing import Any

from ..errors import UnsupportedPipelineError
from .base import Backbone, LatentDistribution
from .stable_diffusion import StableDiffusionBackbone

__all__ = ["BACKBONES", "Backbone", "LatentDistribution", "StableDiffusionBackbone", "backbone_for"]

BACKBONES: tuple[type[Backbone], ...] = (StableDiffusionBackbone,)


def backbone_for(pipe: Any) -> Backbone:
    """Return the backbone that trains on `pipe`.

    Raises:
        UnsupportedPipelineError: There is none, or the pipeline lacks a part that training needs.
    """
    for backbone_class in BACKBONES:
        if isinstance(pipe, backbone_class.pipeline_classes):
            return backbone_class(pipe)
    supported = ", ".join(cls.__name__ for backbone in BACKBONES for cls in backbone.pipeline_classes)
    raise UnsupportedPipelineError(
        f"expected a pipeline that can be trained on ({supported}), got {type(pipe).__name__}; "
        "rows trained on one of these load into any pipeline with the same text encoder"
    )
