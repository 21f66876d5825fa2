"""Stage "views": the toys of `concepts/` seen again, turned, shifted and elsewhere, to learn from several pictures."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from concepts import HELD_OUT, HeldOut, concept_record
from world import BACKGROUNDS, Toy, random_pose, render, render_mask

VIEW_SIZE = 128
NUM_VIEWS = 4


def other_views(held_out: HeldOut) -> list[Toy]:
    """The same toy, shade and emblem included, with another pose and background in each view."""
    toy = held_out.toy
    rng = random.Random(f"views-{toy.category}")
    backgrounds = [name for name in BACKGROUNDS if name != toy.background]
    rng.shuffle(backgrounds)
    return [random_pose(replace(toy, background=background), rng) for background in backgrounds[:NUM_VIEWS]]


def write_views(views_dir: Path, concepts_name: str = "concepts", held_outs: Sequence[HeldOut] = HELD_OUT) -> None:
    """Write the views, their masks and `metadata.jsonl` (the `imagefolder` convention).

    The first picture of each toy is that of `concepts/`, which is not written again.
    """
    (views_dir / "masks").mkdir(parents=True, exist_ok=True)
    lines = []
    for held_out in held_outs:
        category = held_out.toy.category
        names = {f"../{concepts_name}/{category}.png": f"../{concepts_name}/masks/{category}.png"}
        for number, toy in enumerate(other_views(held_out), start=1):
            file_name, mask_file_name = f"{category}-{number}.png", f"masks/{category}-{number}.png"
            render(toy, VIEW_SIZE).save(views_dir / file_name)
            render_mask(toy, VIEW_SIZE).save(views_dir / mask_file_name)
            names[file_name] = mask_file_name
        record = {name: value for name, value in concept_record(held_out).items() if name != "background"}
        lines += [
            json.dumps({"file_name": name, "mask_file_name": mask, **record}) + "\n" for name, mask in names.items()
        ]
    (views_dir / "metadata.jsonl").write_text("".join(lines))
