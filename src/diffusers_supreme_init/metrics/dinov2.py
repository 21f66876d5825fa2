"""DINOv2-I: the cosine between embeddings of pictures, by a model that was trained without texts."""

import torch
from torch import Tensor

from .base import Pictures
from .embeddings import embed, load_model, mean_cosines
from .inputs import to_tensors

DEFAULT_DINOV2 = "facebook/dinov2-small"
_MODEL_TYPES = ("dinov2", "dinov2_with_registers")


class DINOv2Similarity:
    """DINOv2-I: the cosine of two pictures' DINOv2 embeddings (the [CLS] token), in [-1, 1].

    The default is ViT-S/14, as in DreamBench++ (Peng et al. 2024); DreamBooth uses DINO version 1, which gives other
    values. The model's image processor resizes the shorter side to 256 pixels and crops the central 224, at 8 bits a
    channel.

    Attributes:
        name: ``"dinov2_i"``.
        label: ``"DINOv2-I"``.
        higher_is_better: True.
        model: The model, frozen.
        image_processor: Resizes and crops with pillow.
    """

    name = "dinov2_i"
    label = "DINOv2-I"
    higher_is_better = True

    def __init__(self, model: str = DEFAULT_DINOV2, *, device: torch.device | str = "cpu") -> None:
        """Load a model.

        Args:
            model: Hub id (``"user/name"`` or ``"user/name@revision"``) or folder of a DINOv2 model.
            device: Device of the model.

        Raises:
            MetricError: The model cannot be loaded, lacks weights, or is not a DINOv2 model.
        """
        self.model, self.image_processor = load_model(model, _MODEL_TYPES, "DINOv2 model", device)

    def compare(self, pictures: Pictures, references: Pictures) -> Tensor:
        """Return the mean cosine of each picture with the references; see `FidelityMetric.compare`."""
        return mean_cosines(
            self._embed(to_tensors(pictures, "pictures")), self._embed(to_tensors(references, "references"))
        )

    def _embed(self, pictures: list[Tensor]) -> Tensor:
        return embed(
            pictures,
            self.image_processor,
            lambda pixel_values: self.model(pixel_values=pixel_values).last_hidden_state[:, 0],
            self.model.device,
        )
