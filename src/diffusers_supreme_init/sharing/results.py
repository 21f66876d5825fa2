"""Learned rows -> files: what `save` and the snapshots write."""

import io
import math
import platform
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

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..evaluation import Evaluation
from ..files import CARD_NAME, EVALUATION_NAME, RECORD_NAME, folder_name, hub_id, json_bytes, without_nan
from ..formats.embedding_file import LearnedEmbedding, embedding_bytes, weight_name_for, write_embedding
from ..formats.library import LibraryEntry, index_bytes, read_library
from ..text.prompt_cleaning import as_written
from ..text.text_pairs import TextPair
from ..training.drawing import Sample
from ..training.progress import ConceptProgress
from ..version import __version__
from .model_card import image_name, library_card, render_model_card

_LOCAL_SETTINGS = frozenset(
    {"output_dir", "logging_dir", "resume_from_checkpoint", "report_to", "checkpointing_steps"}
)
"""Settings of the user's machine; they change no learned number and are never written into what may be published."""


def learned_embeddings(
    backbone: Backbone, concept: ConceptProgress, config: SupremeInitConfig, *, step: int | None = None
) -> dict[str, LearnedEmbedding]:
    """Return a concept's rows with everything that its files say about them; `step` is given in snapshots.

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
        }
    )
    return {
        weight_name_for(pair.encoder_name): LearnedEmbedding(
            placeholder_token=concept.placeholder_token,
            rows=concept.rows[pair.encoder_name],
            description=concept.description or None,
            initializer_tokens=_tokens_of(concept, pair),
            base_model=_base_model(backbone),
            encoder=backbone.identities[pair.encoder_name],
            architecture=backbone.architecture,
            training=training,
        )
        for pair in backbone.trained
    }


def weight_names(backbone: Backbone) -> list[str]:
    """Return the names of a concept's embedding files, one for each trained text encoder."""
    return [weight_name_for(pair.encoder_name) for pair in backbone.trained]


def file_names(backbone: Backbone, *, num_samples: int, num_pictures: int, is_evaluated: bool) -> list[str]:
    """Return the names of what `concept_files` makes, before anything is drawn."""
    pictures = [picture_name(index) for index in range(num_pictures)]
    samples = [image_name(index) for index in range(num_samples)]
    evaluation = [EVALUATION_NAME] if is_evaluated else []
    return sorted([*weight_names(backbone), CARD_NAME, RECORD_NAME, *evaluation, *samples, *pictures])


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
    evaluation: Evaluation | None = None,
) -> tuple[LearnedEmbedding, dict[str, bytes]]:
    """Return a concept's first embedding, and ``{name: bytes}`` of all files that may be published of it.

    Args:
        backbone: What it was trained on.
        concept: The result.
        config: Settings of the run.
        seconds: How long training took; with `finished` only in `RECORD_NAME`.
        finished: When training ended.
        device: Where it ran.
        samples: Pictures for the card, ``images/0.png`` ...
        pictures: Training pictures, ``pictures/0.png`` ...; only if the user wants them published.
        evaluation: Of this concept.
    """
    embeddings = learned_embeddings(backbone, concept, config)
    embedding, *others = embeddings.values()
    record = {
        "placeholder_token": concept.placeholder_token,
        "description": concept.description,
        "date": finished.isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "device": str(device),
        "versions": versions(),
        **embedding.training,
        "initializer_tokens": {pair.encoder_name: list(_tokens_of(concept, pair)) for pair in backbone.trained},
        "losses": concept.losses,
        "validation_losses": concept.validation_losses,
        "files": file_names(
            backbone, num_samples=len(samples), num_pictures=len(pictures), is_evaluated=evaluation is not None
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
        **{image_name(index): _png(sample.image) for index, sample in enumerate(samples)},
        **{picture_name(index): _png(picture) for index, picture in enumerate(pictures)},
    }


def library_files(entries: Mapping[str, LibraryEntry], card: str | None = None) -> dict[str, bytes]:
    """Return ``{name: bytes}`` of what lies beside several concepts.

    Args:
        entries: ``{folder below it: concept}``.
        card: The card that is there; None: a new one.
    """
    return {CARD_NAME: library_card(entries, card).encode(), RECORD_NAME: index_bytes(entries)}


def picture_name(index: int) -> str:
    """Return where training picture number `index` is published, if it is."""
    return f"pictures/{index}.png"


def write_snapshots(
    backbone: Backbone, concepts: Sequence[ConceptProgress], config: SupremeInitConfig, step: int
) -> None:
    """Write the rows of this step as ``learned_embeds-steps-N.safetensors`` below `output_dir`."""
    folders = result_folders([concept.placeholder_token for concept in concepts], Path(config.output_dir or ""))
    for concept, folder in zip(concepts, folders, strict=True):
        for name, embedding in learned_embeddings(backbone, concept, config, step=step).items():
            write_embedding(folder / name.replace(".safetensors", f"-steps-{step}.safetensors"), embedding)


def result_folders(tokens: Sequence[str], output_dir: Path) -> list[Path]:
    """Return each concept's folder: `output_dir` itself for a single one, else one below it named after its token.

    In a library also a single one gets a folder below it; one that is there keeps its own.

    Raises:
        EmbeddingFileError: The library is damaged.
    """
    library = read_library(output_dir)
    if library is None and len(tokens) == 1:
        return [output_dir]
    known = {entry.placeholder_token: name for name, entry in (library or {}).items()}
    return [output_dir / (known.get(token) or folder_name(token)) for token in tokens]


def _tokens_of(concept: ConceptProgress, pair: TextPair) -> tuple[str, ...]:
    tokens = concept.initializer.get(pair.encoder_name)
    return () if tokens is None else tokens.tokens


def _base_model(backbone: Backbone) -> str | None:
    """Return the Hub id of the pipeline; None where it came from a folder, even if that has gone since.

    A folder like ``runs/acme`` looks as an id does, but then the text encoder came from ``runs/acme/text_encoder``:
    from the Hub it comes from the cache.
    """
    name = getattr(backbone.pipe, "name_or_path", None)
    source = getattr(backbone.pairs[0].encoder, "name_or_path", None)
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
