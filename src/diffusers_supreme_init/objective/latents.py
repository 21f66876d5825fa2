"""Pictures -> latents, once: the autoencoder is not needed during the steps."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..errors import PictureError, TrainingError
from ..pictures import (
    PictureSource,
    TrainingPictures,
    fit_to_square,
    load_mask,
    load_picture,
    square_geometry,
    to_mask_values,
    to_pixel_values,
)


@dataclass(frozen=True)
class PictureLatents:
    """The posterior of one concept's pictures, each as it is and mirrored; on the CPU, float32.

    Attributes:
        mean: ``(num_pictures, 2, channels, height, width)``; index 1 of the second axis is the mirrored picture.
        std: The same shape.
        mask: Loss weights ``(num_pictures, 2, 1, height, width)`` in [0, 1], or None for a plain mean.
        geometry: ``(num_pictures, 6)``, float32, in pixels: height and width of the whole picture, top and left of the
            crop after scaling, height and width of the crop. Some families are told it.
    """

    mean: Tensor
    std: Tensor
    mask: Tensor | None
    geometry: Tensor

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
        backbone: Its autoencoder is used where it is, in its dtype.
        pictures: Not decoded yet.
        config: Resolution and crop.
        progress_bar: Whether to show one when there are several pictures.

    Raises:
        PictureError: A picture or mask is unusable, or there is none although it weights the loss.
        TrainingError: The autoencoder gives NaN (an fp16 autoencoder that overflows).
    """
    resolution = config.resolution or backbone.resolution
    device = next(backbone.autoencoder.parameters()).device
    means, stds, weights, geometry = [], [], [], []
    show = progress_bar and len(pictures.images) > 1
    for index, source in enumerate(tqdm(pictures.images, desc="encoding pictures", unit="picture", disable=not show)):
        picture = load_picture(source)
        pixels = to_pixel_values(fit_to_square(picture.image, resolution, center_crop=config.center_crop))
        posterior = backbone.encode_pictures(torch.stack([pixels, pixels.flip(-1)]).to(device))
        if not torch.isfinite(posterior.mean).all():
            raise TrainingError(f"picture {index}: the autoencoder gave NaN; load the pipeline in float32 or bfloat16")
        geometry.append(square_geometry(picture.image.size, resolution, center_crop=config.center_crop))
        means.append(posterior.mean.cpu())
        stds.append(posterior.std.cpu())
        if pictures.masked:
            masks = pictures.masks
            alpha = picture.alpha if masks is None else _load_mask(masks[index], picture.image.size)
            if alpha is None:
                raise PictureError(
                    f"masked_loss: expected a mask or transparency, got none for picture {index}; pass mask="
                )
            values = to_mask_values(fit_to_square(alpha, resolution, center_crop=config.center_crop))
            small = torch.nn.functional.interpolate(values[None], means[-1].shape[-2:], mode="area")[0]
            if float(small.sum()) == 0:
                raise PictureError(
                    f"masked_loss: expected a mask with something white, got a black one for picture {index}"
                    + (" in its central square; pass center_crop=False" if config.center_crop else "")
                )
            weights.append(torch.stack([small, small.flip(-1)]))
    return PictureLatents(
        torch.stack(means),
        torch.stack(stds),
        torch.stack(weights) if weights else None,
        torch.tensor(geometry, dtype=torch.float32),
    )


def _load_mask(source: PictureSource, size: tuple[int, int]) -> Image.Image:
    mask = load_mask(source)
    if mask.size != size:
        raise PictureError(
            f"mask: expected the size of its picture, {size[0]} x {size[1]}, got {mask.size[0]} x {mask.size[1]}"
        )
    return mask
