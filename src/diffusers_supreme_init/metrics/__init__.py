"""Metrics: how close pictures are to their references and to their prompts."""

from .base import FidelityMetric, Picture, Pictures, PromptMetric
from .clip import CLIPEmbedder, CLIPImageSimilarity, CLIPTextSimilarity
from .defaults import default_metrics
from .denoising import denoising_mse
from .dinov2 import DINOv2Similarity
from .frechet import Gaussian, fit_gaussian, frechet_distance
from .intervals import NUM_RESAMPLES, Interval, interval_of, mean_interval, resampled_means, steps_to_reach
from .lpips import LPIPS
from .sifid import SIFID

__all__ = [
    "CLIPEmbedder",
    "CLIPImageSimilarity",
    "CLIPTextSimilarity",
    "DINOv2Similarity",
    "FidelityMetric",
    "Gaussian",
    "Interval",
    "LPIPS",
    "NUM_RESAMPLES",
    "Picture",
    "Pictures",
    "PromptMetric",
    "SIFID",
    "default_metrics",
    "denoising_mse",
    "fit_gaussian",
    "frechet_distance",
    "interval_of",
    "mean_interval",
    "resampled_means",
    "steps_to_reach",
]
