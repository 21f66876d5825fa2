"""Picture and region -> the crop that is described and the picture that is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..config import DescriberConfig
from ..errors import DescriberError
from ..pictures import PictureSource, TrainingPictures, load_subject
from .masks import Mask, crop_region, grow_box, mask_to_box
from .models import Describers
from .region import Region, find_mask

MIDDLE_INSET = 0.06
"""Distance of the box around a picture's middle from the edges, as a fraction of the picture's width or height."""


@dataclass(frozen=True, eq=False)
class SelectedPicture:
    """A picture whose region has been found.

    Attributes:
        image: The whole picture: upright, RGB.
        crop: The picture for describers: the region with its margin, or the whole picture without a region.
        mask: The region's pixels, ``(height, width)`` of `image`, bool; None without a region.
        score: The segmenter's score of `mask`, about [0, 1]; 1 for a given mask or without a region.
        num_found: Number of objects that the region's words name; 1 for other regions.
        training_picture: The picture for training.
        training_mask: Mask of the loss on `training_picture` (mode ``L``); None without a region.
    """

    image: Image.Image
    crop: Image.Image
    mask: Mask | None
    score: float
    training_picture: PictureSource
    training_mask: Image.Image | None
    num_found: int = 1

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The smallest box around the region, ``(left, top, right, bottom)``; None without a region."""
        return None if self.mask is None else mask_to_box(self.mask)


def select_picture(
    picture: PictureSource, region: Region | None, train_on: str, describers: Describers
) -> SelectedPicture:
    """Find the region of a picture and cut it out.

    Args:
        picture: A path or an image; it is decoded here.
        region: The selection; None: the whole picture.
        train_on: ``"crop"``: the region, widened to a square as far as the picture allows; ``"image"``: the whole
            picture.
        describers: Their segmenter is asked if `region` has no mask of its own.

    Raises:
        PictureError: The picture is unusable.
        RegionError: The region selects nothing usable.
        DescriberError: The segmenter cannot be loaded, or takes no words.
    """
    image = load_subject(picture).image
    if region is None:
        return SelectedPicture(image, image, None, 1.0, picture, None)
    found = find_mask(image, region, lambda: describers.segmenter_of(region))
    config = describers.config
    crop = crop_region(image, found.mask, margin=config.region_margin, background=config.region_background)
    whole_mask = Image.fromarray(found.mask.astype(np.uint8) * 255)
    training: tuple[Image.Image, Image.Image] = image, whole_mask
    if train_on == "crop":
        training = _training_crop(image, found.mask, whole_mask, config)
    return SelectedPicture(image, crop, found.mask, found.score, *training, found.num_found)


def _training_crop(
    image: Image.Image, mask: Mask, whole_mask: Image.Image, config: DescriberConfig
) -> tuple[Image.Image, Image.Image]:
    margin, background = config.region_margin, config.region_background
    box = grow_box(mask_to_box(mask), image.size, margin=margin, square=True)
    return crop_region(image, mask, margin=margin, background=background, square=True), whole_mask.crop(box)


def select_pictures(
    pictures: Sequence[PictureSource], regions: Sequence[Region] | None, train_on: str, describers: Describers
) -> list[SelectedPicture]:
    """Select the region of each picture; see `select_picture`."""
    each: Sequence[Region | None] = regions or [None] * len(pictures)
    return [
        select_picture(picture, region, train_on, describers) for picture, region in zip(pictures, each, strict=True)
    ]


def object_in_the_middle(image: Image.Image, describers: Describers) -> Image.Image:
    """Return the mask (mode ``L``) of the object in the middle of a picture, as if a box had been drawn around it.

    Raises:
        DescriberError: The segmenter cannot be loaded.
    """
    left, top = MIDDLE_INSET * image.width, MIDDLE_INSET * image.height
    middle = Region(box=(left, top, image.width - left, image.height - top))
    try:
        segmenter = describers.segmenter
    except DescriberError as error:
        raise DescriberError(f"{error}. To compare words on the whole picture, set score_object=False") from error
    found = segmenter.segment(image, middle)
    return Image.fromarray(found.mask.astype(np.uint8) * 255)


def training_pictures(
    selected: Sequence[SelectedPicture],
    masks: Sequence[PictureSource] | None,
    train_on: str,
    *,
    masked_loss: bool,
) -> TrainingPictures:
    """Return the pictures and masks that a concept is trained on.

    Args:
        selected: The concept's pictures.
        masks: The user's masks, one per picture, or None; masks of regions are used instead if there are any.
        train_on: ``"image"`` always weights the loss with the masks.
        masked_loss: Whether to weight the loss with the masks in every case.
    """
    own = [picture.training_mask for picture in selected if picture.training_mask is not None]
    return TrainingPictures(
        [picture.training_picture for picture in selected],
        own or masks,
        masked=masked_loss or train_on == "image",
    )
