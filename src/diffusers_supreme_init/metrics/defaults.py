"""The metrics that `evaluate` uses by default."""

import torch

from .base import FidelityMetric, PromptMetric
from .clip import CLIPEmbedder, CLIPImageSimilarity, CLIPTextSimilarity
from .dinov2 import DINOv2Similarity
from .lpips import LPIPS
from .sifid import SIFID


def default_metrics(*, device: torch.device | str = "cpu") -> list[FidelityMetric | PromptMetric]:
    """Load LPIPS, SIFID, CLIP-I, DINOv2-I and CLIP-T with published weights, downloaded unless they are cached.

    Args:
        device: Device of the metrics' models.

    Raises:
        MetricError: Weights are missing or cannot be downloaded.
    """
    clip = CLIPEmbedder(device=device)
    return [
        LPIPS(device=device),
        SIFID(device=device),
        CLIPImageSimilarity(clip),
        DINOv2Similarity(device=device),
        CLIPTextSimilarity(clip),
    ]
