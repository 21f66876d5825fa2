"""Describers: models that name, caption and cut out what a picture shows. Each is imported only when it is used."""

from .captioner import Captioner
from .classifier import Classifier, ZeroShotClassifier
from .description import Description
from .endpoint import EndpointRefiner
from .local_refiner import LocalRefiner
from .masks import Mask, Segmentation, crop_region, grow_box, mask_to_box, without_specks
from .models import Describers
from .refiner import Refinement, RefinementStyle, Refiner, refine
from .region import Region, find_mask
from .segmenter import Segmenter
from .word_segmenter import WordSegmenter
from .wording import Wording, clean_caption, clean_label, is_latin

__all__ = [
    "Captioner",
    "Classifier",
    "Describers",
    "Description",
    "EndpointRefiner",
    "LocalRefiner",
    "Mask",
    "Refinement",
    "RefinementStyle",
    "Refiner",
    "Region",
    "Segmentation",
    "Segmenter",
    "WordSegmenter",
    "Wording",
    "ZeroShotClassifier",
    "clean_caption",
    "clean_label",
    "crop_region",
    "find_mask",
    "grow_box",
    "is_latin",
    "mask_to_box",
    "refine",
    "without_specks",
]
