"""Learned rows -> the files that `save` and the snapshots write."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..evaluation import Evaluation
from ..file_names import (
    CARD_NAME,
    EVALUATION_NAME,
    RECORD_NAME,
    concept_file_names,
    picture_name,
    sample_name,
    snapshot_name,
    weight_name_for,
)
from ..files import hub_id, json_bytes, without_nan
from ..formats.embedding_file import LearnedEmbedding, embedding_bytes, write_embedding
from ..formats.library import LibraryEntry, index_bytes
from ..objective.adapters import active_loras, has_image_prompts
from ..text.prompt_cleaning import as_written
from ..text.text_pairs import TextPair
from ..training.previews import SampleImage
from ..training.progress import ConceptProgress
from ..version import versions
from .model_card import library_card, render_model_card
from .saved_folder import folders_for

_LOCAL_SETTINGS = frozenset(
    {"output_dir", "logging_dir", "resume_from_checkpoint", "report_to", "checkpointing_steps"}
)
"""Settings of the user's machine; they do not change the learned rows and are never written into published files."""


def learned_embeddings(
    backbone: Backbone, concept: ConceptProgress, config: SupremeInitConfig, *, step: int | None = None
) -> dict[str, LearnedEmbedding]:
    """Return a concept's rows with the metadata of their files; `step` is given only for snapshots.

    Returns:
        ``{file name: embedding}``, one for each trained text encoder.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in _LOCAL_SETTINGS}
    training = without_nan(
        {
            "settings": settings | {"learning_rate": backbone.learning_rate(config)},
            "status": concept.status if step is None else "snapshot",
            "steps": concept.step,
            "num_pictures": len(concept.latents),
            "random_key": concept.random_key,
            "initializer": concept.initializer_record,
            "region": concept.region_record,
            "num_vectors": {name: len(rows) for name, rows in concept.rows.items()},
            "validation_loss": {
                str(step): loss for step, loss in concept.mean_validation_losses().items() if math.isfinite(loss)
            },
            **({"toybox": True} if _is_toybox(backbone) else {}),
            **({"loras": loras} if (loras := active_loras(backbone.drawing_pipe)) else {}),
            **({"ip_adapter": "set aside"} if has_image_prompts(backbone.denoiser) else {}),
        }
    )
    return {
        weight_name_for(pair.encoder_name): LearnedEmbedding(
            placeholder_token=concept.placeholder_token,
            rows=concept.rows[pair.encoder_name],
            description=concept.description or None,
            initializer_tokens=_tokens_of(concept, pair),
            base_model=base_model_of(backbone),
            encoder=backbone.identities[pair.encoder_name],
            architecture=backbone.architecture,
            training=training,
        )
        for pair in backbone.trained
    }


def weight_names(backbone: Backbone) -> list[str]:
    """Return the names of a concept's embedding files, one for each trained text encoder."""
    return [weight_name_for(pair.encoder_name) for pair in backbone.trained]


def concept_files(
    backbone: Backbone,
    concept: ConceptProgress,
    config: SupremeInitConfig,
    *,
    about_run: Mapping[str, Any],
    samples: Sequence[SampleImage] = (),
    pictures: Sequence[Image.Image] = (),
    evaluation: Evaluation | None = None,
) -> tuple[LearnedEmbedding, dict[str, bytes]]:
    """Return a concept's first embedding, and ``{name: bytes}`` of all its files that may be published.

    Args:
        backbone: The backbone that it was trained on.
        concept: The trained concept.
        config: Settings of the run.
        about_run: JSON values about the run that go only into `RECORD_NAME`, see `facts_of_run`.
        samples: Pictures for the card, ``images/0.png`` ...
        pictures: Training pictures, ``pictures/0.png`` ...; only if the user wants them published.
        evaluation: Evaluation of this concept.
    """
    embeddings = learned_embeddings(backbone, concept, config)
    embedding, *others = embeddings.values()
    record = {
        "placeholder_token": concept.placeholder_token,
        "description": concept.description,
        **about_run,
        "versions": versions(),
        **embedding.training,
        "initializer_tokens": {pair.encoder_name: list(_tokens_of(concept, pair)) for pair in backbone.trained},
        "losses": concept.losses,
        "validation_losses": concept.validation_losses,
        "files": concept_file_names(
            [pair.encoder_name for pair in backbone.trained],
            num_samples=len(samples),
            num_pictures=len(pictures),
            is_evaluated=evaluation is not None,
        ),
    }
    card = render_model_card(
        embedding,
        others=others,
        encoder_names=[pair.encoder_name for pair in backbone.trained],
        sample_prompts=[one.prompt for one in samples],
        versions=versions(),
        evaluation=None if evaluation is None else evaluation.to_dict(),
        call_options=as_written(backbone.drawing_pipe),
    )
    return embedding, {
        **{name: embedding_bytes(one) for name, one in embeddings.items()},
        CARD_NAME: card.encode(),
        RECORD_NAME: json_bytes(record),
        **({} if evaluation is None else {EVALUATION_NAME: json_bytes(evaluation.to_dict())}),
        **{sample_name(index): _png(sample.image) for index, sample in enumerate(samples)},
        **{picture_name(index): _png(picture) for index, picture in enumerate(pictures)},
    }


def facts_of_run(seconds: float | None, finished: datetime, device: torch.device) -> dict[str, Any]:
    """Return what differs between equal runs, as JSON values.

    Args:
        seconds: Duration of training, over all parts of a resumed run; None if unknown.
        finished: End of training.
        device: Device of the run.
    """
    return {
        "date": finished.isoformat(timespec="seconds"),
        "seconds": None if seconds is None else round(seconds, 2),
        "device": str(device),
    }


def library_files(entries: Mapping[str, LibraryEntry], card: str | None = None) -> dict[str, bytes]:
    """Return ``{name: bytes}`` of a library's own files, its card and its index.

    Args:
        entries: ``{folder: concept}``, folders relative to the library.
        card: The existing card; None: make a new one.
    """
    return {CARD_NAME: library_card(entries, card).encode(), RECORD_NAME: index_bytes(entries)}


def write_snapshots(
    backbone: Backbone, concepts: Sequence[ConceptProgress], config: SupremeInitConfig, step: int
) -> None:
    """Write the rows of this step below `output_dir`, see `snapshot_name`."""
    folders = folders_for([concept.placeholder_token for concept in concepts], Path(config.output_dir or ""))
    for concept, folder in zip(concepts, folders, strict=True):
        for name, embedding in learned_embeddings(backbone, concept, config, step=step).items():
            write_embedding(folder / snapshot_name(name, step), embedding)


def _tokens_of(concept: ConceptProgress, pair: TextPair) -> tuple[str, ...]:
    tokens = concept.initializer_tokens.get(pair.encoder_name)
    return () if tokens is None else tokens.tokens


def base_model_of(backbone: Backbone) -> str | None:
    """Return the Hub id of the pipeline; None if it came from a folder, even if that no longer exists.

    A folder like ``runs/acme`` looks like an id. But its text encoder was loaded from ``runs/acme/text_encoder``,
    while that of a Hub pipeline is loaded from the cache.
    """
    name = getattr(backbone.pipe, "name_or_path", None)
    source = getattr(backbone.pairs[0].encoder, "name_or_path", None)
    is_folder = bool(name) and bool(source) and Path(str(name)) in Path(str(source)).parents
    return None if is_folder else hub_id(name)


def _is_toybox(backbone: Backbone) -> bool:
    """Whether the model is the toybox, which says so in the configuration of its text encoder."""
    return bool(getattr(backbone.pairs[0].encoder.config, "toybox", False))


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.convert("RGB").save(data, format="PNG")
    return data.getvalue()
