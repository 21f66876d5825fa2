"""The benchmark of training: its loops are what they say, and its table follows from the figures."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, build_tiny_pipeline
from torch import nn
from training_families import TRAINING_FAMILY

sys.path.insert(0, str(ROOT / "benchmarks"))  # the benchmarks are a folder of scripts

training = importlib.import_module("training")
variants = importlib.import_module("training_variants")

WORDS = "a red mug with stripes"


def setup_of(**changes: Any) -> Any:
    tiny: dict[str, Any] = {"size": "toybox", "folder": None, "resolution": 32, "batch": 2, "dtype": "float32"}
    return variants.Setup(**(tiny | {"compiled": False, "checkpointed": False, "script": None} | changes))


def run(variant: str, pipe: Any, **changes: Any) -> Any:
    clock = variants.Clock(warmup=1, steps=2)
    figures = training.run_here(pipe, setup_of(**changes), variant, clock)
    assert clock.count == 3
    assert figures["seconds"] > 0
    assert figures["processor_seconds"] > 0
    return figures


@pytest.mark.parametrize("variant", ["whole matrix", "whole matrix, picture encoded once"])
def test_the_straight_line_loop_moves_its_rows_and_no_others(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = build_tiny_pipeline()
    encodes, encode = [], pipe.vae.encode
    monkeypatch.setattr(pipe.vae, "encode", lambda pixels: (encodes.append(len(pixels)), encode(pixels))[1])
    before = pipe.text_encoder.get_input_embeddings().weight.detach().clone()
    started = before[pipe.tokenizer(WORDS, add_special_tokens=False).input_ids]
    run(variant, pipe)
    after = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    assert (after[len(before) :] != started).any(dim=1).all()
    assert encodes == ([2] if "once" in variant else [2, 2, 2, 2])


def test_ours_writes_files_and_trains_as_many_steps() -> None:
    assert run("ours", build_tiny_pipeline())["written_bytes"] > 1000


def test_the_floor_has_a_gradient_at_the_embedding_and_changes_nothing() -> None:
    pipe, gradients = build_tiny_pipeline(), []

    def watch(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        output.requires_grad_().register_hook(lambda gradient: gradients.append(gradient.abs().sum().item()))

    pipe.text_encoder.get_input_embeddings().register_forward_hook(watch)
    before = {name: one.clone() for name, one in pipe.text_encoder.state_dict().items()}
    run("floor", pipe)
    assert len(gradients) == 3
    assert all(gradients)
    assert all(torch.equal(one, before[name]) for name, one in pipe.text_encoder.state_dict().items())
    assert all(weight.grad is None for part in (pipe.unet, pipe.text_encoder) for weight in part.parameters())


@pytest.mark.long
@pytest.mark.parametrize("family", ["stable_diffusion_xl", "flux_dev"])
def test_other_families_take_turns_on_the_same_models(family: str) -> None:
    pipe = TRAINING_FAMILY[family].build().to(torch.bfloat16)
    before = {name: one.clone() for name, one in pipe.text_encoder.state_dict().items()}
    for variant in ("ours", "whole matrix", "floor", "ours"):
        clock = variants.Clock(warmup=1, steps=1)
        figures = training.run_in_turn(pipe, setup_of(resolution=16, dtype="bfloat16"), variant, clock)
        assert figures["seconds"] > 0
    assert all(torch.equal(one, before[name]) for name, one in pipe.text_encoder.state_dict().items())


def test_a_script_is_run_as_it_is_with_a_stand_in_for_torchvision(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        "import argparse, pathlib, torch\n"
        "from torchvision import transforms\n"
        "parser = argparse.ArgumentParser()\n"
        "for name in ('max_train_steps', 'train_batch_size', 'output_dir', 'mixed_precision', 'train_data_dir'):\n"
        "    parser.add_argument(f'--{name}')\n"
        "args, _ = parser.parse_known_args()\n"
        "assert args.mixed_precision == 'no' and list(pathlib.Path(args.train_data_dir).iterdir())\n"
        "assert callable(transforms.RandomHorizontalFlip(p=0.5))\n"
        "weight = torch.nn.Parameter(torch.ones(3))\n"
        "optimizer = torch.optim.AdamW([weight])\n"
        "for _ in range(int(args.max_train_steps)):\n"
        "    weight.sum().backward()\n"
        "    optimizer.step()\n"
        "folder = pathlib.Path(args.output_dir)\n"
        "folder.mkdir()\n"
        "(folder / 'learned').write_bytes(bytes(77))\n"
    )
    had_torchvision = "torchvision" in sys.modules
    assert run("diffusers' script", None, folder="pipeline", script=str(path))["written_bytes"] == 77
    assert ("torchvision" in sys.modules) == had_torchvision


def figures(seconds: float, peak: float = 1e9) -> dict[str, float | None]:
    return {"seconds": seconds, "processor_seconds": 2 * seconds, "peak_bytes": peak, "written_bytes": None}


def test_ratios_are_those_within_a_round() -> None:
    rounds = training.Rounds(["ours", "whole matrix", "floor", "diffusers' script"])
    values = {"ours": iter([1.0, 2.0, 4.0]), "whole matrix": iter([2.0, 2.0, 6.0]), "floor": iter([0.8, 1.0, 2.0])}
    asked = []

    def measure(variant: str) -> dict[str, float | None]:
        asked.append(variant)
        if variant not in values:
            raise training.RunError("it | broke")
        return figures(next(values[variant]))

    rounds.measure(3, measure)
    assert asked[:4] == list(rounds.figures)
    assert asked[4:7] == ["floor", "whole matrix", "ours"]  # what failed is not tried again
    report = rounds.report()
    assert "| whole matrix | 2.000 | 4.000 | 1.00 |  | 1.50 (1.00 to 2.00) |" in report
    assert "| diffusers' script | it / broke |" in report
    assert "Ours over the floor: +100.0 (+25.0 to +100.0) % of the seconds" in report


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "expected at least 1"),
        (["--size", "sdxl", "--diffusers_script", "x.py"], "pass --size toybox or sd15"),
    ],
)
def test_wrong_options_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        training.parse_arguments(words)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_a_table_and_says_what_failed() -> None:
    words = ["--steps", "1", "--warmup", "1", "--rounds", "1", "--variants", "ours", "diffusers' script"]
    command = [sys.executable, "benchmarks/training.py", *words, "--diffusers_script", "nowhere.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "| ours | " in done.stdout
    assert "| diffusers' script | FileNotFoundError" in done.stdout
