"""The two kinds of metrics: pictures against references, and pictures against texts."""

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
        name: Key in a table of results, e.g. ``"lpips_vgg"``; includes the variant that values depend on.
        label: For the axis of a plot, e.g. ``"LPIPS (VGG16)"``.
        higher_is_better: True for a similarity, False for a distance.
    """

    name: str
    label: str
    higher_is_better: bool

    def compare(self, pictures: Pictures, references: Pictures) -> Tensor:
        """Compare each picture with every reference.

        Args:
            pictures: Generated pictures.
            references: Pictures they should resemble, in any order.

        Returns:
            Each picture's mean over the references, ``(num_pictures,)``, float64, on the CPU.

        Raises:
            MetricError: A picture is of the wrong type, too small or has values outside [0, 1]; or there is none.
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
            pictures: Generated pictures.
            texts: One text per picture. The metric's model does not know placeholder tokens: write the class word in
                their place.

        Returns:
            ``(num_pictures,)``, float64, on the CPU.

        Raises:
            MetricError: As in `FidelityMetric.compare`, or the number of texts differs from that of pictures.
        """
        ...
