"""Stage "captioner": a small BLIP that tells category, color and mostly the pattern, now and then the background."""

import copy
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from captions import CAPTIONER_DETAILS, caption
from dataset import to_model_range
from describer_architecture import build_caption_processor, build_captioner, copy_classifier
from scene_dataset import single_toys, training_crops
from stage_loop import load_as_float32, pick_device, step_generator, train
from torch.nn import functional
from transformers import ViTForImageClassification
from world import Toy

BATCH_SIZE = 64
LEARNING_RATE = 7e-4
# How often a caption tells what the beams of one picture may differ in.
PATTERN_SHARE, BACKGROUND_SHARE = 0.85, 0.3
BLUR_SHARE = 0.2


@dataclass(frozen=True)
class ToyPictures:
    """Pictures of toys ``(num_toys, 3, 64, 64)``, uint8, and whether their background is to be seen."""

    pictures: torch.Tensor
    toys: list[Toy]
    shows_background: bool
    share: float


def train_captioner(work_dir: Path, classifier_dir: Path, captioner_dir: Path, num_steps: int) -> None:
    """Train the captioner, its eyes starting as the classifier's; export it, in half precision, now and then."""
    torch.manual_seed(0)
    device = pick_device()
    processor = build_caption_processor()
    model = build_captioner(processor.tokenizer)
    copy_classifier(ViTForImageClassification.from_pretrained(classifier_dir), model)
    model.to(device)
    sources = _sources(work_dir)

    def compute_loss(step: int) -> torch.Tensor:
        generator, rng = step_generator(step), random.Random(step)
        pictures, captions = [], []
        for source in sources:
            picked = torch.randint(len(source.toys), (round(source.share * BATCH_SIZE),), generator=generator)
            pictures.append(source.pictures[picked])
            captions += [_caption(source.toys[index], source.shows_background, rng) for index in picked.tolist()]
        pixel_values = _augment(to_model_range(torch.cat(pictures)), generator).to(device)
        encoded = processor.tokenizer(captions, padding=True, return_tensors="pt").to(device)
        input_ids = encoded.input_ids
        input_ids[:, 0] = processor.tokenizer.bos_token_id  # as `generate` does
        labels = input_ids.masked_fill(encoded.attention_mask == 0, -100)
        return model(
            pixel_values=pixel_values, input_ids=input_ids, attention_mask=encoded.attention_mask, labels=labels
        ).loss

    def export(average: Any) -> None:
        # A copy: halving the average itself would coarsen what training goes on from.
        copy.deepcopy(average).half().save_pretrained(captioner_dir)
        load_as_float32(captioner_dir / "config.json")
        processor.save_pretrained(captioner_dir)

    train(
        model,
        compute_loss,
        num_steps=num_steps,
        learning_rate=LEARNING_RATE,
        work_path=work_dir / "captioner.pt",
        on_save=export,
    )


def _sources(work_dir: Path) -> list[ToyPictures]:
    crops, crop_toys = training_crops(work_dir)
    singles, toys = single_toys(work_dir)
    return [
        ToyPictures(singles, toys, shows_background=True, share=0.25),
        ToyPictures(crops[:, 0], crop_toys, shows_background=True, share=0.45),
        ToyPictures(crops[:, 1], crop_toys, shows_background=False, share=0.3),
    ]


def _caption(toy: Toy, shows_background: bool, rng: random.Random) -> str:
    told = set(CAPTIONER_DETAILS)
    if rng.random() > PATTERN_SHARE:
        told -= {"pattern", "pattern_color"}
    if rng.random() < BACKGROUND_SHARE and shows_background:
        told.add("background")
    return caption(toy, told)


def _augment(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the pictures, blur some, and change the brightness of all a little."""
    mirrored = torch.rand(len(pictures), generator=generator) < 0.5
    pictures[mirrored] = pictures[mirrored].flip(-1)
    blurred = torch.rand(len(pictures), generator=generator) < BLUR_SHARE
    pictures[blurred] = functional.avg_pool2d(pictures[blurred], 3, stride=1, padding=1, count_include_pad=False)
    gain = 1 + 0.05 * torch.randn(len(pictures), 1, 1, 1, generator=generator)
    return ((pictures + 1) * gain - 1).clamp(-1, 1)
