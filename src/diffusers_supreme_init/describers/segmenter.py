"""Click -> mask, by any Segment Anything model of transformers; torchvision is never needed.

Pictures are prepared here, once for all families, since half of transformers' image processors need torchvision.
Pixels and masks agree with those of these processors where they run.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..errors import DescriberLoadError
from .masks import Segmentation, without_specks
from .model_loading import answering, explained, load_part, place
from .region import Region, check_inside

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation of SAM 3's pixels."""
# The first generation keeps the aspect ratio and pads; later ones squash the picture into a square.
_KEEPS_ASPECT = frozenset({"sam", "sam_hq"})


class Segmenter:
    """Any `AutoModelForMaskGeneration` that takes clicks: SAM, SAM-HQ, SAM 2 and 2.1, the SAM 3 tracker.

    The embedding of the last picture is kept, so a second click on it takes almost no time.

    Raises:
        DescriberError: The model cannot be loaded, or does not take clicks.
    """

    def __init__(
        self, model: str, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Load a model.

        Args:
            model: Hub id (``"user/name"`` or ``"user/name@revision"``) or folder.
            device: Device of the model; None: the GPU if there is one.
            dtype: Precision of the weights.
        """
        from transformers import AutoModelForMaskGeneration

        self.name = model
        with explained(model, "segmenter"):
            self.model = place(load_part(AutoModelForMaskGeneration, model, dtype=dtype), device)
        if not hasattr(self.model, "get_image_embeddings") or not hasattr(self.model.config, "prompt_encoder_config"):
            raise DescriberLoadError(
                f"segmenter: expected a model that takes clicks (SAM, SAM 2, ...), got {model!r}, which is "
                f"{self.model.config.model_type!r}"
            )
        model_type = self.model.config.model_type
        size = self.model.config.prompt_encoder_config.image_size
        self._side: int = size if isinstance(size, int) else size[0]
        self._keeps_aspect = model_type in _KEEPS_ASPECT
        self._mean, self._std = HALF if model_type.startswith("sam3") else _IMAGENET
        self._embedded: tuple[bytes, Any] | None = None

    @torch.no_grad()
    def segment(self, image: Image.Image, region: Region) -> Segmentation:
        """Return the mask of the object that points or a box select.

        A single click is ambiguous: the model returns three masks (a part, the whole, ...), and the one with the
        highest score is taken. For more clicks or a box it returns one mask.

        Args:
            image: RGB.
            region: Points and box in pixels of `image`.

        Raises:
            RegionError: A point or the box lies outside of the picture.
            DescriberError: The model fails.
        """
        check_inside(region, image.size)
        with answering(self.name, "segmenter"):
            return self._segment(image, region)

    def _segment(self, image: Image.Image, region: Region) -> Segmentation:
        width, height = self._scaled_size(image)
        device = self.model.device  # coordinates stay float32: a bfloat16 click misses by up to 4 pixels
        scale = torch.tensor([width / image.width, height / image.height])
        points = [*region.points, *region.negative_points]
        prompts: dict[str, Tensor] = {}
        if points:
            labels = [1] * len(region.points) + [0] * len(region.negative_points)
            prompts["input_points"] = (torch.tensor(points) * scale)[None, None].to(device)
            prompts["input_labels"] = torch.tensor(labels)[None, None].to(device)
        if region.box is not None:
            prompts["input_boxes"] = (torch.tensor(region.box) * scale.repeat(2))[None, None].to(device)
        is_ambiguous = region.box is None and len(points) == 1
        output = self.model(**self._embed(image), **prompts, multimask_output=is_ambiguous)
        logits, scores = output.pred_masks[0].float(), output.iou_scores[0, 0].float()
        best = int(scores.argmax())
        mask = self._to_picture(logits[:, best : best + 1], image)
        return Segmentation(without_specks((mask > 0).cpu().numpy(), region.points), float(scores[best]))

    def _embed(self, image: Image.Image) -> dict[str, Any]:
        # Compared by content: the same picture may have been decoded again since the last click.
        digest = hashlib.blake2b(repr(image.size).encode() + image.tobytes()).digest()
        if self._embedded is None or self._embedded[0] != digest:
            pixels = self._pixel_values(image).to(self.model.device, self.model.dtype)
            embeddings = self.model.get_image_embeddings(pixels)
            if isinstance(embeddings, tuple):  # SAM-HQ's mask decoder refines edges with a second output
                inputs = {"image_embeddings": embeddings[0], "intermediate_embeddings": embeddings[1]}
            else:
                inputs = {"image_embeddings": embeddings}
            self._embedded = digest, inputs
        return self._embedded[1]

    def _scaled_size(self, image: Image.Image) -> tuple[int, int]:
        if not self._keeps_aspect:
            return self._side, self._side
        factor = self._side / max(image.size)
        return max(1, int(image.width * factor + 0.5)), max(1, int(image.height * factor + 0.5))

    def _pixel_values(self, image: Image.Image) -> Tensor:
        """Return ``(1, 3, side, side)``: scaled, normalized, and padded with zeros to the right and below."""
        width, height = self._scaled_size(image)
        pixels = to_pixels(image, (width, height), self._mean, self._std)
        return functional.pad(pixels, (0, self._side - width, 0, self._side - height))

    def _to_picture(self, logits: Tensor, image: Image.Image) -> Tensor:
        """Resize mask logits ``(1, 1, height, width)`` of the model to the picture's size, ``(height, width)``."""
        if self._keeps_aspect:
            width, height = self._scaled_size(image)
            square = functional.interpolate(logits, (self._side, self._side), mode="bilinear", align_corners=False)
            logits = square[..., :height, :width]
        size = (image.height, image.width)
        return functional.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0]


def to_pixels(
    image: Image.Image, size: tuple[int, int], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """Return ``(1, 3, height, width)``: a picture scaled to (width, height) and normalized."""
    scaled = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    values = np.asarray(scaled, dtype=np.float32) / 255
    values = (values - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(values).permute(2, 0, 1)[None]
