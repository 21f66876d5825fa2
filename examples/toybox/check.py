"""Measures what is committed: nothing here is assumed, every figure comes from the saved models."""

import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from check_describers import measure_describers
from concepts import HELD_OUT
from dataset import render_tensor, sample_toys, to_model_range
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm
from training import pick_device
from transformers import AutoImageProcessor, ViTForImageClassification
from world import CATEGORIES, COLORS, Toy, caption, random_toy, render

NUM_TEST_TOYS = 600
MEASURED_FOLDERS = ("pipeline", "classifier", "judge", "captioner", "segmenter", "concepts", "scenes")
BATCH_SIZE = 60
# How much each of the captions that ask for one category in one color tells.
ASKED_DETAILS = ({"pattern": False}, {"pattern": True}, {"pattern": True, "trim": True, "background": True})
# What the judge is asked about, and where a toy holds the answer.
LOOKS = {"class": "category", "color": "color", "pattern": "pattern", "background": "background"}


@dataclass(frozen=True)
class GenerationSettings:
    """How the measured pictures are generated."""

    num_inference_steps: int = 30
    guidance_scale: float = 4.0
    seed: int = 0


@dataclass(frozen=True)
class Asked:
    """A caption, the toy it was made from and the groups of looks that it tells."""

    toy: Toy
    caption: str
    groups: tuple[str, ...]


class Reader:
    """A saved image classifier; of labels such as "color: red" it gives the best value of each group."""

    def __init__(self, model_dir: Path) -> None:
        """Load the model and its image processor from a folder."""
        self.model = ViTForImageClassification.from_pretrained(model_dir).to(pick_device()).eval()
        self.processor = AutoImageProcessor.from_pretrained(model_dir)
        self.groups: dict[str, dict[int, str]] = {}
        for index, label in self.model.config.id2label.items():
            group, _, value = label.rpartition(": ")
            self.groups.setdefault(group or "class", {})[index] = value

    @torch.no_grad()
    def read(self, pictures: list[Image.Image]) -> list[dict[str, str]]:
        """Tell the value of every group for each picture."""
        inputs = self.processor(pictures, return_tensors="pt").to(self.model.device)
        logits = self.model(**inputs).logits
        answers: list[dict[str, str]] = [{} for _ in pictures]
        for group, values in self.groups.items():
            best = logits[:, list(values)].argmax(dim=1)
            for answer, position in zip(answers, best.tolist(), strict=True):
                answer[group] = list(values.values())[position]
        return answers


def measure_quality(toybox_dir: Path, settings: GenerationSettings) -> dict[str, dict[str, float]]:
    """Measure the committed models.

    Returns:
        Accuracies in [0, 1], PSNR in decibels, sizes in megabytes of 10**6 bytes, and how they were obtained.
    """
    pipe = _load_pipeline(toybox_dir)
    judge, classifier = Reader(toybox_dir / "judge"), Reader(toybox_dir / "classifier")
    test_toys = sample_toys("test", NUM_TEST_TOYS)
    asked = _asked(settings.seed)
    generated = _generate(pipe, [one.caption for one in asked], settings)
    answers_generated, answers_drawn = judge.read(generated), judge.read([render(toy) for toy in test_toys])
    drawn = [Asked(toy, "", tuple(LOOKS)) for toy in test_toys]
    named = classifier.read([render(toy) for toy in test_toys])
    return {
        "reconstruction": {"psnr_db": _psnr(pipe.vae, test_toys), "num_pictures": len(test_toys)},
        "reconstruction_of_concepts": {
            "psnr_db": _psnr(pipe.vae, [held_out.toy for held_out in HELD_OUT]),
            "num_pictures": len(HELD_OUT),
        },
        "generated": _accuracies(answers_generated, asked) | {"num_pictures": len(asked)} | asdict(settings),
        "judge_on_drawings": _accuracies(answers_drawn, drawn) | {"num_pictures": len(drawn)},
        "classifier_on_drawings": {
            **_accuracies(named, [replace(one, groups=("class",)) for one in drawn]),
            "num_pictures": len(drawn),
        },
        **measure_describers(toybox_dir),
        "size_mb": {name: _size_mb(toybox_dir / name) for name in MEASURED_FOLDERS},
    }


def write_samples(toybox_dir: Path, settings: GenerationSettings, path: Path, num_generated: int = 3) -> None:
    """Write a sheet with a column for each category: a drawing, and below it pictures generated from its caption."""
    toys = {toy.category: toy for toy in reversed(sample_toys("samples", 200))}
    columns = [toys[category] for category in CATEGORIES]
    captions = [caption(toy, trim=True, background=True) for toy in columns]
    rows = [[render(toy) for toy in columns]]
    pipe = _load_pipeline(toybox_dir)
    for row in range(num_generated):
        rows.append(_generate(pipe, captions, replace(settings, seed=settings.seed + row)))
    size = rows[0][0].width
    sheet = Image.new("RGB", (size * len(columns), size * len(rows)))
    for y, row_pictures in enumerate(rows):
        for x, picture in enumerate(row_pictures):
            sheet.paste(picture, (x * size, y * size))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS).save(path)


def _load_pipeline(toybox_dir: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(toybox_dir / "pipeline").to(pick_device())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _asked(seed: int) -> list[Asked]:
    rng = random.Random(f"asked-{seed}")
    asked = []
    for category in CATEGORIES:
        for color in COLORS:
            for details in ASKED_DETAILS:
                while (toy := random_toy(rng, category)).color != color:
                    pass
                told = ("class", "color", *(group for group in ("pattern", "background") if details.get(group)))
                asked.append(Asked(toy, caption(toy, **details), told))
    return asked


def _generate(pipe: StableDiffusionPipeline, captions: list[str], settings: GenerationSettings) -> list[Image.Image]:
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


def _accuracies(answers: list[dict[str, str]], asked: list[Asked]) -> dict[str, float]:
    accuracies = {}
    for group in LOOKS:
        right = [
            answer[group] == getattr(one.toy, LOOKS[group])
            for answer, one in zip(answers, asked, strict=True)
            if group in one.groups
        ]
        if right:
            accuracies[group] = round(sum(right) / len(right), 4)
    return accuracies


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
