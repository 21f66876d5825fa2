"""What determines a concept's rows -> its key: a concept with another key has to be trained anew."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from ..concepts import Concept, find_masks, find_regions
from ..describers import Describers, Region
from ..errors import PictureError, one_line
from ..files import hub_id
from ..pictures import PictureSource, find_pictures
from ..text.saved_embedding import find_saved_embedding

_MODELS = ("captioner", "classifier", "segmenter")


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values, in hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def facts_of_concept(concept: Concept, about_describers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines the rows of one concept: the bytes of its pictures, and its words or who finds them.

    Args:
        concept: The concept.
        about_describers: From `facts_of_describers`.

    Raises:
        PictureError: A picture or a mask does not exist or cannot be read.
        RegionError: Regions and pictures do not match.
        ConfigError: As `find_regions`.
    """
    pictures = find_pictures(concept.images, quietly=True)
    masks, regions = find_masks(concept, len(pictures), quietly=True), find_regions(concept, len(pictures))
    saved = [] if concept.method else find_saved_embedding(concept.initializer)
    facts = {
        "placeholder_token": concept.placeholder_token,
        "random_key": concept.random_key,
        "initializer": [_digest(path) for path in saved] or str(concept.initializer),
        "num_vectors": concept.num_vectors,
        "templates": None if concept.templates is None else list(concept.templates),
        "candidates": list(concept.candidates),
        "train_on": concept.train_on,
        "pictures": [_digest(one) for one in pictures],
        "masks": None if masks is None else [_digest(one) for one in masks],
        "regions": None if regions is None else [_region(one) for one in regions],
    }
    return facts | ({"describers": about_describers} if concept.method or regions else {})


def _region(region: Region) -> Any:
    return [region.points, region.negative_points, region.box, region.mask and _digest(region.mask), region.words]


def facts_of_describers(describers: Describers) -> dict[str, Any]:
    """Return what determines what the describers say: their models and settings."""
    names = {"captioner": describers.config.captioner, "classifier": describers.classifier_name}
    names["segmenter"] = describers.config.segmenter
    refiner: Any = describers.refiner
    about = (
        None if refiner is None else [type(refiner).__name__, *map(str, map(vars(refiner).get, ("model", "style")))]
    )
    settings = {name: value for name, value in asdict(describers.config).items() if name not in _MODELS}
    return settings | {"refiner": about} | {kind: _model(name) for kind, name in names.items()}


def _model(name: str) -> Any:
    """Return a model's Hub id; of a folder, which is called differently everywhere, what is in it, but weights."""
    if not os.path.isdir(name):
        return hub_id(name) or name
    files = [path for path in sorted(Path(name).iterdir()) if path.is_file()]
    return [[path.name, _digest(path) if path.suffix == ".json" else path.stat().st_size] for path in files]


def _digest(source: PictureSource) -> str:
    if isinstance(source, Image.Image):
        about = f"{source.mode} {source.size}".encode()
        return hashlib.sha256(about + source.tobytes()).hexdigest()
    try:
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PictureError(f"images: {str(source)!r} cannot be read ({one_line(error)})") from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which settings differ, ``"learning_rate: 0.002 there, 0.01 here"``."""
    changed = [name for name in now if name in before and before[name] != now[name]]
    return [f"{name}: {before[name]} there, {now[name]} here" for name in changed]
