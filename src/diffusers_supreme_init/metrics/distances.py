"""Pictures and references -> mean distance of each picture, at one size, a few pictures at a time."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .inputs import fit, group_by_size

Features = TypeVar("Features")


@torch.no_grad()
def mean_distances(
    pictures: Sequence[Tensor],
    references: Sequence[Tensor],
    features_of: Callable[[Tensor], Features],
    distance: Callable[[Features, Features], Tensor],
    *,
    max_pixels: int,
) -> Tensor:
    """Return the mean distance of each picture to the references.

    Each reference is cropped and resized to the picture's size. The receptive field of a network has a fixed size, so
    the patches of a photo of 12 megapixels differ from those of the same scene at 512 x 512.

    Args:
        pictures: ``(3, height, width)`` each, in [0, 1].
        references: Likewise.
        features_of: Takes ``(batch, 3, height, width)`` and returns their features.
        distance: Takes the features of a batch of pictures and those of one reference, returns ``(batch,)``.
        max_pixels: Largest number of pixels in a batch.

    Returns:
        ``(num_pictures,)``, float64, on the CPU.
    """
    totals = torch.zeros(len(pictures), dtype=torch.float64)
    for (height, width), batches in group_by_size(pictures, max_pixels):
        fitted = [fit(reference, height, width) for reference in references]
        for indices in batches:
            features = features_of(torch.stack([pictures[index] for index in indices]))
            for reference in fitted:
                totals[indices] += distance(features, features_of(reference[None])).cpu().double()
    return totals / len(references)
