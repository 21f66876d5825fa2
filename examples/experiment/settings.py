"""What is compared: where rows start, and how they are trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusers_supreme_init import PAPER_SETTINGS, SupremeInitConfig


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to start the rows of a concept.

    Attributes:
        name: In files and tables.
        label: In figures.
        words: Whose words the rows start from: ``"class"``, ``"caption"``, ``"auto"``, or ``"*"`` itself.
        num_vectors: Rows; None: one per token of the words.
        as_many_as_caption: As many rows as the caption has tokens, instead.
    """

    name: str
    label: str
    words: str
    num_vectors: int | None = None
    as_many_as_caption: bool = False


@dataclass(frozen=True, kw_only=True)
class Group:
    """Settings that are trained in one batch, with the same options.

    Attributes:
        name: Folder of its files.
        label: In tables and figures.
        settings: What is compared.
        options: Fields of `SupremeInitConfig` that differ from the paper's.
        all_pictures: Train on all pictures of a concept but the last; otherwise on the first alone.
        is_paper: The paper's own experiment; the other groups are shorter.
        is_followed: Pictures are drawn along the way as well, not only at the end.
    """

    name: str
    label: str
    settings: Sequence[Setting]
    options: Mapping[str, Any] = field(default_factory=dict)
    all_pictures: bool = False
    is_paper: bool = False
    is_followed: bool = False


STAR = Setting(name="star", label='"*"', words="*")
CLASS = Setting(name="class", label="class label", words="class")
STARS = Setting(name="stars", label='several "*"', words="*", as_many_as_caption=True)
CAPTION = Setting(name="caption", label="caption", words="caption")
AUTO = Setting(name="auto", label="auto", words="auto")

PAPER = Group(
    name="paper",
    label="the paper's settings",
    settings=(STAR, CLASS, STARS, CAPTION, AUTO),
    is_paper=True,
    is_followed=True,
)
DEFAULT = Group(
    name="default",
    label="the default settings",
    settings=PAPER.settings,
    options={name: getattr(SupremeInitConfig(), name) for name in PAPER_SETTINGS},
    is_followed=True,
)
OBJECT = Group(
    name="object",
    label="the paper's, on the object",
    settings=PAPER.settings,
    options={"masked_loss": True, "unmasked_weight": 0.25},
    is_followed=True,
)
"""The paper's experiment, learning from the object rather than from the picture."""
FOLLOWED = (PAPER, DEFAULT, OBJECT)

PREFIXES = tuple(
    Setting(name=f"caption-{number}", label=f"first {number} of the caption", words="caption", num_vectors=number)
    for number in (1, 2, 4)
)
BEYOND = (
    DEFAULT,
    OBJECT,
    Group(name="num_vectors", label="fewer rows", settings=PREFIXES),
    Group(name="masked_loss", label="nothing outside the mask", settings=(CAPTION,), options={"masked_loss": True}),
    Group(name="pictures", label="four pictures", settings=(STAR, CLASS, CAPTION), all_pictures=True),
)
"""What the paper left open: our defaults, rows per concept, options of training, more pictures."""

EARLY_STEPS = (0, 5, 10, 15, 20, 30, 40, 60, 80, 100)
"""Losses are measured after these, as densely at the beginning as in the paper's code, then every 50 steps."""


def validation_steps(max_train_steps: int) -> list[int]:
    """Return the steps after which losses are measured, the last one included."""
    later = range(EARLY_STEPS[-1], max_train_steps, 50)
    return sorted({step for step in (*EARLY_STEPS, *later) if step < max_train_steps} | {max_train_steps})


def picture_steps(max_train_steps: int, steps_beyond: int) -> list[int]:
    """Return the steps of a followed group after which pictures are drawn."""
    return sorted({step for step in (0, 10, 30, steps_beyond) if step < max_train_steps} | {max_train_steps})
