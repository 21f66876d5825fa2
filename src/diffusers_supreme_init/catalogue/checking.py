"""What `train_catalogue` is given: settings, list and pipeline, checked before anything else."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..backbones import Backbone, backbone_for
from ..config import SupremeInitConfig
from ..errors import ConfigError, OutputError, SupremeInitError, SupremeInitWarning, shown
from ..objective.phases import check_trainable
from ..text.prompt_cleaning import why_lost
from ..training.preparation import check_concepts, warn_of_unused_settings
from ..training.rows import check_can_add
from .facts import differences
from .folders import key_of
from .plan import Failure, Plan, Task, failure_of

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


def check_plan(plan: Plan, backbone: Backbone, config: SupremeInitConfig, run: Mapping[str, Any]) -> Plan:
    """Check what is left to do as far as it is cheap with the model at hand; unusable concepts become failures.

    Args:
        plan: What is left to do, which is changed.
        backbone: Backbone of the untouched pipeline.
        config: Settings.
        run: What determines the rows of all concepts, see `facts_of_run`.

    Raises:
        OutputError: The folder holds results of other settings or another model, which may not be replaced.
    """
    if plan.kept:
        raise _refusal(plan.kept, run)
    plan.tasks = [task for task in plan.tasks if _is_usable(task, backbone, config, plan.failures)]
    return plan


def _refusal(kept: Sequence[tuple[Task, Mapping[str, Any]]], run: Mapping[str, Any]) -> OutputError:
    task, record = kept[0]
    changed = differences(record.get("settings") or {}, run["settings"])
    how = f"with other settings ({', '.join(changed)})" if changed else "on another model"
    how = how if key_of(record)[0] else "outside of a catalogue"
    return OutputError(
        f"{str(task.folder.parent)!r} holds {len(kept)} of the listed concepts that were trained {how}, the "
        f"first is {task.token}; pass overwrite=True to train them anew, or choose another output_dir"
    )


def _is_usable(task: Task, backbone: Backbone, config: SupremeInitConfig, failures: list[Failure]) -> bool:
    """Check a concept as far as it is cheap: its name is free, its words fit."""
    try:
        check_concepts(backbone, [task.concept], config)
    except SupremeInitError as error:
        failures.append(failure_of(task.place, task.token, error))
        return False
    return True
