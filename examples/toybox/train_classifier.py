"""Stage "classifier": a small vision transformer that names a toy."""

from pathlib import Path

import torch
from architecture import RESOLUTION, build_classifier
from dataset import NUM_TRAINING_TOYS, sample_toys
from pictures_to_read import TrainingPictures
from stage_loop import load_as_float32, pick_device, train
from transformers import ViTImageProcessor
from world import CATEGORIES

BATCH_SIZE = 64
LEARNING_RATE = 1e-3


def train_classifier(work_dir: Path, classifier_dir: Path, num_steps: int) -> None:
    """Train the model that only knows the names of the toys, and save it in half precision."""
    torch.manual_seed(0)
    device = pick_device()
    targets = torch.tensor([CATEGORIES.index(toy.category) for toy in sample_toys("train", NUM_TRAINING_TOYS)])
    pictures = TrainingPictures(work_dir)
    model = build_classifier(CATEGORIES).to(device)

    def compute_loss(step: int) -> torch.Tensor:
        pixel_values, picked = pictures.draw(step, BATCH_SIZE)
        return model(pixel_values=pixel_values.to(device), labels=targets[picked].to(device)).loss

    average = train(
        model, compute_loss, num_steps=num_steps, learning_rate=LEARNING_RATE, work_path=work_dir / "classifier.pt"
    )
    average.half().save_pretrained(classifier_dir)
    load_as_float32(classifier_dir / "config.json")
    size = {"height": RESOLUTION, "width": RESOLUTION}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(classifier_dir)
