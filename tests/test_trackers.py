"""Trackers: which are taken, which are finished, and that none can cost the rows."""

import sys
import types
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from conftest import random_picture

from diffusers_supreme_init import (
    ConfigError,
    OutputError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    SupremeInitWarning,
    TrainingError,
)
from diffusers_supreme_init.training import checkpoint
from diffusers_supreme_init.training.trackers import make_accelerator, tracker_names, tracking


def make_trainer(pipe: Any, accelerator: Accelerator | None = None, **options: Any) -> Any:
    config = SupremeInitConfig(**({"max_train_steps": 3, "validation_samples": 2} | options))
    return SupremeInitTextualInversionTrainer(
        pipe, random_picture(), "<mug>", "a mug", config=config, accelerator=accelerator
    )


class Memory(GeneralTracker):
    """Remembers what it is told; fails where it is asked to."""

    name, requires_logging_directory, main_process_only = "memory", False, False

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.fails, self.told, self.num_finished = fails, [], 0

    @property
    def tracker(self) -> Any:
        return self

    def start(self) -> None:
        self._maybe("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.values = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._maybe("log")
        self.told.append((step, *values))

    def finish(self) -> None:
        self._maybe("finish")
        self.num_finished += 1

    def _maybe(self, what: str) -> None:
        if what == self.fails:
            raise ConnectionError(f"no {what} today\nsorry")


STEPS = [(0, "validation_loss/<mug>"), (1, "train_loss/<mug>"), (2, "train_loss/<mug>")]
STEPS.append((3, "train_loss/<mug>", "validation_loss/<mug>"))


def test_the_trackers_of_an_accelerator_are_started_and_finished(pipe: Any) -> None:
    tracker = Memory()
    accelerator = Accelerator(log_with=tracker)
    make_trainer(pipe, accelerator).train()
    assert (tracker.told, tracker.num_finished, accelerator.trackers) == (STEPS, 1, [])
    assert tracker.values["max_train_steps"] == 3


def test_trackers_that_the_user_started_are_used_and_left_running(pipe: Any) -> None:
    tracker = Memory()
    accelerator = Accelerator(log_with=tracker)
    accelerator.init_trackers("mine", config={"mine": 1})
    make_trainer(pipe, accelerator).train()
    assert (tracker.told, tracker.num_finished, accelerator.trackers) == (STEPS, 0, [tracker])
    assert tracker.values == {"mine": 1}


def test_a_tracker_that_fails_costs_no_row_and_no_other_tracker(pipe: Any, other_pipe: Any) -> None:
    (expected,) = make_trainer(other_pipe).train()
    broken, whole, late = Memory("log"), Memory(), Memory("finish")
    accelerator = Accelerator(log_with=[broken, whole, late])
    trainer = make_trainer(pipe, accelerator)
    with pytest.warns(
        SupremeInitWarning, match="memory (gets nothing more of this run: no log|cannot be finished)"
    ) as told:
        (result,) = trainer.train()
    assert len(told) == 2
    assert (whole.told, late.told, broken.told) == (STEPS, STEPS, [])
    assert (whole.num_finished, broken.num_finished) == (1, 1)
    assert (result.rows["text_encoder"] == expected.rows["text_encoder"]).all()


def test_a_tracker_that_cannot_start_ends_the_run_before_anything_is_changed(pipe: Any, unchanged: Any) -> None:
    unchanged(pipe)
    trainer = make_trainer(pipe, Accelerator(log_with=Memory("start")))
    with pytest.raises(TrainingError, match=r"\Aa tracker cannot be started: no start today sorry; or train without"):
        trainer.train()


@pytest.mark.parametrize(
    ("report_to", "names"),
    [
        ("tensorboard", ["tensorboard"]),
        ("TensorBoard", ["tensorboard"]),
        (" tensorboard ,tensorboard", ["tensorboard"]),
        (["tensorboard"], ["tensorboard"]),
        ("tensorboard, wandb", ["tensorboard", "wandb"]),
        (["WandB", "tensorboard"], ["wandb", "tensorboard"]),
        ("all", ["all"]),
        ([], []),
        ("none", []),
    ],
)
def test_names_of_trackers(report_to: Any, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    available = [LoggerType.TENSORBOARD, LoggerType.WANDB]
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", available)
    assert tracker_names(SupremeInitConfig(report_to=report_to, output_dir="out")) == names


@pytest.mark.parametrize(
    ("report_to", "message"),
    [
        ("tensorbord", "report_to: expected some of .*tensorboard.*, got 'tensorbord'"),
        ("tensorboard,nowhere", "report_to: expected some of .*, got 'nowhere'"),
        ("tensorboard,wandb", r"report_to: expected trackers that are installed \(tensorboard\), got wandb; install"),
        ("mlflow", "expected trackers that are installed .*, got mlflow"),
    ],
)
def test_trackers_that_cannot_be_had_are_refused_at_once(
    pipe: Any, report_to: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    with pytest.raises(ConfigError, match=message):
        make_trainer(pipe, report_to=report_to, output_dir="out")


class Wandb(types.ModuleType):
    """The part of wandb that accelerate uses."""

    class Run:
        def __init__(self, wandb: Any, **options: Any) -> None:
            self.wandb, self.options, self.logged, self.is_finished = wandb, options, [], False

        def log(self, values: dict[str, Any], **_: Any) -> None:
            self.logged.append(values)

        def finish(self) -> None:
            self.is_finished, self.wandb.run = True, None

    def __init__(self) -> None:
        super().__init__("wandb")
        self.run: Any = None
        self.config = types.SimpleNamespace(update=lambda *_, **__: None)

    def init(self, **options: Any) -> Any:
        self.run = self.run or self.Run(self, **options)
        return self.run

    def log(self, values: dict[str, Any], **_: Any) -> None:
        self.run.log(values)

    def Image(self, *_: Any, **__: Any) -> Any:  # noqa: N802 - wandb's own name
        return None


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType.WANDB])
    return module


def test_files_of_wandb_lie_below_the_output_dir(pipe: Any, wandb: Wandb, tmp_path: Path) -> None:
    made = []
    init = wandb.init
    wandb.init = lambda **options: made.append(init(**options)) or made[-1]  # type: ignore[method-assign]
    make_trainer(pipe, report_to="wandb", output_dir=str(tmp_path)).train()
    assert made[0].options["dir"] == str(tmp_path / "logs")
    assert (tmp_path / "logs").is_dir()
    assert len(made[0].logged) == 4
    assert made[0].is_finished


def test_a_run_of_the_user_is_logged_to_and_left_open(pipe: Any, wandb: Wandb, tmp_path: Path) -> None:
    own = wandb.init(project="mine")
    make_trainer(pipe, report_to="wandb", output_dir=str(tmp_path)).train()
    assert len(own.logged) == 4
    assert not own.is_finished


def started_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, **module: Any
) -> tuple[Any, dict[str, Any]]:
    """Return an accelerator that reports to a service of which only `module` is there, and what it is started with."""
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**module))
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType(name)])
    config = SupremeInitConfig(report_to=name, output_dir=str(tmp_path))
    accelerator, given = make_accelerator(config), {}
    monkeypatch.setattr(accelerator, "init_trackers", lambda *_, init_kwargs, **__: given.update(init_kwargs))
    with tracking(accelerator, config):
        pass
    return accelerator, given.get(name, {})


def test_files_of_dvclive_lie_below_the_output_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, given = started_with(monkeypatch, tmp_path, "dvclive")
    assert given == {"dir": str(tmp_path / "logs"), "dvcyaml": str(tmp_path / "logs" / "dvc.yaml")}


def test_files_of_comet_lie_below_the_output_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = {"ExperimentConfig": lambda **options: options, "get_running_experiment": lambda: None}
    _, given = started_with(monkeypatch, tmp_path, "comet_ml", **module)
    assert given == {"experiment_config": {"offline_directory": str(tmp_path / "logs")}}
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", "mine")
    assert started_with(monkeypatch, tmp_path, "comet_ml", **module)[1] == {}


@pytest.mark.parametrize("is_set", [False, True])
def test_mlflow_writes_below_the_output_dir_unless_told_where(
    is_set: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uris: list[str | None] = []
    module = {
        "active_run": lambda: None,
        "is_tracking_uri_set": lambda: is_set,
        "set_tracking_uri": uris.append,
    }
    _, given = started_with(monkeypatch, tmp_path, "mlflow", **module)
    folder = tmp_path / "logs"
    assert uris == ([] if is_set else [f"sqlite:///{(folder / 'mlflow.db').as_posix()}", None])
    assert given == ({} if is_set else {"logging_dir": folder.as_uri()})


def test_a_run_of_mlflow_is_within_the_one_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, given = started_with(monkeypatch, tmp_path, "mlflow", active_run=lambda: "mine")
    assert given == {"nested_run": True}


@pytest.mark.parametrize("name", ["trackio", "comet_ml"])
def test_services_that_would_finish_the_run_of_the_user_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    current_run = types.SimpleNamespace(get=lambda: "mine")
    module = {
        "context_vars": types.SimpleNamespace(current_run=current_run),
        "get_running_experiment": lambda: "mine",
    }
    with pytest.raises(TrainingError, match=f"{name}: starting a run finishes the one that is open; finish yours"):
        started_with(monkeypatch, tmp_path, name, **module)


@pytest.mark.parametrize("name", ["mlflow", "dvclive"])
def test_names_of_curves_that_become_files(pipe: Any, name: str) -> None:
    class Strict(Memory):
        pass

    Strict.name = name
    tracker = Strict()
    make_trainer(pipe, Accelerator(log_with=tracker)).train()
    assert [values[1:] for values in tracker.told] == [
        tuple(value.replace("<mug>", "mug") for value in values[1:]) for values in STEPS
    ]


def test_a_full_disk_costs_files_but_no_rows(
    pipe: Any, other_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_train_steps": 4, "checkpointing_steps": 1, "snapshot_steps": ["2"]}
    (expected,) = make_trainer(other_pipe, output_dir=str(tmp_path / "whole"), **options).train()
    trainer = make_trainer(pipe, output_dir=str(tmp_path / "run"), **options)
    write, num_written = checkpoint.write_atomically, 0

    def full(path: Path, data: bytes) -> Path:
        nonlocal num_written
        num_written += 1
        if num_written > 1:
            raise OutputError(f"cannot write {str(path)!r}: No space left on device; choose another output_dir")
        return write(path, data)

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    message = "training is complete and can be saved elsewhere, but 3 files .* the first: cannot write .*No space left"
    with pytest.raises(OutputError, match=message):
        trainer.train()
    assert (trainer.results[0].rows["text_encoder"] == expected.rows["text_encoder"]).all()
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()  # the first, whole
    assert (tmp_path / "run" / "learned_embeds-steps-2.safetensors").is_file()
    assert trainer.save(tmp_path / "elsewhere")[0].is_file()
