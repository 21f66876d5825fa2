"""Learned rows -> files: what `save` and the snapshots write."""

import io
import json
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
from .embedding_file import LearnedEmbedding, weight_name_for, write_embedding
from .files import hub_id, write_atomically
from .model_card import CARD_NAME, render_library_card, render_model_card
from .progress import ConceptProgress
from .samples import Sample
from .text_pairs import identify_encoder
from .version import __version__

TRAINING_NAME = "training.json"

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
        base_model=hub_id(getattr(backbone.pipe, "name_or_path", None)),
        encoder=identify_encoder(backbone.pair),
        architecture=backbone.architecture,
        training={
            "settings": settings,
            "status": concept.status if step is None else "snapshot",
            "steps": concept.step,
            "num_pictures": len(concept.latents),
            "initializer": concept.initializer_record,
            "region": concept.region_record,
            "validation_loss": {str(step): loss for step, loss in concept.mean_validation_losses().items()},
        },
    )


def save_concept(
    backbone: Backbone,
    concept: ConceptProgress,
    config: SupremeInitConfig,
    folder: Path,
    *,
    seconds: float,
    finished: datetime,
    samples: Sequence[Sample] = (),
    pictures: Sequence[Image.Image] = (),
) -> LearnedEmbedding:
    """Write everything that may be published of a concept, each file whole or not at all; return the embedding.

    Args:
        backbone: What it was trained on.
        concept: The result.
        config: Settings of the run.
        folder: Made if missing; sample pictures of an earlier save are replaced.
        seconds: How long training took; with `finished` only in `TRAINING_NAME`.
        finished: When training ended.
        samples: Pictures for the card, ``images/0.png`` ...
        pictures: Training pictures, ``pictures/0.png`` ...; only if the user wants them published.

    Raises:
        OutputError: The folder cannot be written.
    """
    embedding = learned_embedding(backbone, concept, config)
    record = {
        "placeholder_token": concept.placeholder_token,
        "description": concept.description,
        "date": finished.isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "device": str(next(backbone.denoiser.parameters()).device),
        "versions": _versions(),
        **embedding.training,
        "losses": concept.losses,
        "validation_losses": concept.validation_losses,
    }
    card = render_model_card(embedding, sample_prompts=[one.prompt for one in samples], versions=_versions())
    write_embedding(folder / weight_name_for(backbone.pair.encoder_name), embedding)
    _write_pictures(folder / "images", [sample.image for sample in samples])
    _write_pictures(folder / "pictures", pictures)
    write_atomically(folder / CARD_NAME, card.encode())
    write_atomically(folder / TRAINING_NAME, (json.dumps(record, indent=1) + "\n").encode())
    return embedding


def save_library_card(folder: Path, concepts: Mapping[str, LearnedEmbedding]) -> None:
    """Write the card of a folder with several concepts, ``{folder below it: concept}``.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_atomically(folder / CARD_NAME, render_library_card(concepts).encode())


def _write_pictures(folder: Path, pictures: Sequence[Image.Image]) -> None:
    """Write ``0.png``, ``1.png`` ... and remove those of an earlier save that had more."""
    for index, picture in enumerate(pictures):
        data = io.BytesIO()
        picture.convert("RGB").save(data, format="PNG")
        write_atomically(folder / f"{index}.png", data.getvalue())
    stale = [path for path in folder.glob("*.png") if path.stem.isdigit() and int(path.stem) >= len(pictures)]
    for path in stale:
        path.unlink()


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


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "diffusers_supreme_init": __version__,
        "accelerate": accelerate.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
