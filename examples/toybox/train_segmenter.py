"""Stage "segmenter": a small Segment Anything that finds the whole toy from a click, several clicks or a box."""

import copy
from pathlib import Path
from typing import Any

import torch
from describer_architecture import build_segmenter, build_segmenter_processor
from prompts import Prompts, draw_prompts
from scene_dataset import training_scenes
from stage_loop import load_as_float32, pick_device, step_generator, train
from torch.nn import functional

BATCH_SIZE = 8
NUM_LONE_CLICKS, NUM_OTHER_PROMPTS = 5, 3
LEARNING_RATE = 1e-3
# Pixels weigh more than shapes: most of a picture is background that is soon right.
PIXEL_WEIGHT = 3.0
PADDED_SHARE = 0.2


def train_segmenter(work_dir: Path, segmenter_dir: Path, num_steps: int) -> None:
    """Train the segmenter; export it in half precision now and then and at the end."""
    torch.manual_seed(0)
    device = pick_device()
    processor = build_segmenter_processor()
    statistics = processor.image_processor
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (statistics.image_mean, statistics.image_std))
    model = build_segmenter().to(device)
    if device.type == "cpu":
        model.set_attn_implementation("eager")  # faster here, and not saved
    scenes = training_scenes(work_dir)

    def compute_loss(step: int) -> torch.Tensor:
        generator = step_generator(step)
        picked = torch.randint(len(scenes.pictures), (BATCH_SIZE,), generator=generator)
        pictures, owners = scenes.pictures[picked].float() / 255, scenes.owners[picked]
        pictures = (pictures * (1 + 0.05 * torch.randn(BATCH_SIZE, 1, 1, 1, generator=generator))).clamp(0, 1)
        pixel_values = (pictures - mean) / std
        _augment(pixel_values, owners, generator)
        embeddings = model.vision_encoder(pixel_values.to(device)).last_hidden_state
        clicks = draw_prompts(owners, NUM_LONE_CLICKS, "click", generator)
        others = draw_prompts(owners, NUM_OTHER_PROMPTS, ("clicks", "box", "box and click")[step % 3], generator)
        lone_loss = _prompt_loss(model, embeddings, clicks, multimask_output=True)
        other_loss = _prompt_loss(model, embeddings, others, multimask_output=False)
        return lone_loss + NUM_OTHER_PROMPTS / NUM_LONE_CLICKS * other_loss

    def export(average: Any) -> None:
        # A copy: halving the average itself would coarsen what training goes on from.
        copy.deepcopy(average).half().save_pretrained(segmenter_dir)
        load_as_float32(segmenter_dir / "config.json")
        processor.save_pretrained(segmenter_dir)

    train(
        model,
        compute_loss,
        num_steps=num_steps,
        learning_rate=LEARNING_RATE,
        work_path=work_dir / "segmenter.pt",
        on_save=export,
    )


def _augment(pixel_values: torch.Tensor, owners: torch.Tensor, generator: torch.Generator) -> None:
    """Mirror half of the pictures, and empty the lower or right edge of some, as wide and high pictures are padded."""
    for one in range(len(owners)):
        mirror, pad, down, part = torch.rand(4, generator=generator).tolist()
        if mirror < 0.5:
            pixel_values[one], owners[one] = pixel_values[one].flip(-1), owners[one].flip(-1)
        kept = round((0.65 + 0.35 * part) * owners.shape[-1])
        # What is left must hold a toy to click on.
        edge = (slice(kept, None), slice(None)) if down < 0.5 else (slice(None), slice(kept, None))
        rest = owners[one].clone()
        rest[edge] = 0
        if pad < PADDED_SHARE and (rest > 0).any():
            owners[one] = rest
            pixel_values[(one, slice(None), *edge)] = 0


def _prompt_loss(model: Any, embeddings: torch.Tensor, prompts: Prompts, *, multimask_output: bool) -> torch.Tensor:
    """Loss of the best mask of each prompt, and error of the quality that the model claims for each of its masks."""
    device = embeddings.device
    output = model(
        image_embeddings=embeddings,
        multimask_output=multimask_output,
        **{name: tensor.to(device) for name, tensor in prompts.inputs.items()},
    )
    logits = output.pred_masks.float()  # (batch, prompts, masks, 64, 64)
    target = functional.adaptive_avg_pool2d(prompts.targets.to(device), logits.shape[-2:]).unsqueeze(2)
    target = target.expand_as(logits)
    pixel_loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(-2, -1))
    probability = logits.sigmoid()
    overlap = (probability * target).sum(dim=(-2, -1))
    shape_loss = 1 - (2 * overlap + 1) / (probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) + 1)
    best = (PIXEL_WEIGHT * pixel_loss + shape_loss).amin(dim=2)
    with torch.no_grad():
        drawn, meant = logits > 0, target > 0.5
        union = (drawn | meant).sum(dim=(-2, -1)).clamp(min=1)
        quality = (drawn & meant).sum(dim=(-2, -1)) / union
    return best.mean() + functional.mse_loss(output.iou_scores.float(), quality)
