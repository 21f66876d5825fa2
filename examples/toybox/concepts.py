"""The held-out toys of `concepts/`: no training picture shows their category, body color and pattern together."""

import json
from dataclasses import dataclass
from pathlib import Path

from world import Toy, caption, render, render_mask

CONCEPT_SIZE = 256


@dataclass(frozen=True)
class HeldOut:
    """A toy and how much of it its caption tells; shade, pose and emblem are never told."""

    toy: Toy
    tells_trim: bool = False
    tells_background: bool = False

    @property
    def caption(self) -> str:
        """The sentence that describes the toy."""
        return caption(self.toy, trim=self.tells_trim, background=self.tells_background)


HELD_OUT = (
    HeldOut(Toy("mug", "red", "striped", "white", "blue", "sky", 0.02, 0.86, 9, 0.92, (0.02, 0.03), True, "star")),
    HeldOut(
        Toy("clock", "pink", "plain", None, "brown", "mint", -0.02, 0.9, -10, 0.9, (-0.04, 0.0), False, "heart"),
        tells_trim=True,
    ),
    HeldOut(
        Toy(
            "backpack",
            "green",
            "checked",
            "yellow",
            "orange",
            "lavender",
            0.02,
            0.88,
            7,
            0.93,
            (0.0, 0.02),
            False,
            "star",
        )
    ),
    HeldOut(
        Toy(
            "teapot",
            "yellow",
            "spotted",
            "red",
            "green",
            "gray",
            -0.015,
            1.0,
            -12,
            0.94,
            (0.02, -0.02),
            True,
            "diamond",
        ),
        tells_background=True,
    ),
    HeldOut(
        Toy("bird", "blue", "spotted", "white", "orange", "cream", -0.02, 0.95, 8, 0.9, (-0.02, 0.0), True, "heart"),
        tells_trim=True,
    ),
    HeldOut(
        Toy("car", "purple", "plain", None, "yellow", "mint", 0.02, 0.92, -6, 0.92, (0.0, 0.04), False, "diamond"),
        tells_trim=True,
    ),
    HeldOut(Toy("bear", "brown", "striped", "pink", "white", "sky", 0.015, 1.0, 6, 0.9, (0.03, 0.0), False, "heart")),
    HeldOut(
        Toy("sneaker", "white", "checked", "blue", "red", "cream", 0.0, 0.98, -11, 0.9, (0.0, -0.03), True, "star"),
        tells_trim=True,
    ),
    HeldOut(
        Toy(
            "sunglasses",
            "orange",
            "striped",
            "black",
            "purple",
            "gray",
            -0.02,
            1.0,
            10,
            0.92,
            (0.0, 0.0),
            False,
            "diamond",
        )
    ),
    HeldOut(
        Toy("lamp", "black", "spotted", "yellow", "pink", "lavender", 0.0, 0.9, -7, 0.94, (-0.03, 0.0), True, "star")
    ),
    HeldOut(
        Toy("umbrella", "orange", "plain", None, "black", "sky", 0.02, 0.93, 12, 0.92, (0.0, 0.03), False, "heart"),
        tells_background=True,
    ),
    HeldOut(
        Toy("fish", "green", "striped", "orange", "yellow", "cream", -0.02, 1.0, -9, 0.93, (0.02, 0.02), True, "star")
    ),
)
HELD_OUT_IDENTITIES = frozenset(held_out.toy.identity for held_out in HELD_OUT)


def write_concepts(concepts_dir: Path) -> None:
    """Write a picture, a mask and a line of `metadata.jsonl` (the `imagefolder` convention) for each held-out toy."""
    (concepts_dir / "masks").mkdir(parents=True, exist_ok=True)
    lines = []
    for held_out in HELD_OUT:
        category = held_out.toy.category
        file_name, mask_file_name = f"{category}.png", f"masks/{category}.png"
        render(held_out.toy, CONCEPT_SIZE).save(concepts_dir / file_name)
        render_mask(held_out.toy, CONCEPT_SIZE).save(concepts_dir / mask_file_name)
        entry = {
            "file_name": file_name,
            "mask_file_name": mask_file_name,
            "class": category,
            "caption": held_out.caption,
            "placeholder_token": f"<{category}>",
        }
        lines.append(json.dumps(entry) + "\n")
    (concepts_dir / "metadata.jsonl").write_text("".join(lines))
