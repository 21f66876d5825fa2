"""The trackers of a run: those of `report_to`, or those of the user's own accelerator."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from ..config import SupremeInitConfig
from ..errors import ConfigError, SupremeInitWarning, TrainingError, one_line, shown
from ..file_names import folder_name

_PROJECT = "textual_inversion"
_FIND_OPEN_RUN: dict[str, Callable[[Any], Any]] = {
    "wandb": lambda wandb: wandb.run,
    "comet_ml": lambda comet: comet.get_running_experiment(),
    "mlflow": lambda mlflow: mlflow.active_run(),
    "trackio": lambda trackio: trackio.context_vars.current_run.get(),
}
"""How each service is asked for the run that the user has open."""
_NAMES_LIKE_FILES = frozenset({"mlflow", "dvclive"})
"""Trackers whose curves may not be called ``train_loss/<mug>``."""
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
    open_runs = {name: run for name in _FIND_OPEN_RUN if (run := _open_run(name)) is not None}
    with contextlib.ExitStack() as restored:
        if not before and accelerator.log_with:
            _start(accelerator, config, open_runs, restored)
        started = [tracker for tracker in accelerator.trackers if tracker not in before]
        try:
            yield
        finally:
            # `accelerator.end_training` would also destroy the process group, which the user may still need.
            for tracker in started:
                if tracker.name not in open_runs or tracker.name == "mlflow":  # whose run is within the open one
                    _do(tracker, lambda tracker: tracker.finish(), "cannot be finished")
            accelerator.trackers = before


def name_of_concept(tracker: Any, placeholder_token: str) -> str:
    """Return the concept's part of the names of its curves: the token, or a name that a file may have."""
    return folder_name(placeholder_token) if tracker.name in _NAMES_LIKE_FILES else placeholder_token


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


def _start(
    accelerator: Accelerator,
    config: SupremeInitConfig,
    open_runs: Mapping[str, Any],
    restored: contextlib.ExitStack,
) -> None:
    # Scalars are the only settings that all trackers accept.
    scalars = {
        name: value if isinstance(value, int | float | str | bool) else str(value)
        for name, value in asdict(config).items()
    }
    names = [str(one) if isinstance(one, LoggerType | str) else one.name for one in accelerator.log_with]
    for name in ("trackio", "comet_ml"):
        if name in names and name in open_runs:
            raise TrainingError(f"{name}: starting a run finishes the one that is open; finish yours first")
    try:
        options: dict[str, dict[str, Any]] = {}
        if config.output_dir is not None and config.report_to is not None:
            folder = _logging_dir(config).absolute()
            folder.mkdir(parents=True, exist_ok=True)  # wandb takes another one if it does not exist
            options = _places(names, folder, open_runs, restored)
        if "mlflow" in open_runs:
            options["mlflow"] = {"nested_run": True}
        accelerator.init_trackers(_PROJECT, config=scalars, init_kwargs=options)
    except Exception as error:  # a service may raise anything
        raise TrainingError(f"a tracker cannot be started: {one_line(error)}; or train without report_to") from error


def _places(
    names: Sequence[str], folder: Path, open_runs: Mapping[str, Any], restored: contextlib.ExitStack
) -> dict[str, dict[str, Any]]:
    """Return the arguments of trackers that would otherwise write into the current folder."""
    places: dict[str, dict[str, Any]] = {
        "wandb": {"dir": str(folder)},
        "dvclive": {"dir": str(folder), "dvcyaml": str(folder / "dvc.yaml")},
        "swanlab": {"logdir": str(folder)},
    }
    if "mlflow" in names and "mlflow" not in open_runs:
        import mlflow

        if not mlflow.is_tracking_uri_set():
            restored.callback(mlflow.set_tracking_uri, None)
            mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').as_posix()}")
            places["mlflow"] = {"logging_dir": folder.as_uri()}
    if "comet_ml" in names and "COMET_OFFLINE_DIRECTORY" not in os.environ:  # writes there without a connection
        import comet_ml

        places["comet_ml"] = {"experiment_config": comet_ml.ExperimentConfig(offline_directory=str(folder))}
    return {name: arguments for name, arguments in places.items() if name not in open_runs}


def _open_run(name: str) -> Any:
    module = sys.modules.get(name)
    return None if module is None else _FIND_OPEN_RUN[name](module)


def _do(tracker: Any, action: Callable[[Any], None], otherwise: str) -> bool:
    try:
        action(tracker)
    except Exception as error:  # a service may raise anything
        warnings.warn(f"{tracker.name} {otherwise}: {one_line(error)}", SupremeInitWarning, stacklevel=3)
        return False
    return True


def _logging_dir(config: SupremeInitConfig) -> Path:
    return Path(config.output_dir or "") / config.logging_dir
