"""What a metric is: pictures against references, or pictures against what they were asked to show."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from PIL import Image
from torch import Tensor

Picture: TypeAlias = Image.Image | Tensor
"""A PIL image, or floats ``(3, height, width)`` or ``(batch, 3, height, width)`` in [0, 1]."""
Pictures: TypeAlias = Sequence[Picture] | Tensor
"""Several pictures, of equal or different sizes."""


@runtime_checkable
class FidelityMetric(Protocol):
    """Compares pictures with pictures.

    Attributes:
        name: Key in a table of results, e.g. ``"lpips_vgg"``, with what values depend on beside weights.
        label: For the axis of a plot, e.g. ``"LPIPS (VGG16)"``.
        higher_is_better: True for a similarity, False for a distance.
    """

    name: str
    label: str
    higher_is_better: bool

    def compare(self, pictures: Pictures, references: Pictures) -> Tensor:
        """Compare each picture with every reference.

        Args:
            pictures: What was made.
            references: What it should look like, in any order.

        Returns:
            Each picture's mean over the references, ``(num_pictures,)``, float64, on the CPU.

        Raises:
            MetricError: A picture is none, is too small, or has values outside [0, 1]; or there is none.
        """
        ...


@runtime_checkable
class PromptMetric(Protocol):
    """Compares pictures with texts.

    Attributes:
        name: Key in a table of results, e.g. ``"clip_t"``.
        label: For the axis of a plot, e.g. ``"CLIP-T"``.
        higher_is_better: True for a similarity, False for a distance.
    """

    name: str
    label: str
    higher_is_better: bool

    def score(self, pictures: Pictures, texts: Sequence[str]) -> Tensor:
        """Compare each picture with its own text.

        Args:
            pictures: What was made.
            texts: What each of them should show: one text per picture, without placeholder tokens, which the metric's
                model does not know; write the class word in their place.

        Returns:
            ``(num_pictures,)``, float64, on the CPU.

        Raises:
            MetricError: As in `FidelityMetric.compare`, or there is not one text per picture.
        """
        ...
