"""The pipeline of an experiment, by default the toybox, and pictures drawn with it."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from diffusers_supreme_init import ConfigError, DescriberConfig
from diffusers_supreme_init.commands import TOYBOX_TRAINING

TOYBOX = Path(__file__).resolve().parents[1] / "toybox"
TOYBOX_PIPELINE = str(TOYBOX / "pipeline")


def is_toybox(pipeline_name: str) -> bool:
    """Whether a pipeline is the toybox, whose own models describe and judge its pictures."""
    return Path(pipeline_name).resolve() == Path(TOYBOX_PIPELINE).resolve()


def toybox_options(pipeline_name: str) -> dict[str, Any]:
    """Return how to train on the toybox, if a pipeline is the toybox."""
    return TOYBOX_TRAINING if is_toybox(pipeline_name) else {}


def toybox_describers(**options: Any) -> DescriberConfig:
    """Return the toybox's classifier, captioner and segmenter, with further settings."""
    names = ("captioner", "classifier", "segmenter")
    return DescriberConfig(**{**{name: str(TOYBOX / name) for name in names}, **options})


def load_pipeline(name: str = TOYBOX_PIPELINE, dtype: str = "float32") -> Any:
    """Load a pipeline, on the CPU.

    Args:
        name: Hub id or folder.
        dtype: Precision of its weights.

    Raises:
        ConfigError: There is none of that name, or the Hub cannot be reached.
    """
    try:
        pipe = DiffusionPipeline.from_pretrained(name, dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"pretrained_model_name_or_path: expected a folder or Hub id of a pipeline, got {name!r} ({reason})"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompt: str, *, seed: int, num_images: int = 1, **options: Any) -> list[Image.Image]:
    """Return pictures of one prompt; picture k starts from the noise of ``seed + k``."""
    generators = [torch.Generator("cpu").manual_seed(seed + index) for index in range(num_images)]
    return list(pipe(prompt, num_images_per_prompt=num_images, generator=generators, **options).images)
