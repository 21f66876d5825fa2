"""Backbones: the differences between model families when rows are trained on them."""

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, UnsupportedPipelineError, shown
from .aura_flow import AuraFlowBackbone
from .base import Backbone, LatentDistribution, is_clip
from .chat import ChatBackbone
from .chroma import ChromaBackbone
from .cogview_4 import CogView4Backbone
from .defaults import FamilyDefaults
from .diffusion import DiffusionBackbone
from .ernie_image import ErnieImageBackbone
from .flow import FlowBackbone
from .flux import FluxBackbone
from .flux_2 import Flux2Backbone, Flux2KleinBackbone
from .hidream import HiDreamBackbone
from .hunyuan_dit import HunyuanDiTBackbone
from .ideogram_4 import Ideogram4Backbone
from .kolors import KolorsBackbone
from .krea_2 import Krea2Backbone
from .lumina_2 import Lumina2Backbone
from .pixart import PixArtAlphaBackbone, PixArtSigmaBackbone
from .qwen_image import QwenImageBackbone
from .qwen_image_21 import QwenImage21Backbone
from .sana import SanaBackbone
from .stable_diffusion import StableDiffusionBackbone
from .stable_diffusion_3 import StableDiffusion3Backbone
from .stable_diffusion_xl import StableDiffusionXLBackbone
from .z_image import ZImageBackbone

__all__ = [
    "BACKBONES",
    "Backbone",
    "ChatBackbone",
    "DiffusionBackbone",
    "FamilyDefaults",
    "FlowBackbone",
    "LatentDistribution",
    "backbone_for",
    "family_defaults",
    "is_clip",
    "register_backbone",
]

BACKBONES: list[type[Backbone]] = [
    StableDiffusionBackbone,
    StableDiffusionXLBackbone,
    StableDiffusion3Backbone,
    FluxBackbone,
    PixArtSigmaBackbone,
    SanaBackbone,
    ZImageBackbone,
    QwenImageBackbone,
    QwenImage21Backbone,
    Flux2Backbone,
    Flux2KleinBackbone,
    Krea2Backbone,
    ErnieImageBackbone,
    Ideogram4Backbone,
    ChromaBackbone,
    Lumina2Backbone,
    PixArtAlphaBackbone,
    CogView4Backbone,
    KolorsBackbone,
    HunyuanDiTBackbone,
    HiDreamBackbone,
    AuraFlowBackbone,
]


def register_backbone(backbone_class: type[Backbone]) -> type[Backbone]:
    """Add a model family to those the trainer supports; also usable as a class decorator.

    See ``docs/backbones.md``. Registering the same class twice is harmless.

    Args:
        backbone_class: A concrete subclass of `Backbone` with `pipeline_classes`.

    Returns:
        `backbone_class`, unchanged.

    Raises:
        ConfigError: The class is not a `Backbone`, lacks a method, or shares a pipeline class with another family.
    """
    is_backbone = isinstance(backbone_class, type) and issubclass(backbone_class, Backbone)
    if not is_backbone or not getattr(backbone_class, "pipeline_classes", ()):
        raise ConfigError(
            f"register_backbone: expected a subclass of Backbone with pipeline_classes, got {shown(backbone_class)}"
        )
    if lacking := sorted(getattr(backbone_class, "__abstractmethods__", ())):
        raise ConfigError(f"register_backbone: {backbone_class.__name__} lacks {', '.join(lacking)}")
    if backbone_class in BACKBONES:
        return backbone_class
    for known in BACKBONES:
        if common := set(known.pipeline_classes) & set(backbone_class.pipeline_classes):
            names = ", ".join(sorted(cls.__name__ for cls in common))
            raise ConfigError(f"register_backbone: expected new pipeline classes, got {names} of {known.__name__}")
    BACKBONES.append(backbone_class)
    return backbone_class


def family_defaults(pipeline_class: str) -> FamilyDefaults | None:
    """Return the defaults for a pipeline class name, e.g. ``"FluxPipeline"``; None if no family trains on it."""
    of_class = {cls.__name__: backbone.defaults for backbone in BACKBONES for cls in backbone.pipeline_classes}
    return of_class.get(pipeline_class)


def backbone_for(pipe: Any, train_text_encoders: Sequence[str] = ()) -> Backbone:
    """Return the backbone that trains on `pipe`.

    Args:
        pipe: A pipeline.
        train_text_encoders: Components whose rows are trained; empty: the family's default.

    Raises:
        UnsupportedPipelineError: No backbone trains on `pipe`, or `pipe` lacks a component that training needs.
        ConfigError: `train_text_encoders` names something other than text encoders of the pipeline.
    """
    known = {cls: backbone for backbone in BACKBONES for cls in backbone.pipeline_classes}
    for cls in type(pipe).__mro__:
        if cls in known:
            return known[cls](pipe, train_text_encoders)
        if cls.__module__.startswith("diffusers.pipelines"):
            # diffusers derives pipelines for other tasks from those we support, so its base classes do not count.
            break
    names = [backbone.pipeline_classes[0].__name__ for backbone in BACKBONES]
    raise UnsupportedPipelineError(
        f"expected a pipeline that can be trained on ({', '.join(names)}, or one for another task with the parts of "
        f"these), got {type(pipe).__name__}; rows trained on one of these load into any pipeline with the same text "
        "encoder, and register_backbone() takes a Backbone for another family (docs/backbones.md)"
    )
