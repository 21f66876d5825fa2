"""Concepts -> pictures: previews during training, samples for the model card."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..errors import ConfigError, SupremeInitWarning, TrainingError, shown
from ..file_names import preview_name
from ..inputs.field_values import is_text
from ..objective.phases import NO_PROMPT, ready_to_draw, ready_to_step
from ..randomness import generator_for
from ..templates import fill_template
from ..text.text_pairs import TextPair
from ..text.vocabulary import ConceptVocabulary
from ..triggers import holds_trigger
from .progress import ConceptProgress
from .trackers import send

SAMPLE_PROMPTS = ("a photo of a {}", "a photo of a {} on the beach", "an oil painting of a {}")
"""Default prompts of the pictures on the card; ``{}`` stands for the concept."""


@dataclass(frozen=True)
class SampleImage:
    """A picture and the prompt it was drawn from."""

    prompt: str
    image: Image.Image


def check_prompts(name: str, prompts: str | Sequence[str], placeholder_tokens: Sequence[str]) -> tuple[str, ...]:
    """Return prompts that are to be drawn for each of some concepts; a single text is one prompt.

    Args:
        name: Name of the argument in messages.
        prompts: Texts with ``{}``, or with the placeholder token itself as in diffusers' scripts.
        placeholder_tokens: The concepts.

    Raises:
        ConfigError: One is not a text, or has neither ``{}`` nor the token of a concept. Pictures of something else
            would be shown as pictures of that concept.
    """
    given = (prompts,) if isinstance(prompts, str) else prompts
    if not isinstance(given, Sequence) or not all(is_text(prompt) for prompt in given):
        raise ConfigError(f"{name}: expected a list of texts, got {shown(given)}; pass ['a photo of a {{}}']")
    for prompt in given:
        for token in placeholder_tokens:
            if "{}" not in prompt and not holds_trigger(prompt, [token]):
                raise ConfigError(
                    f"{name}: expected '{{}}' where {token} stands, got {shown(prompt)}; write 'a photo of a {{}}'"
                )
    return tuple(given)


def warn_of_blackened(where: str, flags: Sequence[Sequence[bool] | None]) -> None:
    """Say how many pictures the safety checker has replaced with black ones.

    Args:
        where: What the pictures are.
        flags: ``nsfw_content_detected`` of the pipeline's outputs.

    Warns:
        SupremeInitWarning: There are some.
    """
    blackened = [flag for of_output in flags for flag in of_output or ()]
    if any(blackened):
        warnings.warn(
            f"{where}: {sum(map(bool, blackened))} of {len(blackened)} pictures are black: the pipeline's safety "
            "checker replaced them",
            SupremeInitWarning,
            stacklevel=3,
        )


def preview_prompts(concepts: Sequence[ConceptProgress], config: SupremeInitConfig) -> list[str]:
    """Return `validation_prompt` filled in for each concept; empty if none is set."""
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
    """Draw `validation_prompt` on one sheet, a line of pictures per concept, with the same noises at every step.

    The sheet is also sent to the TensorBoard and Weights & Biases trackers.

    Returns:
        The files written: one sheet in `output_dir`, see `preview_name`.
    """
    pipe, rows, flags = backbone.drawing_pipe, [], []
    with ready_to_draw(backbone, accelerator.device):
        for text in preview_prompts(concepts, config):
            generators = [
                generator_for(config.seed, "", 0, index, "preview") for index in range(config.num_validation_images)
            ]
            output = pipe(
                prompt=text,
                num_images_per_prompt=config.num_validation_images,
                generator=generators,
                **backbone.drawing_options,
            )
            rows.append(_side_by_side(output.images))
            flags.append(getattr(output, "nsfw_content_detected", None))
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for index, row in enumerate(rows):
        sheet.paste(row, (0, index * row.height))
    path = Path(config.output_dir or "") / preview_name(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    warn_of_blackened(f"previews of step {step}", flags)

    def send_sheet(tracker: Any) -> None:
        if tracker.name == "tensorboard":
            tracker.log_images({"previews": np.asarray(sheet)[None]}, step=step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images({"previews": [sheet]}, step=step)

    send(accelerator, send_sheet)
    return [path]


@torch.no_grad()
def draw_samples(
    backbone: Backbone,
    concepts: Sequence[ConceptProgress],
    prompts: Sequence[str],
    *,
    seed: int,
    device: torch.device,
    batch_size: int = 1,
    num_inference_steps: int = 30,
) -> list[list[SampleImage]]:
    """Draw one picture of each concept for each prompt; equal seeds give equal pictures.

    Use within `ready_to_step` for their `sample_texts` and `NO_PROMPT`.

    Args:
        backbone: Backbone of a pipeline that holds the concepts.
        concepts: Each replaces ``{}`` in the prompts.
        prompts: Texts as `check_prompts` returns them; `fill_template` fits their articles to the descriptions.
        seed: Seed of the noise.
        device: Device to draw on; the pipeline is moved back afterwards.
        batch_size: Pictures that are drawn at once; more than one differ by rounding from those drawn alone.
        num_inference_steps: Steps of the pipeline's sampler.

    Returns:
        The pictures of each concept, in the order of the prompts.

    Raises:
        TrainingError: The pipeline no longer holds a concept as trained; the pictures would show something else.
    """
    for concept in concepts:
        _check_is_loaded(backbone, concept)
    texts, generators = [], []
    for concept in concepts:
        for index, text in enumerate(sample_texts(concept, prompts)):
            texts.append(text)
            generators.append(generator_for(seed, concept.placeholder_token, 0, index, "sample"))
    pipe, images, flags = backbone.drawing_pipe, [], []
    with ready_to_draw(backbone, device):
        for first in range(0, len(texts), batch_size):
            together = slice(first, first + batch_size)
            output = pipe(
                prompt=texts[together] if batch_size > 1 else texts[first],
                num_inference_steps=num_inference_steps,
                generator=generators[together] if batch_size > 1 else generators[first],
                **backbone.drawing_options,
            )
            images += output.images
            flags.append(getattr(output, "nsfw_content_detected", None))
    warn_of_blackened(f"samples of {', '.join(concept.placeholder_token for concept in concepts)}", flags)
    samples = [SampleImage(text, image) for text, image in zip(texts, images, strict=True)]
    return [samples[first : first + len(prompts)] for first in range(0, len(samples), len(prompts))]


def sample_texts(concept: ConceptProgress, prompts: Sequence[str]) -> list[str]:
    """Return what is drawn of a concept for prompts as `check_prompts` returns them."""
    return [fill_template(prompt, concept.placeholder_token, concept.description) for prompt in prompts]


@torch.no_grad()
def draw_columns(
    backbone: Backbone,
    concept: ConceptProgress,
    texts: Sequence[str],
    *,
    num_columns: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    sampling: Mapping[str, Any],
) -> list[list[Image.Image]]:
    """Draw several pictures of each prompt; picture k of every prompt starts from the same noise.

    Args:
        backbone: Backbone of a pipeline that holds the concept.
        concept: The concept; the noises do not depend on it, so that concepts can be compared.
        texts: Prompts, as they are.
        num_columns: Pictures of each prompt.
        batch_size: Pictures that are drawn at once.
        seed: Seed of the noises.
        device: Device to draw on; the pipeline is moved back afterwards.
        sampling: Further arguments of the pipeline.

    Raises:
        TrainingError: The pipeline no longer holds the concept as trained; the pictures would show something else.
    """
    _check_is_loaded(backbone, concept)
    pipe, flags = backbone.drawing_pipe, []
    rows: list[list[Image.Image]] = []
    with ready_to_step(backbone, device, [*texts, NO_PROMPT]), ready_to_draw(backbone, device):
        for text in texts:
            rows.append([])
            for first in range(0, num_columns, batch_size):
                numbers = range(first, min(first + batch_size, num_columns))
                generators = [generator_for(seed, "", 0, number, "column") for number in numbers]
                output = pipe(
                    prompt=text,
                    num_images_per_prompt=len(numbers),
                    generator=generators,
                    **{**backbone.drawing_options, **sampling},
                )
                rows[-1] += output.images
                flags.append(getattr(output, "nsfw_content_detected", None))
    warn_of_blackened(f"the report on {concept.placeholder_token}", flags)
    return rows


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    width, height = pictures[0].size
    row = Image.new("RGB", (width * len(pictures), height))
    for index, picture in enumerate(pictures):
        row.paste(picture, (index * width, 0))
    return row


def _check_is_loaded(backbone: Backbone, concept: ConceptProgress) -> None:
    trigger = concept.placeholder_token
    if all(_holds(pair, trigger, concept.rows[pair.encoder_name]) for pair in backbone.trained):
        return
    raise TrainingError(
        f"{trigger} has been unloaded or changed since it was trained; load the saved concept again, or pass "
        "sample_prompts=()"
    )


def _holds(pair: TextPair, trigger: str, rows: Tensor) -> bool:
    vocabulary = ConceptVocabulary(pair)
    if not vocabulary.holds(trigger):
        return False
    held = vocabulary.rows_of(trigger)
    return torch.equal(held.cpu(), rows.to(held.dtype))
