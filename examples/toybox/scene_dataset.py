"""What the describers learn from: scenes with masks, and pictures of one toy as a click cuts them out."""

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from concepts import HELD_OUT_IDENTITIES
from dataset import sample_toys
from PIL import Image, ImageFilter
from scenes import SCENE_SIZE, Scene, draw_scene, random_scene
from tqdm import tqdm
from world import Toy, render

NUM_TRAINING_SCENES = 8_000
NUM_SINGLE_TOYS = 12_000
ONE_TOY_SHARE = 0.15
LARGE_SHARE = 0.25
LARGE_SIZE = 256
CROP_SIZE = 64
CROP_PADDING = 0.1
MAX_BOX_SHIFT = 0.06


@dataclass(frozen=True)
class SceneArrays:
    """Drawn scenes.

    Attributes:
        pictures: ``(num_scenes, 3, 128, 128)``, uint8.
        owners: ``(num_scenes, 128, 128)``, uint8: the number of the toy that is seen, from 1, or 0 for the background.
    """

    pictures: torch.Tensor
    owners: torch.Tensor


def sample_scenes(split: str, num_scenes: int, one_toy_share: float = 0.0) -> list[Scene]:
    """The first scenes of a split ("train", "test", ...); none of their toys is a toy of `concepts/`."""
    return [_sample_scene(split, index, one_toy_share) for index in range(num_scenes)]


def training_scenes(work_dir: Path) -> SceneArrays:
    """The scenes that the segmenter learns from."""
    _draw_once(work_dir)
    return SceneArrays(
        torch.from_numpy(np.load(work_dir / "scenes.npy")), torch.from_numpy(np.load(work_dir / "owners.npy"))
    )


def training_crops(work_dir: Path) -> tuple[torch.Tensor, list[Toy]]:
    """The toys of the scenes, cut out with and without their surroundings.

    Returns:
        ``(num_toys, 2, 3, 64, 64)``, uint8, surroundings kept and painted white, and the toys.
    """
    _draw_once(work_dir)
    toys = [toy for scene in _training_scenes() for toy in scene.toys]
    return torch.from_numpy(np.load(work_dir / "crops.npy")), toys


def single_toys(work_dir: Path) -> tuple[torch.Tensor, list[Toy]]:
    """Toys drawn alone, ``(num_toys, 3, 64, 64)``, uint8; an eighth of them drawn larger and scaled down."""
    path = work_dir / "single_toys.npy"
    toys = sample_toys("train", NUM_SINGLE_TOYS)
    if not path.exists():
        with ProcessPoolExecutor() as pool:
            pixels = list(tqdm(pool.map(_single_pixels, toys, range(len(toys)), chunksize=100), total=len(toys)))
        _save(path, np.stack(pixels))
    return torch.from_numpy(np.load(path)), toys


def cut_out(picture: Image.Image, mask: Image.Image, rng: random.Random | None = None) -> list[Image.Image]:
    """Cut a toy out of a scene as a click does: the box of its mask and a margin, 64 x 64.

    Args:
        picture: The scene.
        mask: 255 on the toy, 0 elsewhere.
        rng: Draws the mistakes that a segmenter makes, in the box and along the edge of the mask; `None`: no mistakes.

    Returns:
        Two pictures: surroundings kept, and painted white.
    """
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    padding = CROP_PADDING * max(right - left, bottom - top)
    box = [left - padding, top - padding, right + padding, bottom + padding]
    if rng is not None and rng.random() < 0.6:
        sides = (right - left, bottom - top) * 2
        box = [edge + side * rng.uniform(-MAX_BOX_SHIFT, MAX_BOX_SHIFT) for edge, side in zip(box, sides, strict=True)]
        mask = mask.filter(rng.choice([ImageFilter.MaxFilter, ImageFilter.MinFilter, ImageFilter.MedianFilter])(3))
    x0, y0, x1, y1 = (round(edge) for edge in box)
    box_inside = max(0, x0), max(0, y0), min(picture.width, x1), min(picture.height, y1)
    alone = Image.composite(picture, Image.new("RGB", picture.size, "white"), mask)
    size = (CROP_SIZE, CROP_SIZE)
    return [one.crop(box_inside).resize(size, Image.Resampling.BICUBIC) for one in (picture, alone)]


def _training_scenes() -> list[Scene]:
    return sample_scenes("train", NUM_TRAINING_SCENES, ONE_TOY_SHARE)


def _sample_scene(split: str, index: int, one_toy_share: float) -> Scene:
    rng = random.Random(f"scene-{split}-{index}")
    num_toys = 1 if rng.random() < one_toy_share else None
    scene = random_scene(rng, num_toys)
    while any(toy.identity in HELD_OUT_IDENTITIES for toy in scene.toys):
        scene = random_scene(rng, num_toys)
    return scene


def _draw_once(work_dir: Path) -> None:
    paths = [work_dir / name for name in ("scenes.npy", "owners.npy", "crops.npy")]
    if all(path.exists() for path in paths):
        return
    scenes = _training_scenes()
    with ProcessPoolExecutor() as pool:
        drawn = list(
            tqdm(
                pool.map(_scene_pixels, scenes, range(len(scenes)), chunksize=50),
                total=len(scenes),
                desc="drawing scenes",
            )
        )
    for path, parts in zip(paths, zip(*drawn, strict=True), strict=True):
        _save(path, np.concatenate(parts))


def _scene_pixels(scene: Scene, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = random.Random(f"pixels-{index}")
    picture, masks = draw_scene(scene, LARGE_SIZE if rng.random() < LARGE_SHARE else SCENE_SIZE)
    crops = [[_channels_first(crop) for crop in cut_out(picture, mask, rng)] for mask in masks]
    owners = np.zeros((SCENE_SIZE, SCENE_SIZE), dtype=np.uint8)
    for number, mask in enumerate(masks, start=1):
        owners[np.asarray(mask.resize(owners.shape, Image.Resampling.BILINEAR)) > 127] = number
    small = picture.resize((SCENE_SIZE, SCENE_SIZE), Image.Resampling.BILINEAR)
    return _channels_first(small)[None], owners[None], np.stack(crops)


def _single_pixels(toy: Toy, index: int) -> np.ndarray:
    if index % 8:
        return _channels_first(render(toy, CROP_SIZE))
    return _channels_first(render(toy, LARGE_SIZE).resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BICUBIC))


def _channels_first(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).transpose(2, 0, 1)


def _save(path: Path, array: np.ndarray) -> None:
    partial_path = path.with_suffix(".partial.npy")
    np.save(partial_path, array)
    partial_path.rename(path)
