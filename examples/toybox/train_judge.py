"""Stage "judge": a small ResNet that reads every detail of a picture; it measures what the other models draw."""

from pathlib import Path

import torch
from architecture import RESOLUTION, build_judge
from dataset import NUM_TRAINING_TOYS, sample_toys
from pictures_to_read import TrainingPictures
from stage_loop import load_as_float32, pick_device, train
from torch.nn import functional
from transformers import ViTImageProcessor
from world import (
    ACCESSORIES,
    BACKGROUNDS,
    BODY_COLORS,
    CATEGORIES,
    EMBLEM_COLORS,
    EMBLEMS,
    PATTERN_COLORS,
    PATTERNS,
    SHADES,
    TRIM_COLORS,
    Toy,
)

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
NONE = "none"
IGNORED = -100
JUDGE_GROUPS: dict[str, tuple[str, ...]] = {
    "category": CATEGORIES,
    "color": BODY_COLORS,
    "shade": SHADES,
    "pattern": PATTERNS,
    "pattern_color": PATTERN_COLORS,
    "trim": TRIM_COLORS,
    "emblem": (*EMBLEMS, NONE),
    "emblem_color": EMBLEM_COLORS,
    "accessory": (*ACCESSORIES, NONE),
    "background": tuple(BACKGROUNDS),
}
"""One head for each detail of `world.DETAILS`."""
JUDGE_LABELS = [f"{group}: {value}" for group, values in JUDGE_GROUPS.items() for value in values]


def train_judge(work_dir: Path, judge_dir: Path, num_steps: int) -> None:
    """Train the judge and save it in half precision."""
    torch.manual_seed(0)
    device = pick_device()
    targets = torch.tensor([judge_targets(toy) for toy in sample_toys("train", NUM_TRAINING_TOYS)])
    pictures = TrainingPictures(work_dir)
    model = build_judge(JUDGE_LABELS).to(device)
    sizes = [len(values) for values in JUDGE_GROUPS.values()]

    def compute_loss(step: int) -> torch.Tensor:
        pixel_values, picked = pictures.draw(step, BATCH_SIZE)
        logits = model(pixel_values=pixel_values.to(device)).logits.float().split(sizes, dim=1)
        labels = targets[picked].to(device).unbind(dim=1)
        losses = [
            functional.cross_entropy(one, label, ignore_index=IGNORED)
            for one, label in zip(logits, labels, strict=True)
        ]
        return torch.stack(losses).mean()

    average = train(
        model, compute_loss, num_steps=num_steps, learning_rate=LEARNING_RATE, work_path=work_dir / "judge.pt"
    )
    average.half().save_pretrained(judge_dir)
    load_as_float32(judge_dir / "config.json")
    size = {"height": RESOLUTION, "width": RESOLUTION}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(judge_dir)


def judge_targets(toy: Toy) -> list[int]:
    """The position of each detail's value in its group; what a picture cannot show is ignored."""
    return [_position(values, getattr(toy, group)) for group, values in JUDGE_GROUPS.items()]


def _position(values: tuple[str, ...], value: str | None) -> int:
    if value is None:
        return values.index(NONE) if NONE in values else IGNORED
    return values.index(value)
