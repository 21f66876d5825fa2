"""Killed at any moment and resumed, or split over processes, a run ends with the same rows."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_pipeline, random_picture
from safetensors import safe_open
from safetensors.torch import save_file
from tiny.language_tokenizers import without_video
from training_families import TRAINING_FAMILIES, side_of
from training_processes import WORKER, run_forked

from diffusers_supreme_init import (
    CheckpointError,
    Concept,
    OutputError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    TrainingError,
    read_embedding,
)
from diffusers_supreme_init.training.checkpoint import check_agreement, fingerprint

SETTINGS = {
    "max_train_steps": 8,
    "train_batch_size": 2,
    "checkpointing_steps": 1,
    "validation_samples": 4,
    "validation_steps": ["0", "every:3"],
    "early_stopping_patience": 2,
    "snapshot_steps": ["5"],
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "resume_from_checkpoint": "latest",
}
TOGETHER = {"early_stopping_patience": 0, "max_forward_batch_size": 4}
"""Settings of what several processes do as one does."""


def command(output_dir: Path, *arguments: str, **settings: Any) -> list[str]:
    return [sys.executable, WORKER, str(output_dir), json.dumps(SETTINGS | settings), *arguments]


def run(
    output_dir: Path, *arguments: str, hashes: int = 1, num_processes: int = 1, **settings: Any
) -> subprocess.CompletedProcess[str]:
    return run_forked(output_dir, SETTINGS | settings, *arguments, hashes=hashes, num_processes=num_processes)


def results(output_dir: Path) -> dict[str, bytes]:
    """Return the bytes of every embedding file, snapshots included."""
    return {str(path.relative_to(output_dir)): path.read_bytes() for path in sorted(output_dir.rglob("learned_*"))}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output_dir = tmp_path_factory.mktemp("uninterrupted")
    finished = run(output_dir)
    assert finished.returncode == 0, finished.stderr
    assert len(results(output_dir)) == 6
    return results(output_dir)


def resume_after(kills: list[tuple[str, int]], output_dir: Path) -> dict[str, bytes]:
    for index, (option, number) in enumerate(kills):
        killed = run(output_dir, option, str(number), hashes=1 + index % 2)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = run(output_dir, hashes=1 + len(kills) % 2)
    assert finished.returncode == 0, finished.stderr
    return results(output_dir)


@pytest.mark.long
def test_three_kills_change_no_byte(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    # Before the first checkpoint, in a step, and while saving with half of the file written.
    kills = [("--kill-at-step", 0), ("--kill-at-step", 4), ("--kill-at-save", 3)]
    assert resume_after(kills, tmp_path) == uninterrupted


def test_a_stop_changes_no_byte(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    # Between two validations, in the warm-up; then before the first early stopping could be.
    for step, hashes in ((1, 1), (4, 2)):
        stopped = run(tmp_path, "--stop-after", str(step), hashes=hashes, checkpointing_steps=0)
        assert stopped.returncode == 0, stopped.stderr
        saved = [read_embedding(tmp_path / name / "learned_embeds.safetensors").training for name in "abc"]
        assert [(one["status"], one["steps"]) for one in saved] == [("stopped", step)] * 3
    finished = run(tmp_path, hashes=1)
    assert finished.returncode == 0, finished.stderr
    assert results(tmp_path) == uninterrupted


FAMILY_SETTINGS: dict[str, Any] = {
    "max_train_steps": 4,
    "validation_samples": 2,
    "validation_steps": ["0", "every:2"],
    "snapshot_steps": ["2"],
}


LONG = ("stable_diffusion_xl", "flux_dev", "sana")
"""Families whose processes are started by `make test-long`; the others take their turn in `make test-slow`."""


@pytest.fixture(
    params=[
        pytest.param(case, id=case.name, marks=pytest.mark.long if case.name in LONG else pytest.mark.slow)
        for case in TRAINING_FAMILIES
    ]
)
def family_option(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Options of a run on a pipeline of each family, from a folder."""
    pipe = request.param.build()
    with without_video():
        pipe.save_pretrained(tmp_path / "pipeline")
    return ["--pipeline", str(tmp_path / "pipeline"), "--resolution", str(side_of(pipe))]


def test_kills_change_no_byte_in_any_family(family_option: list[str], tmp_path: Path) -> None:
    finished = run(tmp_path / "plain", *family_option, **FAMILY_SETTINGS)
    assert finished.returncode == 0, finished.stderr
    expected = results(tmp_path / "plain")
    assert len(expected) >= 6
    # In a step, and while the checkpoint of the next one is written.
    for option, number in (("--kill-at-step", 2), ("--kill-at-save", 2)):
        killed = run(tmp_path / "killed", option, str(number), *family_option, **FAMILY_SETTINGS)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = run(tmp_path / "killed", *family_option, hashes=2, **FAMILY_SETTINGS)
    assert finished.returncode == 0, finished.stderr
    assert results(tmp_path / "killed") == expected


def test_two_processes_give_the_rows_of_one_in_any_family(
    family_option: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Gemma's norms are computed in float32, whatever the type of the model.
    atol = 5e-8 if request.node.callspec.id in ("sana", "lumina2") else 1e-8
    check_two_equal_one(tmp_path, *family_option, atol=atol, **FAMILY_SETTINGS)


@pytest.mark.slow
def test_kills_at_every_step_and_in_every_save_change_no_byte(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    steps = [("--kill-at-step", step) for step in range(8)]
    assert resume_after(steps, tmp_path / "steps") == uninterrupted
    # The first write of a run probes the folder; each later one is a checkpoint or a snapshot.
    saves = [("--kill-at-save", number) for number in (1, 2, 2, 3, 3, 2)]
    assert resume_after(saves, tmp_path / "saves") == uninterrupted


@pytest.mark.slow
def test_kills_from_outside_at_random_moments_change_no_byte(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    rng, checkpoint, num_kills = random.Random(0), tmp_path / "checkpoint.safetensors", 0
    while True:
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else None) == before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))  # within a step or two of the checkpoint that was just written
        process.kill()
        if process.wait() != -signal.SIGKILL:
            break
        num_kills += 1
    assert num_kills >= 3
    assert process.returncode == 0
    assert results(tmp_path) == uninterrupted


@pytest.mark.parametrize(
    "num_processes", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.long)]
)
def test_accelerate_launch_with_several_processes_gives_the_same_rows(num_processes: int, tmp_path: Path) -> None:
    """1 and 2 CPU processes, started as users start them, against a plain run; float64, 20 steps, 3 concepts."""
    check_launched_equals_plain(tmp_path, num_processes, max_train_steps=20)


def test_several_processes_stop_after_the_same_step(tmp_path: Path) -> None:
    check_two_equal_one(tmp_path, "--stop-after", "3", max_train_steps=20)
    assert json.loads((tmp_path / "two" / "a" / "training.json").read_text())["status"] == "stopped"


def check_launched_equals_plain(tmp_path: Path, num_processes: int, **settings: Any) -> None:
    settings = TOGETHER | settings
    plain = run(tmp_path / "plain", "--float64", **settings)
    assert plain.returncode == 0, plain.stderr
    # `accelerate launch --cpu` starts one process whatever --num_processes says (accelerate 1.15). Its launcher of
    # several processes is --multi_gpu; the environment variable puts them on the CPU.
    with socket.socket() as one:  # old versions of accelerate do not look for a free port themselves
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    several = ["--multi_gpu", "--main_process_port", str(port)] if num_processes > 1 else ["--cpu"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *several, "--num_machines", "1"]
    launch += ["--num_processes", str(num_processes), "--mixed_precision", "no", "--dynamo_backend", "no"]
    script = command(tmp_path / "launched", "--float64", **settings)[1:]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    launched = subprocess.run([*launch, *script], capture_output=True, text=True, timeout=600, env=environment)
    assert launched.returncode == 0, launched.stderr
    check_same_rows(tmp_path / "plain", tmp_path / "launched", num_processes)


def check_two_equal_one(tmp_path: Path, *arguments: str, atol: float = 1e-8, **settings: Any) -> None:
    """As `check_launched_equals_plain`, without the launcher: what it tells the processes, the forks are told."""
    for folder, num_processes in (("plain", 1), ("two", 2)):
        options = TOGETHER | settings
        ended = run(tmp_path / folder, "--float64", *arguments, num_processes=num_processes, **options)
        assert ended.returncode == 0, ended.stderr
    check_same_rows(tmp_path / "plain", tmp_path / "two", 2, atol)


def check_same_rows(plain: Path, other: Path, num_processes: int, atol: float = 1e-8) -> None:
    expected, got = (torch.load(folder / "exact_rows.pt") for folder in (plain, other))
    assert got["processes"] == num_processes
    for token, rows in expected["rows"].items():
        torch.testing.assert_close(got["rows"][token], rows, rtol=0, atol=atol)


def trainer(
    output_dir: Path, *, initializer: str = "a red mug", pipe: Any = None, seed: int = 0, **settings: Any
) -> Any:
    values = {"max_train_steps": 2, "validation_samples": 0, "checkpointing_steps": 1, "seed": seed} | settings
    return SupremeInitTextualInversionTrainer(
        pipe or build_tiny_pipeline(),
        images=random_picture(seed=settings.pop("picture", 0)),
        placeholder_token="<mug>",
        initializer=initializer,
        config=SupremeInitConfig(output_dir=str(output_dir), **values),
    )


def test_a_finished_run_can_be_resumed_with_more_steps(tmp_path: Path) -> None:
    trainer(tmp_path / "short").train()
    (longer,) = trainer(tmp_path / "short", max_train_steps=5, resume_from_checkpoint="latest").train()
    (at_once,) = trainer(tmp_path / "long", max_train_steps=5).train()
    assert torch.equal(longer.rows["text_encoder"], at_once.rows["text_encoder"])
    assert longer.losses == at_once.losses


def seconds_of(one: SupremeInitTextualInversionTrainer, folder: Path) -> Any:
    one.save(folder, overwrite=True)
    return json.loads((folder / "training.json").read_text())["seconds"]


def test_a_resumed_run_took_as_long_as_its_parts_without_what_a_kill_lost(tmp_path: Path) -> None:
    def killed_after_a_checkpoint(step: int, _: Any) -> None:
        time.sleep({1: 0.3, 3: 1.0}.get(step, 0))
        if step == 3:
            raise InterruptedError

    began = time.monotonic()
    with pytest.raises(InterruptedError):
        trainer(tmp_path / "run", max_train_steps=4, checkpointing_steps=2).train(killed_after_a_checkpoint)
    second = trainer(tmp_path / "run", max_train_steps=4, resume_from_checkpoint="latest")
    second.train()
    every, seconds = time.monotonic() - began, seconds_of(second, tmp_path / "saved")
    third = trainer(tmp_path / "run", max_train_steps=5, resume_from_checkpoint="latest")
    third.train(lambda *_: time.sleep(0.2))
    with safe_open(tmp_path / "run" / "checkpoint.safetensors", framework="pt") as file:
        assert float(file.metadata()["seconds"]) > seconds
    assert 0.3 < seconds < every - 1.0
    assert seconds_of(third, tmp_path / "saved") > seconds + 0.2


def test_nobody_knows_how_long_the_parts_of_an_older_checkpoint_took(tmp_path: Path) -> None:
    trainer(tmp_path / "run", max_train_steps=2).train()
    path = tmp_path / "run" / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert float(metadata.pop("seconds")) > 0
    save_file(tensors, path, metadata)  # as it was written before
    for steps in (3, 4):
        resumed = trainer(tmp_path / "run", max_train_steps=steps, resume_from_checkpoint="latest")
        resumed.train()
        assert seconds_of(resumed, tmp_path / "saved") is None


@pytest.mark.parametrize("how", ["callback", "thread", "signal"])
def test_a_stop_from_anywhere_ends_after_the_step(tmp_path: Path, how: str) -> None:
    one = trainer(tmp_path, max_train_steps=1000, checkpointing_steps=0)
    seen: list[int] = []

    def after_step(step: int, losses: Any) -> None:
        assert list(losses) == ["<mug>"]
        seen.append(step)
        if step == 2 and how == "thread":
            thread = threading.Thread(target=one.stop)
            thread.start()
            thread.join()
        elif step == 2:
            one.stop() if how == "callback" else signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: one.stop())
    try:
        (result,) = one.train(after_step)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [1, 2]
    assert (result.status, result.step, len(result.losses)) == ("stopped", 2, 2)
    assert "<mug|0>" in one.pipe.tokenizer.tokenize("a <mug>")
    assert (tmp_path / "checkpoint.safetensors").is_file()


def test_a_stop_before_training_leaves_the_description(tmp_path: Path) -> None:
    one = trainer(tmp_path / "run")
    one.stop()
    (result,) = one.train()
    assert (result.status, result.step) == ("stopped", 0)
    assert torch.equal(result.rows["text_encoder"], result.initial_rows["text_encoder"])
    one.save(tmp_path / "saved")
    (resumed,) = trainer(tmp_path / "run", resume_from_checkpoint="latest").train()
    (plain,) = trainer(tmp_path / "plain").train()
    assert torch.equal(resumed.rows["text_encoder"], plain.rows["text_encoder"])


def test_a_stop_without_an_output_folder_keeps_what_was_learned(tmp_path: Path) -> None:
    one = SupremeInitTextualInversionTrainer(
        build_tiny_pipeline(),
        images=random_picture(),
        placeholder_token="<mug>",
        initializer="a red mug",
        config=SupremeInitConfig(max_train_steps=9, validation_samples=0),
    )
    (stopped,) = one.train(lambda step, _: one.stop())
    (short,) = trainer(tmp_path, max_train_steps=1).train()
    assert torch.equal(stopped.rows["text_encoder"], short.rows["text_encoder"])
    assert read_embedding(one.save(tmp_path / "saved")[0]).training["status"] == "stopped"


def test_latest_begins_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    (result,) = trainer(tmp_path, resume_from_checkpoint="latest").train()
    assert result.step == 2


def test_fp16_loss_scales_are_resumed(tmp_path: Path) -> None:
    def half() -> Any:
        return build_tiny_pipeline().to(dtype=torch.float16)

    trainer(tmp_path / "short", pipe=half()).train()
    (longer,) = trainer(tmp_path / "short", pipe=half(), max_train_steps=4, resume_from_checkpoint="latest").train()
    (at_once,) = trainer(tmp_path / "long", pipe=half(), max_train_steps=4).train()
    assert torch.equal(longer.rows["text_encoder"], at_once.rows["text_encoder"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"initializer": "a blue mug"},
            r"concepts\.<mug>\.initializer: the checkpoint has 'a red mug', this run 'a blue",
        ),
        ({"seed": 1}, r"settings\.seed: the checkpoint has 0, this run 1"),
        ({"learning_rate": 1.0}, r"settings\.learning_rate: the checkpoint has 0\.002, this run 1\.0"),
        ({"pipe": "another"}, r"model\.denoiser: the checkpoint has"),
        ({"max_train_steps": 1}, "is beyond max_train_steps=1"),
        ({"resume_from_checkpoint": "nowhere.safetensors"}, "expected a checkpoint, got 'nowhere.safetensors'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_checkpoints_of_other_runs_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str, unchanged: Callable[[Any], None]
) -> None:
    trainer(tmp_path).train()
    checkpoint = (tmp_path / "checkpoint.safetensors").read_bytes()
    pipe = build_tiny_pipeline()
    if changes.get("pipe") == "another":
        with torch.no_grad():
            pipe.unet.conv_in.bias.add_(1)
    unchanged(pipe)
    options = {"resume_from_checkpoint": "latest"} | changes | {"pipe": pipe}
    with pytest.raises(CheckpointError, match=message):
        trainer(tmp_path, **options).train()
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == checkpoint


def test_damaged_checkpoints_are_refused(tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    trainer(tmp_path).train()
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    pipe = build_tiny_pipeline()
    unchanged(pipe)
    with pytest.raises(CheckpointError, match="expected an undamaged checkpoint"):
        trainer(tmp_path, pipe=pipe, resume_from_checkpoint="latest").train()


def test_concepts_that_are_new_gone_or_changed_are_told_in_words(tmp_path: Path) -> None:
    def train(*concepts: Concept, **settings: Any) -> None:
        config = SupremeInitConfig(max_train_steps=1, validation_samples=0, output_dir=str(tmp_path), **settings)
        SupremeInitTextualInversionTrainer(build_tiny_pipeline(), concepts=concepts, config=config).train()

    def concept(token: str, seed: int = 0, **options: Any) -> Concept:
        values = {"images": random_picture(seed=seed), "placeholder_token": token, "initializer": "a red mug"}
        return Concept(**(values | options))

    train(concept("<a>"), concept("<b>"), concept("<c>"), concept("<d>"), checkpointing_steps=1)
    five = [concept(f"<new{number}>") for number in range(12)]
    with pytest.raises(CheckpointError) as info:
        train(
            concept("<a>"),
            concept("<b>", seed=1),
            concept("<c>", templates=["a {}"], num_vectors=2),
            *five,
            resume_from_checkpoint="latest",
        )
    message = str(info.value)
    assert "<new9> and 2 more are new in this run; <d> is only in the checkpoint" in message
    assert "<b> has other pictures or masks; <c> has other templates, numbers of rows, initial rows;" in message
    assert "<a>" not in message
    assert "e+" not in message  # no digest


def test_processes_that_would_train_something_else_are_refused(pipe: Any) -> None:
    def run_of(seed: int = 0, picture: int = 0, weight: float = 0.0) -> dict[str, Any]:
        config = SupremeInitConfig(max_train_steps=0, validation_samples=0, seed=seed)
        own = build_tiny_pipeline()
        with torch.no_grad():
            own.unet.conv_out.bias.add_(weight)
        trainer = SupremeInitTextualInversionTrainer(
            own, random_picture(seed=picture), "<mug>", "a mug", config=config
        )
        trainer.train()
        return fingerprint(trainer._backbone, config, trainer.results)

    check_agreement([run_of(), run_of(), run_of()])
    for other, message in [
        (run_of(seed=1), "settings.seed: process 0 has 0, process 2 1"),
        (run_of(picture=1), r"concepts.<mug>.pictures: process 0 has '.*, process 2 '"),
        (run_of(weight=1.0), "model.denoiser: process 0 has 'UNet2DConditionModel/.*, process 2 'UNet"),
    ]:
        with pytest.raises(TrainingError, match=f"expected equal settings, .* in all processes, got .*{message}"):
            check_agreement([run_of(), run_of(), other])


def test_two_runs_do_not_write_into_one_folder(pipe: Any, other_pipe: Any, tmp_path: Path) -> None:
    config = SupremeInitConfig(max_train_steps=1, validation_samples=0, output_dir=str(tmp_path))
    first, second = (
        SupremeInitTextualInversionTrainer(one, random_picture(), "<mug>", "a mug", config=config)
        for one in (pipe, other_pipe)
    )

    def meanwhile(*_: Any) -> None:
        with pytest.raises(
            OutputError, match="expected a folder of this run alone, got .*where another run is training"
        ):
            second.train()

    first.train(meanwhile)
    assert not [path.name for path in tmp_path.iterdir() if "lock" in path.name]
    second.train()
