"""Learned rows -> files: what `save` and the snapshots write."""

import io
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import accelerate
import diffusers
import peft
import torch
import transformers
from PIL import Image

from .backbones import Backbone
from .config import SupremeInitConfig
from .embedding_file import LearnedEmbedding, embedding_bytes, weight_name_for, write_embedding
from .files import hub_id, json_bytes, without_nan
from .model_card import CARD_NAME, image_name, render_library_card, render_model_card
from .progress import ConceptProgress
from .samples import Sample
from .saved_folder import RECORD_NAME
from .text_pairs import identify_encoder
from .version import __version__

_LOCAL_SETTINGS = frozenset(
    {"output_dir", "logging_dir", "resume_from_checkpoint", "report_to", "checkpointing_steps"}
)
"""Settings of the user's machine; they change no learned number and are never written into what may be published."""


def learned_embedding(
    backbone: Backbone, concept: ConceptProgress, config: SupremeInitConfig, *, step: int | None = None
) -> LearnedEmbedding:
    """Return a concept's rows with everything that its file says about them; `step` is given in snapshots."""
    settings = {name: value for name, value in asdict(config).items() if name not in _LOCAL_SETTINGS}
    return LearnedEmbedding(
        placeholder_token=concept.placeholder_token,
        rows=concept.rows,
        description=concept.description or None,
        initializer_tokens=concept.initializer.tokens if concept.initializer else (),
        base_model=_base_model(backbone),
        encoder=identify_encoder(backbone.pair),
        architecture=backbone.architecture,
        training=without_nan(
            {
                "settings": settings,
                "status": concept.status if step is None else "snapshot",
                "steps": concept.step,
                "num_pictures": len(concept.latents),
                "random_key": concept.random_key,
                "initializer": concept.initializer_record,
                "region": concept.region_record,
                "validation_loss": {
                    str(step): loss for step, loss in concept.mean_validation_losses().items() if math.isfinite(loss)
                },
            }
        ),
    )


def file_names(backbone: Backbone, *, num_samples: int, num_pictures: int) -> list[str]:
    """Return the names of what `concept_files` makes, before anything is drawn."""
    pictures = [picture_name(index) for index in range(num_pictures)]
    samples = [image_name(index) for index in range(num_samples)]
    return sorted([weight_name_for(backbone.pair.encoder_name), CARD_NAME, RECORD_NAME, *samples, *pictures])


def concept_files(
    backbone: Backbone,
    concept: ConceptProgress,
    config: SupremeInitConfig,
    *,
    seconds: float,
    finished: datetime,
    device: torch.device,
    samples: Sequence[Sample] = (),
    pictures: Sequence[Image.Image] = (),
) -> tuple[LearnedEmbedding, dict[str, bytes]]:
    """Return everything that may be published of a concept, and ``{name: bytes}`` of the files that say it.

    Args:
        backbone: What it was trained on.
        concept: The result.
        config: Settings of the run.
        seconds: How long training took; with `finished` only in `RECORD_NAME`.
        finished: When training ended.
        device: Where it ran.
        samples: Pictures for the card, ``images/0.png`` ...
        pictures: Training pictures, ``pictures/0.png`` ...; only if the user wants them published.
    """
    embedding = learned_embedding(backbone, concept, config)
    record = {
        "placeholder_token": concept.placeholder_token,
        "description": concept.description,
        "date": finished.isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "device": str(device),
        "versions": versions(),
        **embedding.training,
        "losses": concept.losses,
        "validation_losses": concept.validation_losses,
        "files": file_names(backbone, num_samples=len(samples), num_pictures=len(pictures)),
    }
    card = render_model_card(embedding, sample_prompts=[one.prompt for one in samples], versions=versions())
    return embedding, {
        weight_name_for(backbone.pair.encoder_name): embedding_bytes(embedding),
        CARD_NAME: card.encode(),
        RECORD_NAME: json_bytes(record),
        **{image_name(index): _png(sample.image) for index, sample in enumerate(samples)},
        **{picture_name(index): _png(picture) for index, picture in enumerate(pictures)},
    }


def library_files(concepts: Mapping[str, LearnedEmbedding]) -> dict[str, bytes]:
    """Return ``{name: bytes}`` of what lies beside several concepts, ``{folder below it: concept}``."""
    record = {"folders": sorted(concepts), "files": [CARD_NAME, RECORD_NAME]}
    return {CARD_NAME: render_library_card(concepts).encode(), RECORD_NAME: json_bytes(record)}


def picture_name(index: int) -> str:
    """Return where training picture number `index` is published, if it is."""
    return f"pictures/{index}.png"


def write_snapshots(
    backbone: Backbone, concepts: Sequence[ConceptProgress], config: SupremeInitConfig, step: int
) -> None:
    """Write the rows of this step as ``learned_embeds-steps-N.safetensors`` below `output_dir`."""
    for concept, folder in zip(concepts, result_folders(concepts, Path(config.output_dir or "")), strict=True):
        name = weight_name_for(backbone.pair.encoder_name).replace(".safetensors", f"-steps-{step}.safetensors")
        write_embedding(folder / name, learned_embedding(backbone, concept, config, step=step))


def result_folders(concepts: Sequence[ConceptProgress], output_dir: Path) -> list[Path]:
    """Return each concept's folder: `output_dir` itself for a single one, else one below it named after its token."""
    if len(concepts) == 1:
        return [output_dir]
    names: list[str] = []
    for concept in concepts:
        name = base = re.sub(r"[^\w-]+", "", concept.placeholder_token) or "concept"
        while name in names:
            name = f"{base}-{names.count(name) + len(names)}"
        names.append(name)
    return [output_dir / name for name in names]


def _base_model(backbone: Backbone) -> str | None:
    """Return the Hub id of the pipeline; None where it came from a folder, even if that has gone since.

    A folder like ``runs/acme`` looks as an id does, but then the text encoder came from ``runs/acme/text_encoder``:
    from the Hub it comes from the cache.
    """
    name = getattr(backbone.pipe, "name_or_path", None)
    source = getattr(backbone.pair.encoder, "name_or_path", None)
    is_folder = bool(name) and bool(source) and Path(str(name)) in Path(str(source)).parents
    return None if is_folder else hub_id(name)


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.convert("RGB").save(data, format="PNG")
    return data.getvalue()


def versions() -> dict[str, str]:
    """Return the versions that results depend on, by package."""
    return {
        "python": platform.python_version(),
        "diffusers_supreme_init": __version__,
        "accelerate": accelerate.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
