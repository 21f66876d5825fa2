"""Validation pictures: what a concept draws while it is being trained."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..objective.phases import ready_to_draw
from ..progress import ConceptProgress
from ..randomness import generator_for
from ..templates import fill_template


def preview_prompts(concepts: Sequence[ConceptProgress], config: SupremeInitConfig) -> list[str]:
    """Return `validation_prompt` for each concept; nothing if there is none."""
    template = config.validation_prompt
    if template is None:
        return []
    return [fill_template(template, concept.placeholder_token, concept.description) for concept in concepts]


@torch.no_grad()
def draw_previews(
    backbone: Backbone,
    concepts: Sequence[ConceptProgress],
    config: SupremeInitConfig,
    step: int,
    accelerator: Accelerator,
) -> list[Path]:
    """Draw `validation_prompt` for each concept, in one row per concept, with the same noises at every step.

    Returns:
        The pictures written, ``output_dir/previews/step-N.png``; trackers get them as well.
    """
    pipe, rows = backbone.drawing_pipe, []
    with ready_to_draw(backbone, accelerator.device):
        for text in preview_prompts(concepts, config):
            generators = [
                generator_for(config.seed, "", 0, index, "preview") for index in range(config.num_validation_images)
            ]
            pictures = pipe(
                text,
                num_images_per_prompt=config.num_validation_images,
                generator=generators,
                **backbone.drawing_options,
            ).images
            rows.append(_side_by_side(pictures))
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for index, row in enumerate(rows):
        sheet.paste(row, (0, index * row.height))
    path = Path(config.output_dir or "") / "previews" / f"step-{step}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({"previews": np.asarray(sheet)[None]}, step=step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images({"previews": [sheet]}, step=step)
    return [path]


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    width, height = pictures[0].size
    row = Image.new("RGB", (width * len(pictures), height))
    for index, picture in enumerate(pictures):
        row.paste(picture, (index * width, 0))
    return row
