"""SIFID: the distance between two pictures' patches in the first layers of Inception v3."""

import os

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from ..errors import MetricError
from .base import Pictures
from .distances import mean_distances
from .frechet import Gaussian, fit_gaussian, frechet_distance
from .inputs import to_tensors
from .weights import load_weights

WEIGHTS_URL = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"
MIN_SIDES = {64: 9, 192: 23}
"""Layer -> pixels a side that leave 2 x 2 positions, the fewest for which there is a covariance."""

_BLOCKS = {
    "Conv2d_1a_3x3": (3, 32, 3),
    "Conv2d_2a_3x3": (32, 32, 3),
    "Conv2d_2b_3x3": (32, 64, 3),
    "Conv2d_3b_1x1": (64, 80, 1),
    "Conv2d_4a_3x3": (80, 192, 3),
}
"""Name -> input channels, output channels, side of the kernel."""
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
_MAX_PIXELS = 8 * 512 * 512
"""Per batch; the activations of eight pictures of 512 x 512 take 0.3 GB."""


class SIFID:
    """Single-image Fréchet distance (SinGAN, Shaham et al. 2019, section 4); 0 for equal pictures, no upper bound.

    A Gaussian is fitted to one picture's features at all positions. SIFID is the distance between two pictures'
    Gaussians, so it compares patches wherever they are. The network is torchvision's Inception v3 for ImageNet, not
    the one of FID. Values are small (0.09 in SinGAN's table) and comparable only at the same layer and size.

    ```python
    SIFID().compare(samples, [photo])       # (num_pictures,)
    ```

    Pictures are compared at their own size, at least 9 (layer 64) or 23 (layer 192) pixels a side. Below 23 (64) or 71
    (192) pixels they have fewer positions than features, and the Gaussian says little. References are cropped around
    their centre and resized to that size, as in training. SinGAN's code resizes nothing; for pictures of equal size,
    which it compares, both agree. On CUDA, torch may round the inputs of convolutions to 10 bits (TF32), so values may
    differ from those of a CPU in the third digit.

    Attributes:
        name: ``"sifid_192"`` or ``"sifid_64"``.
        label: ``"SIFID (layer 192)"`` or ``"SIFID (layer 64)"``.
        higher_is_better: False.
        layer: Number of features: 192 before the second pooling, as in the paper; 64 before the first, as in the
            released code, with which most published values were computed.
        device: Device of the network.
    """

    higher_is_better = False

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        layer: int = 192,
        device: torch.device | str = "cpu",
    ) -> None:
        """Load the weights.

        Args:
            weights: File of Inception v3 with torchvision's key names (``Conv2d_1a_3x3.conv.weight``), ``.pth`` or
                ``.safetensors``; None: the published file (109 MB) from torch's cache, downloaded once with its hash
                checked.
            layer: 192 or 64.
            device: Device of the network.

        Raises:
            MetricError: There is no such layer, or the file is missing, damaged or of another model, or cannot be
                downloaded.
        """
        if layer not in MIN_SIDES:
            raise MetricError(f"layer: expected 192 (as in the paper) or 64 (as in its code), got {layer!r}")
        self.layer = layer
        self.name = f"sifid_{layer}"
        self.label = f"SIFID (layer {layer})"
        self.device = torch.device(device)
        stem = load_weights(weights, WEIGHTS_URL, _shapes(), kind="SIFID weights")
        self._stem = {key: tensor.to(self.device) for key, tensor in stem.items()}

    def compare(self, pictures: Pictures, references: Pictures) -> Tensor:
        """Return the mean distance of each picture to the references; see `FidelityMetric.compare`."""
        return mean_distances(
            to_tensors(pictures, "pictures", min_side=MIN_SIDES[self.layer]),
            to_tensors(references, "references"),
            self._patches,
            frechet_distance,
            max_pixels=_MAX_PIXELS,
        )

    def _patches(self, pixels: Tensor) -> Gaussian:
        return fit_gaussian(self._features(pixels).flatten(2).mT)

    def _features(self, pixels: Tensor) -> Tensor:
        """Return features ``(batch, layer, height', width')`` of pictures in [0, 1]."""
        hidden = self._block("Conv2d_1a_3x3", pixels.to(self.device) * 2 - 1, stride=2)
        hidden = self._block("Conv2d_2a_3x3", hidden)
        hidden = self._block("Conv2d_2b_3x3", hidden, padding=1)
        if self.layer == 64:
            return hidden
        hidden = self._block("Conv2d_3b_1x1", F.max_pool2d(hidden, 3, stride=2))
        return self._block("Conv2d_4a_3x3", hidden)

    def _block(self, name: str, hidden: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
        hidden = F.conv2d(hidden, self._stem[f"{name}.conv.weight"], stride=stride, padding=padding)
        scale, shift, mean, variance = (self._stem[f"{name}.bn.{part}"] for part in _NORM_PARTS)
        return F.relu(F.batch_norm(hidden, mean, variance, scale, shift, eps=1e-3))


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs, side) in _BLOCKS.items():
        shapes[f"{name}.conv.weight"] = (outputs, inputs, side, side)
        shapes |= {f"{name}.bn.{part}": (outputs,) for part in _NORM_PARTS}
    return shapes
