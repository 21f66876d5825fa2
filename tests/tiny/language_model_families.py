"""Every tiny pipeline whose text encoder is a language model."""

from . import (
    gemma_families,
    glm_image_families,
    language_video_families,
    llama_families,
    qwen_families,
    recent_language_families,
    recent_video_families,
)
from .families import Family

FAMILIES: list[Family] = [
    *qwen_families.FAMILIES,
    *gemma_families.FAMILIES,
    *llama_families.FAMILIES,
    *glm_image_families.FAMILIES,
    *language_video_families.FAMILIES,
    *recent_language_families.FAMILIES,
    *recent_video_families.FAMILIES,
]
