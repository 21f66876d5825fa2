"""Every tiny pipeline whose text encoder is a language model."""

import tiny_gemma_families
import tiny_language_model_videos
import tiny_llama_families
import tiny_qwen_families
import tiny_recent_language_families
import tiny_recent_video_families
from tiny_families import Family

FAMILIES: list[Family] = [
    *tiny_qwen_families.FAMILIES,
    *tiny_gemma_families.FAMILIES,
    *tiny_llama_families.FAMILIES,
    *tiny_language_model_videos.FAMILIES,
    *tiny_recent_language_families.FAMILIES,
    *tiny_recent_video_families.FAMILIES,
]
