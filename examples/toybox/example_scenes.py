"""Stage "scenes": a few committed scenes in which toys of `concepts/` stand among others, to click on."""

import json
import random
from pathlib import Path

import numpy as np
from captions import caption
from concepts import HELD_OUT, HELD_OUT_IDENTITIES
from PIL import Image, ImageFilter
from scenes import Scene, arrange, draw_scene
from world import Toy, random_toy

EXAMPLE_SIZE = 256
# Which toys of `concepts/` a scene holds, and the others beside them.
EXAMPLES = (
    (("mug",), ("bear",)),
    (("teapot", "car"), ("umbrella",)),
    (("bird", "sneaker"), ("lamp",)),
    (("backpack", "fish"), ("clock", "sunglasses")),
)


def example_scenes() -> list[Scene]:
    """The committed scenes, the same at every call."""
    return [_example_scene(*names, random.Random(f"example-{index}")) for index, names in enumerate(EXAMPLES)]


def write_scenes(scenes_dir: Path) -> None:
    """Write each scene, a mask for each of its toys and a line of `metadata.jsonl` (the `imagefolder` convention)."""
    (scenes_dir / "masks").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, scene in enumerate(example_scenes(), start=1):
        picture, masks = draw_scene(scene, EXAMPLE_SIZE)
        picture.save(scenes_dir / f"scene_{number}.png")
        entries = []
        for toy, mask in zip(scene.toys, masks, strict=True):
            mask_file_name = f"masks/scene_{number}_{toy.category}.png"
            mask.convert("1").save(scenes_dir / mask_file_name)
            entries.append(
                {
                    "class": toy.category,
                    "caption": caption(toy),
                    "is_concept": toy.identity in HELD_OUT_IDENTITIES,
                    "click": find_click(mask),
                    "box": mask.getbbox(),
                    "mask_file_name": mask_file_name,
                }
            )
        lines.append(json.dumps({"file_name": f"scene_{number}.png", "toys": entries}) + "\n")
    (scenes_dir / "metadata.jsonl").write_text("".join(lines))


def find_click(mask: Image.Image) -> tuple[int, int]:
    """Find a pixel (right, down) as far inside a mask as any: where a user would click."""
    inner = mask
    while (smaller := inner.filter(ImageFilter.MinFilter(3))).getbbox():
        inner = smaller
    rows, columns = np.asarray(inner).nonzero()
    middle = len(rows) // 2
    return int(columns[middle]), int(rows[middle])


def _example_scene(concepts: tuple[str, ...], others: tuple[str, ...], rng: random.Random) -> Scene:
    toys = [held_out.toy for held_out in HELD_OUT if held_out.toy.category in concepts]
    return arrange([*toys, *(_other_toy(category, rng) for category in others)], rng)


def _other_toy(category: str, rng: random.Random) -> Toy:
    while (toy := random_toy(rng, category)).identity in HELD_OUT_IDENTITIES:
        pass
    return toy
