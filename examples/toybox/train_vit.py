"""Stages "classifier" and "judge": two vision transformers, one names a toy, the other also tells its looks."""

from pathlib import Path

import torch
from architecture import RESOLUTION, build_vit
from dataset import NUM_TRAINING_TOYS, sample_toys, to_model_range, training_pictures
from diffusers import AutoencoderKL
from torch.nn import functional
from tqdm import tqdm
from train_denoiser import cached_latents
from training import load_as_float32, pick_device, step_generator, train
from transformers import ViTForImageClassification, ViTImageProcessor
from world import BACKGROUNDS, CATEGORIES, COLORS, PATTERNS, Toy

BATCH_SIZE = 64
LEARNING_RATE = 1e-3
NUM_DECODED = 12_000
# Up to a third of a standard deviation of the latents: about the mistakes that a denoiser makes.
MAX_LATENT_NOISE = 0.35
JUDGE_GROUPS = {"class": CATEGORIES, "color": tuple(COLORS), "pattern": PATTERNS, "background": tuple(BACKGROUNDS)}
JUDGE_LABELS = [f"{group}: {value}" for group, values in JUDGE_GROUPS.items() for value in values]


def train_classifier(work_dir: Path, classifier_dir: Path, num_steps: int) -> None:
    """Train the model that only knows the names of the toys."""
    targets = torch.tensor([CATEGORIES.index(toy.category) for toy in sample_toys("train", NUM_TRAINING_TOYS)])
    model = build_vit(list(CATEGORIES), "single_label_classification")
    _train_vit(model, targets, work_dir, classifier_dir, num_steps)


def train_judge(work_dir: Path, judge_dir: Path, num_steps: int) -> None:
    """Train the model that measures generated pictures: class, body color, pattern and background."""
    targets = torch.tensor([judge_targets(toy) for toy in sample_toys("train", NUM_TRAINING_TOYS)])
    model = build_vit(JUDGE_LABELS, "multi_label_classification")
    _train_vit(model, targets, work_dir, judge_dir, num_steps)


def judge_targets(toy: Toy) -> list[float]:
    """One for each label of `JUDGE_LABELS` that holds for the toy, zero for the others."""
    looks = {"class": toy.category, "color": toy.color, "pattern": toy.pattern, "background": toy.background}
    return [float(looks[group] == value) for group, values in JUDGE_GROUPS.items() for value in values]


def _train_vit(
    model: ViTForImageClassification, targets: torch.Tensor, work_dir: Path, model_dir: Path, num_steps: int
) -> None:
    torch.manual_seed(0)
    device = pick_device()
    drawn, decoded = training_pictures(work_dir), _decoded_pictures(work_dir)
    model.to(device)

    def compute_loss(step: int) -> torch.Tensor:
        generator = step_generator(step)
        from_drawn = torch.randint(len(drawn), (BATCH_SIZE // 2,), generator=generator)
        from_decoded = torch.randint(len(decoded), (BATCH_SIZE // 2,), generator=generator)
        pictures = to_model_range(torch.cat([drawn[from_drawn], decoded[from_decoded]]))
        pixel_values = _augment(pictures, generator).to(device)
        labels = targets[torch.cat([from_drawn, from_decoded])].to(device)
        return model(pixel_values=pixel_values, labels=labels).loss

    average = train(
        model,
        compute_loss,
        num_steps=num_steps,
        learning_rate=LEARNING_RATE,
        work_path=work_dir / f"{model_dir.name}.pt",
    )
    average.half().save_pretrained(model_dir)
    load_as_float32(model_dir / "config.json")
    processor = ViTImageProcessor(
        size={"height": RESOLUTION, "width": RESOLUTION}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor.save_pretrained(model_dir)


def _augment(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur a third of the pictures, and change brightness and grain of all a little."""
    num_blurred = len(pictures) // 3
    picked = torch.randperm(len(pictures), generator=generator)[:num_blurred]
    pictures[picked] = functional.avg_pool2d(pictures[picked], 3, stride=1, padding=1, count_include_pad=False)
    gain = 1 + 0.05 * torch.randn(len(pictures), 1, 1, 1, generator=generator)
    grain = 0.03 * torch.randn(pictures.shape, generator=generator)
    return (pictures * gain + grain).clamp(-1, 1)


@torch.no_grad()
def _decoded_pictures(work_dir: Path) -> torch.Tensor:
    """The first training pictures as the autoencoder gives them back from disturbed latents, uint8.

    Generated pictures carry the decoder's smear; a judge that has only seen clean drawings would misread them.
    """
    path = work_dir / "decoded.pt"
    if not path.exists():
        device, generator = pick_device(), torch.Generator().manual_seed(0)
        vae = AutoencoderKL.from_pretrained(work_dir / "vae").to(device)
        pictures = []
        for latents in tqdm(cached_latents(vae, work_dir)[:NUM_DECODED].split(100), desc="decoding toys"):
            strength = MAX_LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, generator=generator)
            disturbed = latents + strength * torch.randn(latents.shape, generator=generator)
            decoded = vae.decode(disturbed.to(device) / vae.config.scaling_factor).sample
            pictures.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
        torch.save(torch.cat(pictures), path)
    return torch.load(path, weights_only=True)
