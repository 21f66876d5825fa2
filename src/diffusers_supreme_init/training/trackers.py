"""The trackers of a run: those of `report_to`, or those of the user's own accelerator."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from ..config import SupremeInitConfig
from ..errors import ConfigError, SupremeInitWarning, TrainingError, one_line, shown

_PROJECT = "textual_inversion"
_FOLDER_ARGUMENTS = {"wandb": "dir", "dvclive": "dir", "swanlab": "logdir"}
"""Trackers that write into the current folder unless they are told another."""
_OF_ACCELERATE = frozenset(LoggerType.list())
_OTHER_NAMES = {"comet": "comet_ml", "weights_and_biases": "wandb", "w&b": "wandb"}


def tracker_names(config: SupremeInitConfig) -> list[str]:
    """Return the trackers that `report_to` names, separated by commas or spaces, as accelerate spells them.

    Raises:
        ConfigError: accelerate does not know one of them, or its package is not installed.
    """
    known = [*LOGGER_TYPE_TO_CLASS, "all"]
    installed = [str(one) for one in get_available_trackers()]
    names = []
    for word in dict.fromkeys((config.report_to or "").replace(",", " ").split()):
        name = next((one for one in known if one.lower() == _OTHER_NAMES.get(word.lower(), word.lower())), None)
        if name is None:
            raise ConfigError(f"report_to: expected some of {', '.join(known)}, got {shown(word)}")
        is_own = name not in _OF_ACCELERATE  # registered by the user
        if name != "all" and not is_own and name not in installed:
            raise ConfigError(
                f"report_to: expected trackers that are installed ({', '.join(installed) or 'none is'}), got {name}; "
                "install its package"
            )
        names.append(name)
    return names


def make_accelerator(config: SupremeInitConfig) -> Accelerator:
    """Return an accelerator with the trackers of `report_to`."""
    if config.report_to is None or config.output_dir is None:
        return Accelerator()
    project = ProjectConfiguration(project_dir=config.output_dir, logging_dir=str(_logging_dir(config)))
    return Accelerator(log_with=tracker_names(config), project_config=project)


@contextlib.contextmanager
def tracking(accelerator: Accelerator, config: SupremeInitConfig) -> Iterator[None]:
    """Start the accelerator's trackers unless the user has, and finish at the end those that were started here.

    Raises:
        TrainingError: A tracker cannot be started.
    """
    before = list(accelerator.trackers)
    wandb = sys.modules.get("wandb")
    run_of_user = getattr(wandb, "run", None)  # which `wandb.init` would return instead of a new one
    if not before and accelerator.log_with:
        _start(accelerator, config, has_run=run_of_user is not None)
    started = [tracker for tracker in accelerator.trackers if tracker not in before]
    try:
        yield
    finally:
        # `accelerator.end_training` would also destroy the process group, which the user may still need.
        for tracker in started:
            if tracker.name != "wandb" or run_of_user is None:
                _do(tracker, lambda tracker: tracker.finish(), "cannot be finished")
        accelerator.trackers = before


def send(accelerator: Accelerator, action: Callable[[Any], None]) -> None:
    """Do something with each tracker; one that fails gets nothing more.

    Warns:
        SupremeInitWarning: A tracker fails. The run goes on: its rows are worth more than a curve.
    """
    if accelerator.is_main_process:
        working = [
            tracker for tracker in accelerator.trackers if _do(tracker, action, "gets nothing more of this run")
        ]
        accelerator.trackers = working


def _start(accelerator: Accelerator, config: SupremeInitConfig, *, has_run: bool) -> None:
    # Scalars are the only settings that all trackers accept.
    scalars = {
        name: value if isinstance(value, int | float | str | bool) else str(value)
        for name, value in asdict(config).items()
    }
    options = {}
    if config.output_dir is not None and config.report_to is not None:
        folder = _logging_dir(config)
        folder.mkdir(parents=True, exist_ok=True)  # wandb takes another one if it does not exist
        options = {name: {argument: str(folder)} for name, argument in _FOLDER_ARGUMENTS.items()}
    if has_run:
        options.pop("wandb", None)
    try:
        accelerator.init_trackers(_PROJECT, config=scalars, init_kwargs=options)
    except Exception as error:  # a service may raise anything
        raise TrainingError(f"a tracker cannot be started: {one_line(error)}; or train without report_to") from error


def _do(tracker: Any, action: Callable[[Any], None], otherwise: str) -> bool:
    try:
        action(tracker)
    except Exception as error:  # a service may raise anything
        warnings.warn(f"{tracker.name} {otherwise}: {one_line(error)}", SupremeInitWarning, stacklevel=3)
        return False
    return True


def _logging_dir(config: SupremeInitConfig) -> Path:
    return Path(config.output_dir or "") / config.logging_dir
