"""Measures what is committed: nothing here is assumed, every figure comes from the saved models."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from captions import caption
from check_describers import measure_captioner, measure_segmenter
from concepts import HELD_OUT
from dataset import render_tensor, sample_toys, to_model_range
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from stage_loop import pick_device
from tqdm import tqdm
from train_judge import NONE
from transformers import AutoImageProcessor, AutoModelForImageClassification
from world import BODY_COLORS, CATEGORIES, DETAILS, Toy, random_toy, render, shown_details

Quality: TypeAlias = dict[str, dict[str, float]]

NUM_TEST_TOYS = 600
MEASURED_FOLDERS = ("pipeline", "classifier", "judge", "captioner", "segmenter", "concepts", "scenes", "views")
BATCH_SIZE = 60
NUM_PER_COLOR = 4
GOALS = {
    "reconstruction": {"psnr_db": 26.0},
    "judge_on_drawings": dict.fromkeys(DETAILS, 0.95),
    "judge_on_reconstructions": dict.fromkeys(DETAILS, 0.95),
    "generated": {
        "category": 0.97,
        "color": 0.93,
        "pattern": 0.85,
        "trim": 0.85,
        "emblem": 0.80,
        "background": 0.80,
    },
    "classifier_on_drawings": {"category": 0.97},
    "captioner": {"category": 0.95, "color": 0.90, "pattern": 0.85},
    "clicked_captions_keep": {"category": 0.90},
    "clicks": {"iou": 0.85},
}
"""The least that each measured figure may be."""


@dataclass(frozen=True)
class GenerationSettings:
    """How the measured pictures are generated."""

    num_inference_steps: int = 30
    guidance_scale: float = 2.0
    seed: int = 0


class Reader:
    """A saved image classifier; of labels such as "color: red" it gives the best value of each group."""

    def __init__(self, model_dir: Path) -> None:
        """Load the model and its image processor from a folder."""
        self.model = AutoModelForImageClassification.from_pretrained(model_dir).to(pick_device()).eval()
        self.processor = AutoImageProcessor.from_pretrained(model_dir)
        self.groups: dict[str, dict[int, str]] = {}
        for index, label in self.model.config.id2label.items():
            group, _, value = label.rpartition(": ")
            self.groups.setdefault(group or "category", {})[index] = value

    @torch.no_grad()
    def read(self, pictures: Sequence[Image.Image]) -> list[dict[str, str]]:
        """Read the value of every group in each picture."""
        inputs = self.processor(list(pictures), return_tensors="pt").to(self.model.device)
        logits = torch.cat([self.model(batch).logits for batch in inputs["pixel_values"].split(BATCH_SIZE)])
        answers: list[dict[str, str]] = [{} for _ in pictures]
        for group, values in self.groups.items():
            best = logits[:, list(values)].argmax(dim=1)
            for answer, position in zip(answers, best.tolist(), strict=True):
                answer[group] = list(values.values())[position]
        return answers


def measure_quality(toybox_dir: Path, settings: GenerationSettings) -> Quality:
    """Measure all committed models.

    Returns:
        Accuracies in [0, 1], PSNR in decibels, sizes in megabytes of 10**6 bytes, and how they were obtained.
    """
    return {
        **measure_vae(toybox_dir / "pipeline" / "vae"),
        **measure_judge(toybox_dir / "judge", toybox_dir / "pipeline" / "vae"),
        **measure_classifier(toybox_dir / "classifier"),
        **measure_denoiser(toybox_dir / "pipeline", toybox_dir / "judge", settings),
        **measure_captioner(toybox_dir / "captioner"),
        **measure_segmenter(toybox_dir / "segmenter", toybox_dir / "captioner"),
        "size_mb": {name: _size_mb(toybox_dir / name) for name in MEASURED_FOLDERS},
    }


def measure_vae(vae_dir: Path) -> Quality:
    """Measure what the autoencoder gives back of unseen toys and of those of `concepts/`."""
    vae = AutoencoderKL.from_pretrained(vae_dir).to(pick_device())
    toys = {
        "reconstruction": sample_toys("test", NUM_TEST_TOYS),
        "reconstruction_of_concepts": [held_out.toy for held_out in HELD_OUT],
    }
    return {name: {"psnr_db": _psnr(vae, some), "num_pictures": len(some)} for name, some in toys.items()}


def measure_judge(judge_dir: Path, vae_dir: Path) -> Quality:
    """Measure how well the judge reads unseen drawings, and whether the autoencoder carries what it reads."""
    judge, vae = Reader(judge_dir), AutoencoderKL.from_pretrained(vae_dir).to(pick_device())
    toys = sample_toys("test", NUM_TEST_TOYS)
    shown = [readable_details(toy) for toy in toys]
    pictures = {
        "judge_on_drawings": [render(toy) for toy in toys],
        "judge_on_reconstructions": _reconstruct(vae, toys),
    }
    return {name: accuracies(judge.read(some), shown) | {"num_pictures": len(some)} for name, some in pictures.items()}


def measure_classifier(classifier_dir: Path) -> Quality:
    """Measure how often the classifier names an unseen toy."""
    toys = sample_toys("test", NUM_TEST_TOYS)
    answers = Reader(classifier_dir).read([render(toy) for toy in toys])
    expected = [readable_details(toy) for toy in toys]
    return {"classifier_on_drawings": accuracies(answers, expected) | {"num_pictures": len(toys)}}


def measure_denoiser(pipeline_dir: Path, judge_dir: Path, settings: GenerationSettings) -> Quality:
    """Measure which details of full captions the judge finds in the pictures generated from them."""
    toys = asked_toys(settings.seed)
    generated = generate(_load_pipeline(pipeline_dir), [caption(toy, DETAILS) for toy in toys], settings)
    found = accuracies(Reader(judge_dir).read(generated), [shown_details(toy) for toy in toys])
    return {"generated": found | {"num_pictures": len(toys)} | asdict(settings)}


def missed_goals(quality: Quality) -> list[str]:
    """One line for each figure that was measured and is below its goal."""
    return [
        f"{part}, {name}: {quality[part][name]} instead of at least {goal}"
        for part, goals in GOALS.items()
        for name, goal in goals.items()
        if part in quality and quality[part][name] < goal
    ]


def write_samples(toybox_dir: Path, settings: GenerationSettings, path: Path, num_generated: int = 3) -> None:
    """Write a sheet with a column for each category: a drawing, and below it pictures generated from its caption."""
    toys = {toy.category: toy for toy in reversed(sample_toys("samples", 200))}
    columns = [toys[category] for category in CATEGORIES]
    captions = [caption(toy, DETAILS) for toy in columns]
    rows = [[render(toy) for toy in columns]]
    pipe = _load_pipeline(toybox_dir / "pipeline")
    for row in range(num_generated):
        rows.append(generate(pipe, captions, replace(settings, seed=settings.seed + row)))
    size = rows[0][0].width
    sheet = Image.new("RGB", (size * len(columns), size * len(rows)))
    for y, row_pictures in enumerate(rows):
        for x, picture in enumerate(row_pictures):
            sheet.paste(picture, (x * size, y * size))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS).save(path)


def asked_toys(seed: int) -> list[Toy]:
    """Toys whose full captions are drawn: every category in every color."""
    rng = random.Random(f"asked-{seed}")
    return [
        _toy_in_color(rng, category, color)
        for category in CATEGORIES
        for color in BODY_COLORS
        for _ in range(NUM_PER_COLOR)
    ]


def _toy_in_color(rng: random.Random, category: str, color: str) -> Toy:
    while (toy := random_toy(rng, category)).color != color:
        pass
    return toy


def generate(pipe: StableDiffusionPipeline, captions: list[str], settings: GenerationSettings) -> list[Image.Image]:
    """Generate one picture for each caption."""
    generator = torch.Generator().manual_seed(settings.seed)
    pictures: list[Image.Image] = []
    for start in tqdm(range(0, len(captions), BATCH_SIZE), desc="generating"):
        output = pipe(
            captions[start : start + BATCH_SIZE],
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=generator,
        )
        pictures += output.images
    return pictures


def accuracies(answers: list[dict[str, str]], expected: list[dict[str, str]]) -> dict[str, float]:
    """The share of right answers for each detail, among the pictures that have it and the readers that know it."""
    right: dict[str, list[bool]] = {}
    for answer, details in zip(answers, expected, strict=True):
        for name, value in details.items():
            if name in answer:
                right.setdefault(name, []).append(answer[name] == value)
    return {name: round(sum(values) / len(values), 4) for name, values in right.items()}


def readable_details(toy: Toy) -> dict[str, str]:
    """What a reader should say of a drawing: more than captions do, since it also says what is not there."""
    absent = {"shade": toy.shade, "pattern": toy.pattern, "emblem": NONE, "accessory": NONE}
    return absent | shown_details(toy)


def _load_pipeline(pipeline_dir: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(pipeline_dir).to(pick_device())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def _reconstruct(vae: AutoencoderKL, toys: list[Toy]) -> list[Image.Image]:
    """The toys as the autoencoder gives them back."""
    pictures: list[Image.Image] = []
    for batch in render_tensor(toys).split(BATCH_SIZE):
        decoded = vae.decode(vae.encode(to_model_range(batch).to(vae.device)).latent_dist.mean).sample
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        pictures += [Image.fromarray(one) for one in pixels]
    return pictures


@torch.no_grad()
def _psnr(vae: AutoencoderKL, toys: list[Toy]) -> float:
    """Mean over pictures of the peak signal-to-noise ratio of their reconstructions."""
    values = []
    for pictures in render_tensor(toys).split(BATCH_SIZE):
        pixels = to_model_range(pictures).to(vae.device)
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        values.append(-10 * torch.log10(((decoded - pixels) / 2).square().mean(dim=(1, 2, 3))))
    return round(torch.cat(values).mean().item(), 2)


def _size_mb(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 2)
