"""Stage "views": the toys of `concepts/` seen again, turned, shifted and elsewhere, to learn from several pictures."""

import json
import random
from dataclasses import replace
from pathlib import Path

from concepts import HELD_OUT, HeldOut
from world import BACKGROUNDS, Toy, render, render_mask

VIEW_SIZE = 128
NUM_VIEWS = 4


def other_views(held_out: HeldOut) -> list[Toy]:
    """The same toy, shade and emblem included, with another pose and background in each view."""
    toy = held_out.toy
    rng = random.Random(f"views-{toy.category}")
    backgrounds = [name for name in BACKGROUNDS if name != toy.background]
    rng.shuffle(backgrounds)
    return [
        replace(
            toy,
            background=background,
            angle=rng.uniform(-15, 15),
            scale=rng.uniform(0.8, 0.95),
            offset=(rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06)),
            flip=rng.random() < 0.5,
        )
        for background in backgrounds[:NUM_VIEWS]
    ]


def write_views(views_dir: Path, concepts_name: str = "concepts") -> None:
    """Write the views, their masks and `metadata.jsonl` (the `imagefolder` convention).

    The first picture of each toy is that of `concepts/`, which is not written again.
    """
    (views_dir / "masks").mkdir(parents=True, exist_ok=True)
    lines = []
    for held_out in HELD_OUT:
        category = held_out.toy.category
        names = {f"../{concepts_name}/{category}.png": f"../{concepts_name}/masks/{category}.png"}
        for number, toy in enumerate(other_views(held_out), start=1):
            file_name, mask_file_name = f"{category}-{number}.png", f"masks/{category}-{number}.png"
            render(toy, VIEW_SIZE).save(views_dir / file_name)
            render_mask(toy, VIEW_SIZE).save(views_dir / mask_file_name)
            names[file_name] = mask_file_name
        told = {"class": category, "caption": held_out.caption, "placeholder_token": f"<{category}>"}
        lines += [
            json.dumps({"file_name": name, "mask_file_name": mask, **told}) + "\n" for name, mask in names.items()
        ]
    (views_dir / "metadata.jsonl").write_text("".join(lines))
