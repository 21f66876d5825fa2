"""What a user may point with, drawn at random: one click on a toy, clicks on and beside it, a box around it."""

from dataclasses import dataclass
from typing import Literal

import torch

PromptKind = Literal["click", "clicks", "box", "box and click"]
MAX_CLICKS = 4
MAX_BOX_SHIFT = 0.06


@dataclass(frozen=True)
class Prompts:
    """Prompts for a batch of pictures.

    Attributes:
        inputs: Arguments of `SamModel`: `input_points` ``(batch, num_prompts, num_points, 2)`` in pixels (right, down)
            with `input_labels` (1: on the toy, 0: not), `input_boxes` ``(batch, num_prompts, 4)``.
        targets: What is meant, ``(batch, num_prompts, height, width)``, 1 on the toy and 0 elsewhere.
    """

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor


def draw_prompts(owners: torch.Tensor, num_prompts: int, kind: PromptKind, generator: torch.Generator) -> Prompts:
    """Point at random toys of pictures.

    Args:
        owners: ``(batch, height, width)``: the number of the toy that is seen, 0 for the background.
        num_prompts: For each picture.
        kind: "clicks" are one to four, the first on the toy, the others on it, on its neighbours or on the background.
        generator: Draws everything.
    """
    num_clicks = int(torch.randint(1, MAX_CLICKS + 1, (), generator=generator)) if kind == "clicks" else 1
    points, labels, boxes, targets = [], [], [], []
    for picture in owners:
        present = picture.unique()
        present = present[present > 0]
        for _ in range(num_prompts):
            target = picture == _pick(present, generator)
            clicks, signs = _draw_clicks(picture, target, num_clicks, generator)
            points.append(clicks)
            labels.append(signs)
            boxes.append(_draw_box(target, generator))
            targets.append(target)
    shape = (len(owners), num_prompts)
    inputs = {}
    if kind != "box":
        inputs["input_points"] = torch.stack(points).view(*shape, num_clicks, 2)
        inputs["input_labels"] = torch.tensor(labels).view(*shape, num_clicks)
    if kind in ("box", "box and click"):
        inputs["input_boxes"] = torch.stack(boxes).view(*shape, 4)
    return Prompts(inputs, torch.stack(targets).view(*shape, *owners.shape[1:]).float())


def random_pixel(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A pixel (right, down) of those that are true in ``(height, width)``."""
    return _pick(mask.nonzero(), generator).flip(0).float()


def _draw_clicks(
    picture: torch.Tensor, target: torch.Tensor, num_clicks: int, generator: torch.Generator
) -> tuple[torch.Tensor, list[int]]:
    clicks, signs = [random_pixel(target, generator)], [1]
    regions = [(target, 1), (~target, 0), ((picture > 0) & ~target, 0)]
    regions = [(region, sign) for region, sign in regions if region.any()]
    for _ in range(num_clicks - 1):
        region, sign = regions[int(torch.randint(len(regions), (), generator=generator))]
        clicks.append(random_pixel(region, generator))
        signs.append(sign)
    return torch.stack(clicks), signs


def _draw_box(target: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The half-open box (left, top, right, bottom) around a mask, its edges a little shifted."""
    rows, columns = target.any(dim=1).nonzero(), target.any(dim=0).nonzero()
    left, top, right, bottom = (int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    shift = MAX_BOX_SHIFT * (2 * torch.rand(4, generator=generator) - 1)
    return torch.tensor([left, top, right, bottom]) + shift * torch.tensor([right - left, bottom - top] * 2)


def _pick(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return rows[int(torch.randint(len(rows), (), generator=generator))]
