"""Pictures -> latents, encoded once: no training step needs the autoencoder."""

from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..errors import PictureError, TrainingError
from ..pictures import (
    Picture,
    PictureSource,
    TrainingPictures,
    as_thumbnail,
    faded,
    fit_to_square,
    load_mask,
    load_subject,
    square_geometry,
    to_mask_values,
    to_pixel_values,
)


@dataclass(frozen=True)
class PictureLatents:
    """The autoencoder's posterior of one concept's pictures, plain and mirrored; on the CPU, float32.

    Attributes:
        mean: ``(num_pictures, 2, channels, height, width)``; index 1 of the second axis is the mirrored picture.
        std: The same shape.
        mask: Loss weights ``(num_pictures, 2, 1, height, width)`` in [0, 1], or None for a plain mean.
        object_mask: Where the object is, in the same shape; None if unknown. Candidate words are compared there.
        geometry: ``(num_pictures, 6)``, float32, in pixels: height and width of the whole picture, top and left of the
            crop after scaling, height and width of the crop. SDXL takes it as an input.
        thumbnail: The first picture as it is trained on, small, for people to look at; pale where the loss counts
            less.
    """

    mean: Tensor
    std: Tensor
    mask: Tensor | None
    geometry: Tensor
    object_mask: Tensor | None = None
    thumbnail: Image.Image | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.mean.shape[0]


def encode_concept(
    backbone: Backbone,
    pictures: TrainingPictures,
    config: SupremeInitConfig,
    *,
    progress_bar: bool = True,
) -> PictureLatents:
    """Decode, crop and encode a concept's pictures.

    Args:
        backbone: Backbone whose autoencoder is used, on its current device and in its current dtype.
        pictures: Pictures and masks, not decoded yet.
        config: Settings; the resolution, the crop and the largest batch matter here.
        progress_bar: Whether to show a progress bar if there are several pictures.

    Raises:
        PictureError: A picture or mask is unusable, or a mask that should weight the loss is missing or all black.
        TrainingError: The autoencoder returns NaN, as one in fp16 does when it overflows.
    """
    resolution = config.resolution or backbone.resolution
    device = next(backbone.autoencoder.parameters()).device
    means, stds, weights, geometry = [], [], [], []
    thumbnail: Image.Image | None = None
    show = progress_bar and len(pictures.images) > 1
    for index, source in enumerate(
        tqdm(pictures.images, desc="encoding pictures", unit="picture", leave=False, disable=not show)
    ):
        picture = load_subject(source)
        square = fit_to_square(picture.image, resolution, center_crop=config.center_crop)
        pixels = to_pixel_values(square)
        both = torch.stack([pixels, pixels.flip(-1)]).to(device)
        encoded = [backbone.encode_pictures(some) for some in both.split(config.max_forward_batch_size or len(both))]
        mean, std = torch.cat([one.mean for one in encoded]), torch.cat([one.std for one in encoded])
        if not torch.isfinite(mean).all():
            raise TrainingError(f"picture {index}: the autoencoder gave NaN; load the pipeline in float32 or bfloat16")
        geometry.append(square_geometry(picture.image.size, resolution, center_crop=config.center_crop))
        means.append(mean.cpu())
        stds.append(std.cpu())
        if pictures.masked or pictures.masks is not None:
            mask = _find_mask(pictures, index, picture)
            if pictures.masked and thumbnail is None:
                square = faded(square, fit_to_square(mask, resolution, center_crop=config.center_crop))
            weights.append(_latent_weights(mask, resolution, means[-1].shape[-2:], config))
            if pictures.masked and not weights[-1].any():
                raise PictureError(
                    f"masked_loss: expected a mask with something white, got a black one for picture {index}"
                    + (" in its central square; pass center_crop=False" if config.center_crop else "")
                )
        if thumbnail is None:
            thumbnail = as_thumbnail(square)
    object_mask = torch.stack(weights) if weights and all(each.any() for each in weights) else None
    return PictureLatents(
        mean=torch.stack(means),
        std=torch.stack(stds),
        mask=_loss_weights(object_mask, config) if pictures.masked and object_mask is not None else None,
        object_mask=object_mask,
        geometry=torch.tensor(geometry, dtype=torch.float32),
        thumbnail=thumbnail,
    )


def _find_mask(pictures: TrainingPictures, index: int, picture: Picture) -> Image.Image:
    mask = picture.alpha if pictures.masks is None else _load_mask(pictures.masks[index], picture.image.size)
    if mask is None:
        raise PictureError(f"masked_loss: expected a mask or transparency, got none for picture {index}; pass mask=")
    return mask


def _latent_weights(mask: Image.Image, resolution: int, size: torch.Size, config: SupremeInitConfig) -> Tensor:
    """Return a mask at the size of the latents, plain and mirrored, ``(2, 1, height, width)``."""
    values = to_mask_values(fit_to_square(mask, resolution, center_crop=config.center_crop))
    small = torch.nn.functional.interpolate(values[None], size, mode="area")[0]
    return torch.stack([small, small.flip(-1)])


def _loss_weights(object_mask: Tensor, config: SupremeInitConfig) -> Tensor:
    return object_mask + (1 - object_mask) * config.unmasked_weight


def _load_mask(source: PictureSource, size: tuple[int, int]) -> Image.Image:
    mask = load_mask(source)
    if mask.size != size:
        raise PictureError(
            f"mask: expected the size of its picture, {size[0]} x {size[1]}, got {mask.size[0]} x {mask.size[1]}"
        )
    return mask
