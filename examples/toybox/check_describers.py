"""Measures the captioner and the segmenter through the package's own describers, as if they came from the Hub."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from concepts import HELD_OUT
from dataset import sample_toys
from PIL import Image
from scene_dataset import sample_scenes
from scenes import draw_scene
from tqdm import tqdm
from world import CATEGORIES, COLORS, PATTERN_WORDS, Toy, render

from diffusers_supreme_init.describers import Captioner, Mask, Region, Segmenter, crop_region, mask_to_box

NUM_TEST_TOYS = 600
NUM_TEST_SCENES = 120
BACKGROUNDS_OF_CROPS = ("keep", "remove")


@dataclass(frozen=True)
class ClickedToy:
    """A toy of a scene, the pixels where it is seen and a random one of them."""

    picture: Image.Image
    toy: Toy
    mask: Mask
    click: tuple[int, int]


def measure_describers(toybox_dir: Path) -> dict[str, dict[str, float]]:
    """Measure the committed captioner and segmenter; accuracies and intersections over union, in [0, 1]."""
    captioner, segmenter = Captioner(str(toybox_dir / "captioner")), Segmenter(str(toybox_dir / "segmenter"))
    clicked = clicked_toys("test", NUM_TEST_SCENES)
    masks = [segmenter.segment(one.picture, Region(points=one.click)).mask for one in tqdm(clicked, desc="clicks")]
    boxed = [segmenter.segment(one.picture, Region(box=mask_to_box(one.mask))).mask for one in clicked]
    overlaps = [overlap(mask, one.mask) for mask, one in zip(masks, clicked, strict=True)]
    of_boxes = [overlap(mask, one.mask) for mask, one in zip(boxed, clicked, strict=True)]
    return {
        "captioner": _accuracies_of_drawings(captioner, sample_toys("test", NUM_TEST_TOYS)),
        "captioner_on_concepts": _accuracies_of_drawings(captioner, [held_out.toy for held_out in HELD_OUT]),
        "clicks": {
            "iou": round(float(np.mean(overlaps)), 4),
            "iou_above_half": round(float(np.mean(np.array(overlaps) > 0.5)), 4),
            "iou_of_boxes": round(float(np.mean(of_boxes)), 4),
            "num_clicks": len(clicked),
        },
        **{
            f"clicked_captions_{background}": _accuracies_of_clicks(captioner, clicked, masks, background)
            for background in BACKGROUNDS_OF_CROPS
        },
        # What the captioner gets wrong of itself, without the mistakes of the segmenter.
        "captions_of_true_masks": _accuracies_of_clicks(captioner, clicked, [one.mask for one in clicked], "keep"),
    }


def clicked_toys(split: str, num_scenes: int) -> list[ClickedToy]:
    """Every toy of the first scenes of a split, clicked anywhere on what is seen of it."""
    rng = random.Random(f"clicks-{split}")
    clicked = []
    for scene in sample_scenes(split, num_scenes):
        picture, masks = draw_scene(scene)
        for toy, mask in zip(scene.toys, masks, strict=True):
            seen = np.asarray(mask) > 0
            row, column = rng.choice(np.argwhere(seen).tolist())
            clicked.append(ClickedToy(picture, toy, seen, (column, row)))
    return clicked


def read_caption(text: str) -> dict[str, str | None]:
    """What a caption tells, by exact words: the class, the color before it, the pattern and the color before that.

    A caption without a word for a pattern tells of a plain toy.
    """
    words = ["", *text.split()]
    class_at = next((index for index, word in enumerate(words) if word in CATEGORIES), 0)
    names = {word: name for name, word in PATTERN_WORDS.items()}
    pattern_at = next((index for index, word in enumerate(words) if word in names), 0)
    color, pattern_color = (words[at - 1] if at and words[at - 1] in COLORS else None for at in (class_at, pattern_at))
    return {
        "class": words[class_at] or None,
        "color": color,
        "pattern": names.get(words[pattern_at], "plain"),
        "pattern_color": pattern_color,
    }


def overlap(one: Mask, other: Mask) -> float:
    """Intersection over union."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def _accuracies_of_drawings(captioner: Captioner, toys: list[Toy]) -> dict[str, float]:
    captions = [captioner.describe(render(toy))[0].text for toy in tqdm(toys, desc="captions")]
    return _accuracies(captions, toys) | {"num_pictures": len(toys)}


def _accuracies_of_clicks(
    captioner: Captioner, clicked: list[ClickedToy], masks: list[Mask], background: str
) -> dict[str, float]:
    captions = [
        captioner.describe(crop_region(one.picture, mask, background=background))[0].text if mask.any() else ""
        for one, mask in zip(tqdm(clicked, desc=f"captions of clicks, {background}"), masks, strict=True)
    ]
    return _accuracies(captions, [one.toy for one in clicked]) | {"num_pictures": len(clicked)}


def _accuracies(captions: list[str], toys: list[Toy]) -> dict[str, float]:
    truths = [
        {"class": toy.category, "color": toy.color, "pattern": toy.pattern, "pattern_color": toy.pattern_color}
        for toy in toys
    ]
    told = [read_caption(text) for text in captions]
    return {
        look: round(sum(one[look] == truth[look] for one, truth in zip(told, truths, strict=True)) / len(toys), 4)
        for look in truths[0]
    }
