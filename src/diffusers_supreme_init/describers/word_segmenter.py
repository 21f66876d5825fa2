"""Words -> mask, by SAM 3; torchvision is never needed."""

from typing import Any

import torch
import transformers
from PIL import Image
from torch.nn import functional

from ..errors import DescriberLoadError, RegionError, shown
from .masks import Segmentation, without_specks
from .model_loading import answering, explained, load_part, place
from .region import Region
from .segmenter import HALF, to_pixels

# The configuration of facebook/sam3 is that of its video model, which holds this one as its detector.
_MODELS = {"sam3": "Sam3Model", "sam3_video": "Sam3Model", "sam3_lite_text": "Sam3LiteTextModel"}
_MAX_TOKENS = 32  # as `Sam3Processor`
_THRESHOLD = 0.5  # `confidence_threshold` of SAM 3's own image processor, github.com/facebookresearch/sam3


class WordSegmenter:
    """SAM 3 and SAM 3 LiteText: finds the objects that a short noun phrase names.

    Raises:
        DescriberError: The model cannot be loaded, takes no words, or lacks some of its weights.
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
        self.name = model
        with explained(model, "segmenter"):
            model_class = class_for_words(model)
            self.tokenizer = load_part(transformers.AutoTokenizer, model)
            loaded, report = load_part(model_class, model, dtype=dtype, output_loading_info=True)
            self.model = place(loaded, device)
        if report["missing_keys"]:  # transformers fills them with random numbers
            raise DescriberLoadError(
                f"segmenter {model!r}: expected all weights of {model_class.__name__}, got none for "
                f"{len(report['missing_keys'])} of its tensors ({min(report['missing_keys'])}, ...); choose another "
                "revision"
            )
        size = self.model.config.vision_config.image_size
        self._side: int = size if isinstance(size, int) else size[0]

    @torch.no_grad()
    def segment(self, image: Image.Image, region: Region) -> Segmentation:
        """Return the mask of the object that the words name; of several, the one with the highest score.

        Args:
            image: RGB.
            region: Its words are asked for.

        Raises:
            RegionError: The words are too long, or nothing in the picture is what they name.
            DescriberError: The model fails.
        """
        words = region.words
        inputs = self.tokenizer(words, padding="max_length", max_length=_MAX_TOKENS, return_tensors="pt")
        num_tokens = inputs["input_ids"].shape[1]
        if num_tokens > _MAX_TOKENS:
            raise RegionError(f"words: expected at most {_MAX_TOKENS} tokens, got {num_tokens} in {shown(words)}")
        with answering(self.name, "segmenter"):
            pixels = to_pixels(image, (self._side, self._side), *HALF).to(self.model.device, self.model.dtype)
            output = self.model(pixel_values=pixels, **inputs.to(self.model.device))
            scores = output.pred_logits[0].float().sigmoid() * output.presence_logits[0].float().sigmoid()
            best, num_found = int(scores.argmax()), int((scores > _THRESHOLD).sum())
            score = float(scores[best])
            likelihood = output.pred_masks[:, best : best + 1].float().sigmoid()
            size = (image.height, image.width)
            mask = functional.interpolate(likelihood, size, mode="bilinear", align_corners=False)[0, 0] > 0.5
        if not num_found:
            raise RegionError(
                f"region: expected something that is {shown(words)}, found nothing (highest score {score:.2f}, "
                f"{_THRESHOLD} is needed); say it in other words, or click on it"
            )
        return Segmentation(without_specks(mask.cpu().numpy()), score, num_found)


def class_for_words(model: str) -> Any:
    """Return the class of transformers that takes words, for a segmenter; only its configuration is read.

    Raises:
        DescriberError: It takes no words.
    """
    model_type = load_part(transformers.AutoConfig, model).model_type
    model_class = getattr(transformers, _MODELS.get(model_type, ""), None)
    if model_class is None:
        raise DescriberLoadError(
            f"segmenter: expected a model that takes words (SAM 3), got {model!r}, which is {model_type!r}; choose "
            "facebook/sam3, whose licence is accepted on its page, or click on the object"
        )
    return model_class
