"""LPIPS: the distance between two pictures in the layers of VGG16."""

import itertools
import os
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from .base import Pictures
from .distances import mean_distances
from .inputs import to_tensors
from .weights import find_heads, load_weights, read_weights, select_weights

WEIGHTS_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
HEADS_SOURCE = "lpips_models/vgg.pth of torchmetrics, or weights/v0.1/vgg.pth of lpips"
MIN_SIDE = 16
"""In pixels; four poolings reduce it to one position."""

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of the convolutions between poolings; each stage's last activations are compared."""
_MAX_PIXELS = 4 * 512 * 512
"""Per batch; the activations of four pictures of 512 x 512 take 0.5 GB."""


class LPIPS:
    """Learned perceptual distance (Zhang et al. 2018, eq. 1) with VGG16, version 0.1; 0 for equal pictures.

    Activations after relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 are scaled to unit length over channels. Their
    squared differences, weighted by learned heads, are averaged over positions and summed over layers. Values are at
    least 0, since no weight of the published heads is negative, and rarely above 1. The network is torchvision's VGG16
    for ImageNet.

    ```python
    LPIPS().compare(samples, [photo])       # (num_pictures,)
    ```

    Pictures are compared at their own size, at least 16 pixels a side; references are cropped around their centre and
    resized to it, as training does with its pictures. On CUDA, torch may round the inputs of convolutions to 10 bits
    (TF32), so values may differ from those of a CPU in the third digit.

    Attributes:
        name: ``"lpips_vgg"``.
        label: ``"LPIPS (VGG16)"``.
        higher_is_better: False.
        device: Device of the network.
    """

    name = "lpips_vgg"
    label = "LPIPS (VGG16)"
    higher_is_better = False

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        heads: str | os.PathLike[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Load the weights.

        Args:
            weights: File of VGG16 with torchvision's key names (``features.0.weight``), ``.pth`` or ``.safetensors``;
                None: the published file (553 MB) from torch's cache, downloaded once with its hash checked.
            heads: File with ``lin0.model.1.weight`` ... as published; None: from the package data of torchmetrics.
            device: Device of the network.

        Raises:
            MetricError: A file is missing, damaged or of another model, or cannot be downloaded.
        """
        self.device = torch.device(device)
        heads = find_heads() if heads is None else heads  # fail before 553 MB are downloaded
        where = f"LPIPS heads {os.fspath(heads)!r}"
        found = select_weights(
            read_weights(heads, kind="LPIPS heads"), _head_shapes(), where=where, source=HEADS_SOURCE
        )
        self._heads = [head.to(self.device) for head in found.values()]
        trunk = load_weights(weights, WEIGHTS_URL, _trunk_shapes(), kind="LPIPS weights")
        self._trunk = {key: tensor.to(self.device) for key, tensor in trunk.items()}
        self._shift = torch.tensor([-0.030, -0.088, -0.188], device=self.device).view(3, 1, 1)
        self._scale = torch.tensor([0.458, 0.448, 0.450], device=self.device).view(3, 1, 1)

    def compare(self, pictures: Pictures, references: Pictures) -> Tensor:
        """Return the mean distance of each picture to the references; see `FidelityMetric.compare`."""
        return mean_distances(
            to_tensors(pictures, "pictures", min_side=MIN_SIDE),
            to_tensors(references, "references"),
            self._activations,
            self._distance,
            max_pixels=_MAX_PIXELS,
        )

    def _activations(self, pixels: Tensor) -> list[Tensor]:
        """Return each stage's last activations, scaled to unit length over channels."""
        hidden = (pixels.to(self.device) * 2 - 1 - self._shift) / self._scale
        activations = []
        for stage, layers in enumerate(_layers()):
            hidden = F.max_pool2d(hidden, 2) if stage else hidden
            for layer in layers:
                weight, bias = self._trunk[f"features.{layer}.weight"], self._trunk[f"features.{layer}.bias"]
                hidden = F.relu(F.conv2d(hidden, weight, bias, padding=1))
            activations.append(hidden / (hidden.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return activations

    def _distance(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        layers = zip(self._heads, first, second, strict=True)
        means = [(head * (a - b).square()).sum(1).mean((1, 2)).cpu().double() for head, a, b in layers]
        return torch.stack(means).sum(0)


def _layers() -> Iterator[list[int]]:
    """Yield each stage's convolutions as indices of torchvision's `features`, which also counts ReLUs and poolings."""
    index = 0
    for channels in _STAGES:
        yield [index + 2 * i for i in range(len(channels))]
        index += 2 * len(channels) + 1


def _trunk_shapes() -> dict[str, tuple[int, ...]]:
    indices = list(itertools.chain.from_iterable(_layers()))
    channels = [3, *itertools.chain.from_iterable(_STAGES)]
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (inputs, outputs) in zip(indices, itertools.pairwise(channels), strict=True):
        shapes |= {f"features.{index}.weight": (outputs, inputs, 3, 3), f"features.{index}.bias": (outputs,)}
    return shapes


def _head_shapes() -> dict[str, tuple[int, ...]]:
    return {f"lin{stage}.model.1.weight": (1, channels[-1], 1, 1) for stage, channels in enumerate(_STAGES)}
