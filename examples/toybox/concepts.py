"""The held-out toys of `concepts/`: no training picture shows their category, body color and pattern together."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from captions import CAPTIONER_DETAILS, caption
from world import PLAIN_SHADE, Toy, random_pose, random_toy, render, render_mask, shown_details

CONCEPT_SIZE = 256


@dataclass(frozen=True)
class HeldOut:
    """A toy and whether its caption tells the background; trim, emblem, accessory and shade are never told."""

    toy: Toy
    tells_background: bool = False

    @property
    def caption(self) -> str:
        """The sentence that a captioner says of the toy."""
        background = ("background",) if self.tells_background else ()
        return caption(self.toy, (*CAPTIONER_DETAILS, *background))

    @property
    def told(self) -> dict[str, str]:
        """What the caption tells of the toy itself, by the names of `DETAILS`."""
        return {name: value for name, value in self._looks.items() if name in CAPTIONER_DETAILS}

    @property
    def untold(self) -> dict[str, str]:
        """What the picture shows of the toy and the caption does not tell: what training has to find."""
        return {name: value for name, value in self._looks.items() if name not in CAPTIONER_DETAILS}

    @property
    def _looks(self) -> dict[str, str]:
        # The background is the picture's, not the toy's.
        return {name: value for name, value in shown_details(self.toy).items() if name != "background"}


def _posed(*looks: str | None) -> Toy:
    return random_pose(Toy(*looks), random.Random(f"pose-{looks[0]}"))


# Category, color, shade, pattern and its color, trim, emblem and its color, accessory, background.
HELD_OUT = (
    HeldOut(_posed("mug", "red", "pale", "striped", "black", "blue", "star", "green", "balloon", "cream")),
    HeldOut(_posed("clock", "pink", "deep", "plain", None, "yellow", "heart", "blue", "bow", "mint"), True),
    HeldOut(_posed("backpack", "green", "pale", "checked", "black", "purple", "moon", "red", "flag", "lavender")),
    HeldOut(_posed("teapot", "yellow", "dusty", "spotted", "white", "green", "cross", "purple", "bow", "gray"), True),
    HeldOut(_posed("bird", "blue", "deep", "spotted", "white", "yellow", "triangle", "red", "balloon", "cream")),
    HeldOut(_posed("car", "purple", "pale", "plain", None, "black", "ring", "green", "flag", "mint")),
    HeldOut(_posed("bear", "orange", "pale", "striped", "black", "blue", "heart", "purple", "bow", "sky")),
    HeldOut(_posed("sneaker", "blue", "dusty", "checked", "yellow", "white", "star", "red", "flag", "cream")),
    HeldOut(_posed("sunglasses", "orange", "dusty", "striped", "white", "purple", "moon", "green", "balloon", "gray")),
    HeldOut(_posed("lamp", "purple", "deep", "spotted", "yellow", "red", "cross", "black", "bow", "lavender")),
    HeldOut(_posed("umbrella", "green", "deep", "plain", None, "red", "triangle", "yellow", "balloon", "sky"), True),
    HeldOut(_posed("fish", "pink", "dusty", "striped", "yellow", "black", "ring", "blue", "flag", "sky")),
)
HELD_OUT_IDENTITIES = frozenset(held_out.toy.identity for held_out in HELD_OUT)


def concept_record(held_out: HeldOut) -> dict[str, object]:
    """What `metadata.jsonl` says of a toy beside its files."""
    category = held_out.toy.category
    return {
        "class": category,
        "caption": held_out.caption,
        "placeholder_token": f"<{category}>",
        "told": held_out.told,
        "untold": held_out.untold,
        "background": held_out.toy.background,
    }


def other_toys(seed: int = 1) -> tuple[HeldOut, ...]:
    """Return a toy of each category that differs from those of `concepts/` and shows every detail.

    The captions tell the background of three in twelve. Training pictures may show their identities, but hardly ever
    all of their details together.
    """
    toys = []
    for number, held_out in enumerate(HELD_OUT):
        rng = random.Random(f"other-{seed}-{held_out.toy.category}")
        toy = random_toy(rng, held_out.toy.category)
        while toy.emblem is None or toy.accessory is None or toy.shade == PLAIN_SHADE:
            toy = random_toy(rng, held_out.toy.category)
        toys.append(HeldOut(toy, tells_background=number % 4 == 3))
    return tuple(toys)


def write_concepts(concepts_dir: Path, held_outs: Sequence[HeldOut] = HELD_OUT) -> None:
    """Write a picture, a mask and a line of `metadata.jsonl` (the `imagefolder` convention) for each held-out toy."""
    (concepts_dir / "masks").mkdir(parents=True, exist_ok=True)
    lines = []
    for held_out in held_outs:
        category = held_out.toy.category
        file_name, mask_file_name = f"{category}.png", f"masks/{category}.png"
        render(held_out.toy, CONCEPT_SIZE).save(concepts_dir / file_name)
        render_mask(held_out.toy, CONCEPT_SIZE).save(concepts_dir / mask_file_name)
        record = {"file_name": file_name, "mask_file_name": mask_file_name, **concept_record(held_out)}
        lines.append(json.dumps(record) + "\n")
    (concepts_dir / "metadata.jsonl").write_text("".join(lines))
