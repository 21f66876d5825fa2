"""What `train_catalogue` is given: settings, list and pipeline, checked before anything else."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ..backbones import Backbone, backbone_for
from ..concepts import Concept, ListedConcept, read_list
from ..config import SupremeInitConfig
from ..errors import ConfigError, SupremeInitWarning, shown
from ..objective.phases import check_trainable
from ..text.prompt_cleaning import why_lost
from ..training.preparation import warn_of_unused_settings
from ..training.rows import check_can_add

_OF_SINGLE_RUNS = (
    "validation_prompt",
    "snapshot_steps",
    "report_to",
    "resume_from_checkpoint",
    "checkpointing_steps",
    "logging_dir",
)
"""Settings that make no sense for thousands of concepts."""


def checked_config(config: SupremeInitConfig | None) -> SupremeInitConfig:
    """Return the settings of each concept's training.

    Raises:
        ConfigError: One makes no sense for thousands of concepts.
    """
    if config is not None and not isinstance(config, SupremeInitConfig):
        raise ConfigError(f"config: expected a SupremeInitConfig, got {shown(config)}; pass SupremeInitConfig(...)")
    given, default = config or SupremeInitConfig(), SupremeInitConfig()
    given.__post_init__()  # its fields may have been changed since it was made
    asked = [name for name in _OF_SINGLE_RUNS if getattr(given, name) != getattr(default, name)]
    if asked:
        raise ConfigError(
            f"{asked[0]}: a catalogue has none, since each concept is saved when it is finished, and running again "
            "goes on; leave it out"
        )
    own = {one.name: getattr(given, one.name) for one in fields(SupremeInitConfig)}
    return SupremeInitConfig(**{**own, "output_dir": None})


def checked_backbone(pipe: Any, config: SupremeInitConfig, tokens: Sequence[str]) -> Backbone:
    """Return the backbone of a pipeline that can be trained.

    Raises:
        SupremeInitError: It cannot.
    """
    backbone = backbone_for(pipe, config.train_text_encoders)
    backbone.check_config(config)
    check_trainable(backbone)
    check_can_add(backbone)
    warn_of_unused_settings(config)
    lost = [why for token in tokens[:1] if (why := why_lost(pipe, token)) is not None]
    if lost:
        warnings.warn(f"{tokens[0]}: {lost[0]}", SupremeInitWarning, stacklevel=3)
    return backbone


def listed_concepts(
    concepts: str | os.PathLike[str] | Sequence[Concept], *, initializer: str | None, initializer_column: str
) -> list[ListedConcept]:
    """Return the concepts of a list, or those given, with a place for messages.

    Raises:
        ConfigError: The list cannot be read, or something else is given.
    """
    if isinstance(concepts, str | os.PathLike):
        return read_list(concepts, initializer_column=initializer_column, initializer=initializer)
    given: Any = concepts
    if not isinstance(given, Sequence) or not given or not all(isinstance(one, Concept) for one in given):
        raise ConfigError(f"concepts: expected a metadata.jsonl or a list of Concept, got {shown(concepts)}")
    return [
        ListedConcept(place=f"concept {number}", placeholder_token=one.placeholder_token, concept=one)
        for number, one in enumerate(given)
    ]
