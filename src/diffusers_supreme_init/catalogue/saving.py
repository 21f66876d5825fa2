"""Trained concepts -> their pictures, folders and lines in the ledger."""

import base64
import hashlib
import io
import time
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ..errors import TrainingError
from ..formats.embedding_file import embedding_bytes
from ..sharing.concept_files import concept_files, learned_embeddings
from ..training.previews import SampleImage, draw_samples
from ..training.progress import ConceptProgress
from ..training.rows import write_learned
from .folders import RECORD_KEY, write_folder
from .work import Work, Workshop, succeeds

_THUMBNAIL_SIZE = 96
"""Longest side, in pixels, of a picture in the ledger; 3 kB."""


def save_concepts(shop: Workshop, trained: Sequence[Work]) -> None:
    """Draw the sample pictures of concepts that were trained together, if any are wanted, and save each concept.

    Raises:
        OutputError: Nothing can be written.
    """
    converged = [one for one in trained if succeeds(shop, one, _check_converged)]
    try:
        _draw(shop, converged)
    except TrainingError:  # one of them is to blame
        converged = [one for one in converged if succeeds(shop, one, lambda shop, one: _draw(shop, [one]))]
    for one in converged:
        succeeds(shop, one, _save)


def _check_converged(shop: Workshop, one: Work) -> None:
    if _result(one).status == "diverged":
        rate = shop.backbone.learning_rate(shop.config)
        raise TrainingError(
            f"{one.task.token}: its loss became NaN or infinite at step {_result(one).step}; train it with a lower "
            f"learning_rate (now {rate}) or in float32"
        )


def _draw(shop: Workshop, trained: Sequence[Work]) -> None:
    """Draw the sample pictures of some concepts, `concepts_per_batch` at once."""
    if not shop.sample_prompts or not trained:
        return
    results, started = [_result(one) for one in trained], time.monotonic()
    write_learned(shop.backbone, results)
    drawn: list[list[SampleImage]] | None = None
    while drawn is None:
        try:
            drawn = draw_samples(
                shop.backbone,
                results,
                shop.sample_prompts,
                seed=shop.config.seed,
                device=shop.accelerator.device,
                batch_size=shop.concepts_per_batch,
            )
        except torch.OutOfMemoryError:
            if not shop.takes_fewer():
                raise
    seconds = (time.monotonic() - started) / len(trained)
    for one, samples in zip(trained, drawn, strict=True):
        one.samples, one.seconds = samples, one.seconds + seconds


def _save(shop: Workshop, one: Work) -> None:
    result, samples = _result(one), one.samples
    embeddings = learned_embeddings(shop.backbone, result, shop.config)
    digests = {name: hashlib.sha256(embedding_bytes(embedding)).hexdigest() for name, embedding in embeddings.items()}
    about = {RECORD_KEY: {"key": one.task.key, "run": one.task.run, "sha256": digests}}
    _, contents = concept_files(shop.backbone, result, shop.config, about_run=about, samples=samples)
    facts = _facts(one, result) | {
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        "sample": _small(samples[0].image) if samples else None,
        "device": str(shop.accelerator.device),
    }

    def write_down() -> None:
        shop.ledger.append("saved", one.task.token, one.task.key, **facts)

    write_folder(one.task.folder, contents, when_written=write_down)
    shop.after_concept(one.task, None)


def _result(one: Work) -> ConceptProgress:
    assert one.result is not None, "a concept is trained before it is saved"
    return one.result


def _facts(one: Work, result: ConceptProgress) -> dict[str, Any]:
    losses = list(result.mean_validation_losses().values())
    return {
        "place": one.task.place,
        "folder": one.task.folder.name,
        "words": result.description,
        "status": result.status,
        "steps": result.step,
        "losses": [losses[0], losses[-1]] if losses else [],
        "seconds": round(one.seconds, 3),
        "thumbnail": _small(result.thumbnails[-1]) if result.thumbnails else None,
    }


def _small(picture: Image.Image) -> str:
    """Return a picture for the page that shows all concepts, as JPEG in base 64."""
    small, data = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    small.save(data, format="JPEG", quality=80)
    return base64.b64encode(data.getvalue()).decode()
