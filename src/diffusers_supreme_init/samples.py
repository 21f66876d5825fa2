"""A learned concept -> pictures for its card."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from .backbones import Backbone
from .errors import TrainingError
from .objective.phases import NO_PROMPT, ready_to_draw, ready_to_step
from .progress import ConceptProgress
from .randomness import generator_for
from .templates import fill_template
from .text_pairs import TextPair
from .vocabulary import held_rows, holds_rows

SAMPLE_PROMPTS = ("a photo of a {}", "a photo of a {} on the beach", "an oil painting of a {}")
"""Drawn for the card unless others are asked for; ``{}`` is the concept."""


@dataclass(frozen=True)
class Sample:
    """A picture and the prompt it was drawn from."""

    prompt: str
    image: Image.Image


@torch.no_grad()
def draw_samples(
    backbone: Backbone,
    concept: ConceptProgress,
    prompts: Sequence[str],
    *,
    seed: int,
    device: torch.device,
    num_inference_steps: int = 30,
) -> list[Sample]:
    """Draw one picture for each prompt; equal seeds give equal pictures.

    Args:
        backbone: Its pipeline holds the concept.
        concept: What ``{}`` in the prompts stands for.
        prompts: Texts with ``{}``, which the article rule fits to the concept's description.
        seed: Of the noise.
        device: Where it is drawn; the pipeline goes home afterwards.
        num_inference_steps: Steps of the pipeline's sampler.

    Raises:
        TrainingError: The pipeline no longer holds the concept, so that the pictures would show something else.
    """
    if not prompts:
        return []  # without touching a pipeline that may be offloaded by now
    _check_is_loaded(backbone, concept)
    samples = []
    texts = [fill_template(prompt, concept.placeholder_token, concept.description) for prompt in prompts]
    pipe = backbone.drawing_pipe
    with ready_to_step(backbone, device, [*texts, NO_PROMPT]), ready_to_draw(backbone, device):
        for index, text in enumerate(texts):
            generator = generator_for(seed, concept.placeholder_token, 0, index, "sample")
            (image,) = pipe(
                text, num_inference_steps=num_inference_steps, generator=generator, **backbone.drawing_options
            ).images
            samples.append(Sample(text, image))
    return samples


def _check_is_loaded(backbone: Backbone, concept: ConceptProgress) -> None:
    trigger = concept.placeholder_token
    if all(_holds(pair, trigger, concept.rows[pair.encoder_name]) for pair in backbone.trained):
        return
    raise TrainingError(
        f"expected {trigger} as it was trained on the pipeline, got it unloaded or changed; load the saved concept "
        "again, or pass sample_prompts=()"
    )


def _holds(pair: TextPair, trigger: str, rows: Tensor) -> bool:
    if not holds_rows(pair, trigger):
        return False
    held = held_rows(pair, trigger)
    return torch.equal(held.cpu(), rows.to(held.dtype))
