"""What torchvision, torchmetrics and scipy make of fixed weights and pictures; `test_metrics.py` compares ours.

Run from the root of the repository, it renews ``reference_metrics.json``:

    pip install --no-deps --target <folder> torchvision==0.28.0
    SUPREME_INIT_TORCHVISION=<folder> python tests/reference_metrics.py

The folder keeps torchvision out of the environment, whose torch it may not fit. Where its
compiled operators do not load, two of them are declared without a body; the networks need none.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

REFERENCE = Path(__file__).with_suffix(".json")
VARIABLE = "SUPREME_INIT_TORCHVISION"
CHANNELS = (64, 128, 256, 512, 512)
VGG = {
    **{0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)},
    **{17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)},
}
INCEPTION = {
    "Conv2d_1a_3x3": (3, 32, 3),
    "Conv2d_2a_3x3": (32, 32, 3),
    "Conv2d_2b_3x3": (32, 64, 3),
    "Conv2d_3b_1x1": (64, 80, 1),
    "Conv2d_4a_3x3": (80, 192, 3),
}
EVERY = 997
"""Of a feature map, one value in so many is kept."""


def vgg_weights() -> dict[str, torch.Tensor]:
    """Return a random trunk of VGG16, with torchvision's key names; the legacy generator of numpy never changes."""
    random = np.random.RandomState(0)
    weights = {}
    for index, (inputs, outputs) in VGG.items():
        weights[f"features.{index}.weight"] = _convolution(random, inputs, outputs, 3)
        weights[f"features.{index}.bias"] = _floats(random.standard_normal(outputs) / 10)
    return weights


def head_weights() -> dict[str, torch.Tensor]:
    """Return random heads, not negative as the published ones."""
    random = np.random.RandomState(1)
    return {f"lin{i}.model.1.weight": _floats(random.rand(1, size, 1, 1)) for i, size in enumerate(CHANNELS)}


def inception_weights() -> dict[str, torch.Tensor]:
    """Return the random first layers of Inception v3, with torchvision's key names."""
    random = np.random.RandomState(2)
    weights = {}
    for name, (inputs, outputs, side) in INCEPTION.items():
        weights[f"{name}.conv.weight"] = _convolution(random, inputs, outputs, side)
        weights[f"{name}.bn.weight"] = _floats(random.uniform(0.5, 1.5, outputs))
        weights[f"{name}.bn.bias"] = _floats(random.standard_normal(outputs) / 10)
        weights[f"{name}.bn.running_mean"] = _floats(random.standard_normal(outputs) / 10)
        weights[f"{name}.bn.running_var"] = _floats(random.uniform(0.5, 2, outputs))
    return weights


def reference_pictures() -> torch.Tensor:
    """Return pictures ``(3, 3, 80, 72)`` of different brightness, in [0, 1]."""
    return _floats(np.random.RandomState(3).rand(3, 3, 80, 72) ** np.array([0.5, 1, 2]).reshape(3, 1, 1, 1))


def _convolution(random: np.random.RandomState, inputs: int, outputs: int, side: int) -> torch.Tensor:
    return _floats(random.standard_normal((outputs, inputs, side, side)) * math.sqrt(2 / (inputs * side**2)))


def _floats(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


@torch.no_grad()
def compute() -> dict[str, Any]:
    """Return the values of the other packages: the first two pictures against the third."""
    import scipy
    import torchmetrics
    import torchvision

    *pictures, reference = reference_pictures().split(1)
    features = {layer: [_inception()[layer](2 * x - 1) for x in (*pictures, reference)] for layer in (64, 192)}
    values: dict[str, Any] = {
        "versions": {package.__name__: package.__version__ for package in (scipy, torchmetrics, torchvision)},
        "lpips": {
            heads: [_lpips(heads == "published")(x, reference, normalize=True).item() for x in pictures]
            for heads in ("random", "published")
        },
    }
    for layer, (*others, last) in features.items():
        values[f"features_{layer}"] = {"shape": list(last.shape), "values": last.flatten()[::EVERY].tolist()}
        values[f"sifid_{layer}"] = [_frechet_distance(other, last) for other in others]
    return values


def _lpips(published_heads: bool) -> Any:
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    model = _NoTrainLpips(net="vgg", pnet_rand=True)
    weights = vgg_weights()
    # torchmetrics cuts the trunk into slices: "slice2.5.weight" is "features.5.weight".
    model.net.load_state_dict({key: weights[f"features.{key.partition('.')[2]}"] for key in model.net.state_dict()})
    if not published_heads:
        model.load_state_dict({**model.state_dict(), **head_weights()})
    return model


def _inception() -> dict[int, torch.nn.Module]:
    import torchvision

    model = torchvision.models.inception_v3(weights=None, init_weights=False).eval()
    unknown = model.load_state_dict(inception_weights(), strict=False).unexpected_keys
    assert not unknown, unknown
    first = torch.nn.Sequential(model.Conv2d_1a_3x3, model.Conv2d_2a_3x3, model.Conv2d_2b_3x3)
    second = torch.nn.Sequential(first, torch.nn.MaxPool2d(3, 2), model.Conv2d_3b_1x1, model.Conv2d_4a_3x3)
    return {64: first, 192: second}


def _frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the distance as written in the paper, with scipy's root of a matrix that is not symmetric."""
    import scipy.linalg

    a, b = (features[0].flatten(1).double().numpy() for features in (first, second))
    root = scipy.linalg.sqrtm(np.cov(a) @ np.cov(b)).real
    moved = np.square(a.mean(1) - b.mean(1)).sum()
    return float(moved + np.trace(np.cov(a)) + np.trace(np.cov(b)) - 2 * np.trace(root))


def make_importable(folder: str) -> list[Any]:
    """Make torchvision importable from a folder; what is returned must live as long as it is used."""
    sys.path.insert(0, folder)
    try:
        torch.ops.load_library(str(next(Path(folder, "torchvision").glob("_C*.so"))))
    except (OSError, StopIteration):  # built for another torch
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return [library]
    return []


if __name__ == "__main__":
    torch.set_num_threads(1)
    kept = make_importable(os.environ[VARIABLE])
    text = json.dumps(compute(), indent=1) + "\n"
    if "--print" in sys.argv:
        print(text)
    else:
        REFERENCE.write_text(text)
