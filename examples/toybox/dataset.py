"""Toys to learn from and toys to be measured on: drawn once, in parallel, and kept in the work folder."""

import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from concepts import HELD_OUT_IDENTITIES
from tqdm import tqdm
from world import Toy, random_toy, render

NUM_TRAINING_TOYS = 40_000


def sample_toys(split: str, num_toys: int) -> list[Toy]:
    """The first toys of a split ("train", "test", ...); none of them is a toy of `concepts/`."""
    return [_sample_toy(split, index) for index in range(num_toys)]


def render_tensor(toys: list[Toy]) -> torch.Tensor:
    """Draw toys as ``(len(toys), 3, 64, 64)``, uint8."""
    return torch.from_numpy(np.stack([_pixels(toy) for toy in toys])).permute(0, 3, 1, 2).contiguous()


def training_pictures(work_dir: Path) -> torch.Tensor:
    """The pictures of `sample_toys("train", NUM_TRAINING_TOYS)`, ``(num_toys, 3, 64, 64)``, uint8."""
    path = work_dir / "train.npy"
    if not path.exists():
        toys = sample_toys("train", NUM_TRAINING_TOYS)
        with ProcessPoolExecutor() as pool:
            rows = list(tqdm(pool.map(_pixels, toys, chunksize=250), total=len(toys), desc="drawing toys"))
        partial_path = path.with_suffix(".partial.npy")
        np.save(partial_path, np.stack(rows).transpose(0, 3, 1, 2))
        partial_path.rename(path)
    return torch.from_numpy(np.load(path))


def to_model_range(pictures: torch.Tensor) -> torch.Tensor:
    """Turn uint8 pictures into float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def _sample_toy(split: str, index: int) -> Toy:
    rng = random.Random(f"{split}-{index}")
    while (toy := random_toy(rng)).identity in HELD_OUT_IDENTITIES:
        pass
    return toy


def _pixels(toy: Toy) -> np.ndarray:
    return np.asarray(render(toy))
