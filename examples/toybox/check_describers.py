"""Measures the captioner and the segmenter through the package's own describers, as if they came from the Hub."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from captions import CAPTIONER_DETAILS, PATTERN_WORDS
from concepts import HELD_OUT
from dataset import sample_toys
from PIL import Image
from scene_dataset import sample_scenes
from scenes import draw_scene
from tqdm import tqdm
from world import BACKGROUNDS, CATEGORIES, COLORS, Toy, render

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


def measure_captioner(captioner_dir: Path) -> dict[str, dict[str, float]]:
    """Measure the captioner on unseen toys drawn alone and on those of `concepts/`; shares in [0, 1]."""
    captioner = Captioner(str(captioner_dir))
    toys = {"captioner": sample_toys("test", NUM_TEST_TOYS), "captioner_on_concepts": [one.toy for one in HELD_OUT]}
    return {name: _captions_of_drawings(captioner, some) for name, some in toys.items()}


def measure_segmenter(segmenter_dir: Path, captioner_dir: Path) -> dict[str, dict[str, float]]:
    """Measure the masks of clicks and boxes, and what the captioner says of the crops; shares in [0, 1]."""
    captioner, segmenter = Captioner(str(captioner_dir)), Segmenter(str(segmenter_dir))
    clicked = clicked_toys("test", NUM_TEST_SCENES)
    masks = [segmenter.segment(one.picture, Region(points=one.click)).mask for one in tqdm(clicked, desc="clicks")]
    boxed = [segmenter.segment(one.picture, Region(box=mask_to_box(one.mask))).mask for one in clicked]
    overlaps = [overlap(mask, one.mask) for mask, one in zip(masks, clicked, strict=True)]
    of_boxes = [overlap(mask, one.mask) for mask, one in zip(boxed, clicked, strict=True)]
    return {
        "clicks": {
            "iou": round(float(np.mean(overlaps)), 4),
            "iou_above_half": round(float(np.mean(np.array(overlaps) > 0.5)), 4),
            "iou_of_boxes": round(float(np.mean(of_boxes)), 4),
            "num_clicks": len(clicked),
        },
        **{
            f"clicked_captions_{background}": _captions_of_clicks(captioner, clicked, masks, background)
            for background in BACKGROUNDS_OF_CROPS
        },
        # What the captioner gets wrong of itself, without the mistakes of the segmenter.
        "captions_of_true_masks": _captions_of_clicks(captioner, clicked, [one.mask for one in clicked], "keep"),
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
    """What a caption tells, by exact words at their places; None: it does not tell that.

    A caption without a word for a pattern tells of a plain toy.
    """
    words = ["", *text.split()]
    class_at = next((index for index, word in enumerate(words) if word in CATEGORIES), 0)
    names = {word: name for name, word in PATTERN_WORDS.items()}
    pattern_at = next((index for index, word in enumerate(words) if word in names), 0)
    color, pattern_color = (words[at - 1] if at and words[at - 1] in COLORS else None for at in (class_at, pattern_at))
    is_placed = words[-1] == "background" and words[-2] in BACKGROUNDS
    return {
        "category": words[class_at] or None,
        "color": color,
        "pattern": names.get(words[pattern_at], "plain"),
        "pattern_color": pattern_color,
        "background": words[-2] if is_placed else None,
    }


def overlap(one: Mask, other: Mask) -> float:
    """Intersection over union."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def _captions_of_drawings(captioner: Captioner, toys: list[Toy]) -> dict[str, float]:
    captions = [captioner.describe(render(toy))[0].text for toy in tqdm(toys, desc="captions")]
    return _accuracies(captions, toys) | {"num_pictures": len(toys)}


def _captions_of_clicks(
    captioner: Captioner, clicked: list[ClickedToy], masks: list[Mask], background: str
) -> dict[str, float]:
    captions = [
        captioner.describe(crop_region(one.picture, mask, background=background))[0].text if mask.any() else ""
        for one, mask in zip(tqdm(clicked, desc=f"captions of clicks, {background}"), masks, strict=True)
    ]
    return _accuracies(captions, [one.toy for one in clicked]) | {"num_pictures": len(clicked)}


def _accuracies(captions: list[str], toys: list[Toy]) -> dict[str, float]:
    """Shares of right words; of a pattern that is not told nothing is wrong, and how often it is told is given too."""
    told = [read_caption(text) for text in captions]
    right: dict[str, list[bool]] = {name: [] for name in CAPTIONER_DETAILS}
    for one, toy in zip(told, toys, strict=True):
        is_told = one["pattern"] != "plain" or toy.pattern == "plain"
        for name, values in right.items():
            if is_told or not name.startswith("pattern"):
                values.append(one[name] == getattr(toy, name))
    patterned = [one["pattern"] != "plain" for one, toy in zip(told, toys, strict=True) if toy.pattern != "plain"]
    return {
        **{name: _share(values) for name, values in right.items()},
        "tells_pattern": _share(patterned),
        "tells_background": _share([one["background"] is not None for one in told]),
    }


def _share(values: list[bool]) -> float:
    return round(sum(values) / max(1, len(values)), 4)
