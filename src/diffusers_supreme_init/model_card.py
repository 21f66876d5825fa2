"""Learned embedding -> model card, from ``model_card_template.md`` beside this module."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import resources
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .config import SupremeInitConfig
from .embedding_file import LearnedEmbedding

CARD_NAME = "README.md"
TEMPLATE_NAME = "model_card_template.md"
LIBRARY_TEMPLATE_NAME = "library_card_template.md"


def model_card_template() -> str:
    """Return the text of the template, from an installed wheel or a checkout alike."""
    return _template(TEMPLATE_NAME)


def render_model_card(
    embedding: LearnedEmbedding,
    *,
    sample_prompts: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
) -> str:
    """Return the Markdown of a concept's card; facts that are unknown are left out.

    Args:
        embedding: The concept, with everything that its file says about it.
        sample_prompts: Prompts of ``images/0.png``, ``images/1.png``, ... beside the card.
        versions: ``{package: version}`` that it was trained with.
    """
    training = embedding.training
    validation_loss = training.get("validation_loss", {})
    card_data = ModelCardData(
        base_model=embedding.base_model,
        base_model_relation="adapter" if embedding.base_model else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["textual_inversion", "text-to-image", "diffusers", "diffusers_supreme_init"],
        instance_prompt=f"a photo of {embedding.placeholder_token}",
        widget=[{"text": text, "output": {"url": image_name(i)}} for i, text in enumerate(sample_prompts)] or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_str=model_card_template(),
        placeholder_token=embedding.placeholder_token,
        num_vectors=embedding.num_vectors,
        description=embedding.description,
        base_model=embedding.base_model,
        encoder=embedding.encoder.class_name if embedding.encoder else None,
        initializer_tokens=embedding.initializer_tokens,
        initializer=training.get("initializer"),
        num_pictures=training.get("num_pictures"),
        steps=training.get("steps"),
        validation_loss=validation_loss,
        loss_curve=_loss_curve(list(validation_loss.values())),
        has_samples=bool(sample_prompts),
        settings=_settings_for_reading(training.get("settings", {})),
        versions=versions or {},
    )
    return str(card)


def render_library_card(concepts: Mapping[str, LearnedEmbedding]) -> str:
    """Return the Markdown of a card for several concepts, ``{folder: concept}``, that live in folders of their own."""
    embeddings = list(concepts.values())
    base_models = {embedding.base_model for embedding in embeddings}
    base_model = next(iter(base_models)) if len(base_models) == 1 else None
    card_data = ModelCardData(
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["textual_inversion", "text-to-image", "diffusers", "diffusers_supreme_init"],
    )
    card = ModelCard.from_template(
        card_data, template_str=_template(LIBRARY_TEMPLATE_NAME), concepts=concepts, base_model=base_model
    )
    return str(card)


def image_name(index: int) -> str:
    """Return where the card looks for its sample number `index`."""
    return f"images/{index}.png"


def _loss_curve(losses: Sequence[float]) -> str:
    """Return losses as a row of bars, the lowest and the highest at both ends of the scale; empty for fewer than 3."""
    if len(losses) < 3 or max(losses) == min(losses):
        return ""
    bars = "▁▂▃▄▅▆▇█"
    scale = (len(bars) - 1) / (max(losses) - min(losses))
    return "".join(bars[round((loss - min(losses)) * scale)] for loss in losses)


def _settings_for_reading(settings: dict[str, Any]) -> dict[str, Any]:
    """Order settings by interest: those that differ from the defaults first; those that are off are left out."""
    defaults = SupremeInitConfig()
    known = {item.name: getattr(defaults, item.name) for item in fields(SupremeInitConfig)}
    changed = {name: value for name, value in settings.items() if name not in known or value != known[name]}
    told = {n: v for n, v in settings.items() if n not in changed and (n == "seed" or v not in (None, [], 0, False))}
    return {**changed, **told}


def _template(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
