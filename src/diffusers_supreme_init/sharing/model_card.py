"""Learned embedding -> model card, from ``model_card_template.md`` beside this module."""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import resources
from typing import Any

import jinja2
from huggingface_hub import ModelCardData

from ..config import SupremeInitConfig
from ..file_names import RECORD_NAME, sample_name
from ..formats.embedding_file import LearnedEmbedding
from ..formats.library import LibraryEntry
from .card_editing import SNIPPET_MARK, code_literal, with_fields

TEMPLATE_NAME = "model_card_template.md"
LIBRARY_TEMPLATE_NAME = "library_card_template.md"
LIBRARY_MARKS = ("<!-- concepts: written anew by save and push_to_hub -->", "<!-- end of concepts -->")
"""The lines around the list of concepts in a library's card."""

_MOST_LISTED = 200
"""Concepts in the table of a library's card; the index lists all."""
_MARKED = re.compile(f"{re.escape(LIBRARY_MARKS[0])}.*?{re.escape(LIBRARY_MARKS[1])}", re.DOTALL)
_STOCK_FAMILIES = re.compile(r"stable-diffusion(-v1|-v2|/)")


def model_card_template() -> str:
    """Return the text of the template, both from an installed wheel and from a checkout."""
    return _template(TEMPLATE_NAME)


def render_model_card(
    embedding: LearnedEmbedding,
    *,
    others: Sequence[LearnedEmbedding] = (),
    encoder_names: Sequence[str] = (),
    sample_prompts: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    call_options: Mapping[str, Any] | None = None,
) -> str:
    """Return the Markdown of a concept's card; unknown facts are left out.

    Args:
        embedding: The concept's embedding for its first text encoder, with the metadata of its file.
        others: Its embeddings for the other text encoders that it was trained for.
        encoder_names: Names of these text encoders in the pipeline, e.g. ``["text_encoder", "text_encoder_2"]``.
        sample_prompts: Prompts of ``images/0.png``, ``images/1.png``, ... beside the card.
        versions: ``{package: version}`` used for training.
        evaluation: Content of ``evaluation.json``.
        call_options: Arguments without which the pipeline would lose the placeholder token.
    """
    training = embedding.training
    losses = training.get("validation_loss") or {}
    validation_loss = {step: loss for step, loss in losses.items() if loss is not None and math.isfinite(loss)}
    names = encoder_names or [
        one.encoder.class_name if one.encoder else "text encoder" for one in (embedding, *others)
    ]
    base_model, revision = _split_revision(embedding.base_model)
    num_pictures = training.get("num_pictures")
    card_data = _card_data(
        base_model,
        instance_prompt=f"a photo of {embedding.placeholder_token}",
        widget=[{"text": text, "output": {"url": sample_name(i)}} for i, text in enumerate(sample_prompts)] or None,
    )
    return _render(
        TEMPLATE_NAME,
        card_data=card_data.to_yaml(),
        placeholder_token=embedding.placeholder_token,
        num_vectors=sum(one.num_vectors for one in (embedding, *others)),
        encoders=dict(zip(names, (one.num_vectors for one in (embedding, *others)), strict=True)),
        token_tables=_token_tables(names, [embedding, *others]),
        description=embedding.description,
        base_model=base_model,
        base_revision=revision,
        encoder=embedding.encoder.class_name if embedding.encoder else None,
        stock_can_load=_stock_can_load(embedding.architecture, 1 + len(others)),
        initializer=training.get("initializer"),
        num_pictures=num_pictures,
        pictures="pictures" if num_pictures is None or num_pictures > 1 else "picture",
        steps=training.get("steps"),
        validation_loss=validation_loss,
        loss_curve=_loss_curve(list(validation_loss.values())),
        has_samples=bool(sample_prompts),
        loras=training.get("loras") or {},
        ip_adapter=training.get("ip_adapter"),
        settings=_settings_for_reading(training.get("settings", {})),
        versions=versions or {},
        prompt_options="".join(f", {name}={value!r}" for name, value in (call_options or {}).items()),
        evaluation=evaluation,
        scores=_scores_for_reading(evaluation or {}),
    )


def _token_tables(names: Sequence[str], embeddings: Sequence[LearnedEmbedding]) -> dict[tuple[str, ...], list[str]]:
    """Return ``{initializer tokens: text encoders whose rows started from them}``."""
    tables: dict[tuple[str, ...], list[str]] = {}
    for name, embedding in zip(names, embeddings, strict=True):
        if embedding.initializer_tokens:
            tables.setdefault(tuple(embedding.initializer_tokens), []).append(name)
    return tables


def _scores_for_reading(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return for each metric its label, ``"higher"`` or ``"lower"``, and its means on both kinds of prompts.

    The means are those on reconstruction prompts and on editing prompts, in this order.
    """
    groups = [evaluation.get("reconstruction", {}), evaluation.get("editing", {})]
    names = dict.fromkeys(name for group in groups for name in group)
    rows = []
    for name in names:
        score = next(group[name] for group in groups if name in group)
        means = [_mean_for_reading(group[name]) if name in group else "" for group in groups]
        rows.append((score["label"], "higher" if score["higher_is_better"] else "lower", means[0], means[1]))
    if (loss := evaluation.get("denoising_mse")) is not None:
        rows.append(("denoising error (MSE)", "lower", f"{loss['mean']:.4f}", ""))
    return rows


def _mean_for_reading(score: Mapping[str, Any]) -> str:
    if math.isnan(score["mean"]):
        return ""  # the metric does not apply to these prompts
    spread = score["std_over_seeds"]
    return f"{score['mean']:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def _stock_can_load(architecture: str | None, num_encoders: int) -> bool:
    """Whether diffusers alone draws the same pictures: only with the single CLIP of Stable Diffusion 1 and 2.

    With diffusers' own loader, the pooled vector of SDXL and Flux is that of a placeholder token
    (huggingface/diffusers#10754), and the T5 of Flux reads the name letter by letter. Pipelines without CLIP have no
    such loader.
    """
    return num_encoders == 1 and (architecture is None or _STOCK_FAMILIES.match(architecture) is not None)


def library_card(entries: Mapping[str, LibraryEntry], before: str | None = None) -> str:
    """Return the Markdown of a card for several concepts, each in a folder of its own.

    Args:
        entries: The concepts to list, ``{folder: concept}``.
        before: The existing card. Only the part between its two `LIBRARY_MARKS` is rewritten; the rest is the user's.
            A card without the marks is replaced.

    Raises:
        PublishError: The YAML of the existing card cannot be read or changed.
    """
    base_model, revision = _split_revision(_common_base_model(entries))
    card_data = _card_data(base_model)
    made = _render(
        LIBRARY_TEMPLATE_NAME,
        card_data=card_data.to_yaml(),
        concepts=dict(list(entries.items())[:_MOST_LISTED]),
        num_concepts=len(entries),
        has_samples=any(entry.sample for entry in entries.values()),
        index=RECORD_NAME,
        base_model=base_model,
        base_revision=revision,
        marks=LIBRARY_MARKS,
    )
    old = None if before is None else _MARKED.search(before)
    new = _MARKED.search(made)
    if before is None or old is None or new is None:
        return made
    card = before[: old.start()] + new[0] + before[old.end() :]
    return card if base_model else with_fields(card, {}, ("base_model", "base_model_relation"))


def _common_base_model(entries: Mapping[str, LibraryEntry]) -> str | None:
    """Return the base model that all concepts share; None if it is unknown or differs."""
    base_models = {entry.base_model for entry in entries.values()}
    return next(iter(base_models)) if len(base_models) == 1 else None


def _card_data(base_model: str | None, **own: Any) -> ModelCardData:
    """Return the YAML fields that all cards have, and a card's own."""
    return ModelCardData(
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["textual_inversion", "text-to-image", "diffusers", "diffusers_supreme_init"],
        **own,
    )


def _render(name: str, **facts: Any) -> str:
    return _compiled(name).render(snippet_mark=SNIPPET_MARK, **facts)


@functools.cache
def _compiled(name: str) -> jinja2.Template:
    environment = jinja2.Environment(autoescape=False)  # Markdown, not HTML
    environment.filters |= {"literal": code_literal, "code": _code_span, "prose": _prose, "cell": _table_cell}
    return environment.from_string(_template(name))


def _code_span(text: str) -> str:
    """Return a Markdown code span that shows a text literally, backticks included."""
    text = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _prose(text: str) -> str:
    """Return a text on one line, with Markdown's markup characters escaped."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", " ".join(text.split()))


def _table_cell(value: Any) -> str:
    """Return a value as Markdown that stays within one table cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _split_revision(base_model: str | None) -> tuple[str | None, str | None]:
    """Split ``"user/model@main"`` into id and revision; each is None if missing."""
    name, _, revision = (base_model or "").partition("@")
    return name or None, revision or None


def _loss_curve(losses: Sequence[float]) -> str:
    """Return losses as a row of bars, scaled from the lowest to the highest; ``""`` if fewer than 3 or all equal."""
    if len(losses) < 3 or max(losses) == min(losses):
        return ""
    bars = "▁▂▃▄▅▆▇█"
    scale = (len(bars) - 1) / (max(losses) - min(losses))
    return "".join(bars[round((loss - min(losses)) * scale)] for loss in losses)


def _settings_for_reading(settings: dict[str, Any]) -> dict[str, Any]:
    """Order settings by interest: first those that differ from their defaults, then others that are not off."""
    defaults = SupremeInitConfig()
    known = {item.name: getattr(defaults, item.name) for item in fields(SupremeInitConfig)}
    changed = {name: value for name, value in settings.items() if name not in known or value != known[name]}
    others = {n: v for n, v in settings.items() if n not in changed and (n == "seed" or v not in (None, [], 0, False))}
    return {**changed, **others}


def _template(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
