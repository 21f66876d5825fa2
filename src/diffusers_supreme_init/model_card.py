"""Learned embedding -> model card, from ``model_card_template.md`` beside this module."""

from dataclasses import fields
from importlib import resources
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .config import SupremeInitConfig
from .embedding_file import LearnedEmbedding

TEMPLATE_NAME = "model_card_template.md"


def model_card_template() -> str:
    """Return the text of the template, from an installed wheel or a checkout alike."""
    return (resources.files(__package__) / TEMPLATE_NAME).read_text(encoding="utf-8")


def render_model_card(embedding: LearnedEmbedding) -> str:
    """Return the Markdown of a concept's card; facts that are unknown are left out."""
    training = embedding.training
    card_data = ModelCardData(
        base_model=embedding.base_model,
        base_model_relation="adapter" if embedding.base_model else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["textual_inversion", "text-to-image", "diffusers", "diffusers_supreme_init"],
        instance_prompt=f"a photo of {embedding.placeholder_token}",
    )
    card = ModelCard.from_template(
        card_data,
        template_str=model_card_template(),
        placeholder_token=embedding.placeholder_token,
        num_vectors=embedding.num_vectors,
        description=embedding.description,
        base_model=embedding.base_model,
        initializer_tokens=embedding.initializer_tokens,
        initializer=training.get("initializer"),
        num_pictures=training.get("num_pictures"),
        steps=training.get("steps"),
        validation_loss=training.get("validation_loss", {}),
        settings=_settings_for_reading(training.get("settings", {})),
    )
    return str(card)


def _settings_for_reading(settings: dict[str, Any]) -> dict[str, Any]:
    """Order settings by interest: those that differ from the defaults first; those that are off are left out."""
    defaults = SupremeInitConfig()
    known = {item.name: getattr(defaults, item.name) for item in fields(SupremeInitConfig)}
    changed = {name: value for name, value in settings.items() if name not in known or value != known[name]}
    return {**changed, **{n: v for n, v in settings.items() if n not in changed and v not in (None, [], 0, False)}}
