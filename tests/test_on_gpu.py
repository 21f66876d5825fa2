"""The command for a machine with a GPU: what it runs exists, and what fails or takes too long stops nothing else."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))  # the benchmarks are a folder of scripts

on_gpu = importlib.import_module("on_gpu")


def python(name: str, code: str) -> object:
    return on_gpu.Command(name, ("-c", code), is_markdown=False)


def test_what_fails_or_takes_too_long_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    child = f"import time; time.sleep(3); open({str(marker)!r}, 'w')"
    sleeper = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    part = on_gpu.Part(
        2.5,
        (
            python("wrong", "import sys; print('1 %\\r99 %\\rprinted'); sys.exit('what went wrong')"),
            python("right", "print('fine')"),
            python("slow", sleeper),
            python("late", "print('never')"),
        ),
    )
    started = time.monotonic()
    wrong, right, slow, late = on_gpu.run_part(part)
    assert time.monotonic() - started < 10
    outcomes = [one.outcome for one in (wrong, right, slow, late)]
    assert outcomes == ["failed with exit status 1", "passed", "timed out", "not reached"]
    assert "printed" in wrong.output
    assert "99 %" not in wrong.output
    assert "what went wrong" in wrong.output
    assert "fine" in right.output
    time.sleep(1.5)
    assert not marker.exists()  # what it had started was stopped too


def test_a_run_writes_its_results_and_exits_with_1_if_anything_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"tests": "import sys; sys.exit(3)", "memory": "print('| a table |')"}
    made = {name: on_gpu.Part(60, (on_gpu.Command(name, ("-c", text)),)) for name, text in code.items()}
    monkeypatch.setattr(on_gpu, "parts", lambda toybox, dry=False: made)
    monkeypatch.setattr(on_gpu, "machine", lambda: {"card": "none", "driver": "none", "torch": "2"})
    folder = ["--dry", "--output_dir", str(tmp_path)]
    assert on_gpu.main([*folder, "--parts", "memory"]) == 0
    assert on_gpu.main([*folder, "--parts", "tests"]) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["tests", "memory"]  # that of the run before is still there
    assert results["tests"]["outcomes"][0]["outcome"] == "failed with exit status 3"
    text = (tmp_path / "README.md").read_text()
    assert "| a table |" in text
    (tmp_path / "README.md").unlink()
    assert on_gpu.main([*folder, "--parts"]) == 0  # only writes
    assert (tmp_path / "README.md").read_text() == text


def test_without_a_gpu_it_says_how_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_gpu, "machine", lambda: {"card": "none", "driver": "none", "torch": "2"})
    with pytest.raises(SystemExit, match="2"):
        on_gpu.main(["--output_dir", str(tmp_path), "--parts", "tests"])
    assert "expected a CUDA GPU, got none; try everything on the CPU with --dry" in capsys.readouterr().err


def test_parts_keep_their_time() -> None:
    real, dry = on_gpu.parts(Path("toybox")), on_gpu.parts(Path("toybox"), dry=True)
    assert list(real) == list(dry)
    assert max(part.limit for part in real.values()) < 9 * 60
    assert sum(part.limit for part in real.values()) <= 25 * 60


@pytest.mark.parametrize("dry", [False, True])
def test_the_programs_know_their_options(dry: bool) -> None:
    training = importlib.import_module("training")
    cases = {case.name for case in importlib.import_module("real_sizes").CASES}
    stages = (ROOT / "examples" / "toybox" / "build.py").read_text()
    for name, part in on_gpu.parts(Path("toybox"), dry=dry).items():
        for command in part.commands:
            if name == "memory":
                assert command.words[2] in cases
            elif name.startswith("speed"):
                assert command.words[0] == "benchmarks/training.py"
                training.parse_arguments(command.words[1:])
            elif name == "toybox":
                assert f'"{command.words[1]}"' in stages


def test_only_missing_wheels_are_asked_for_and_never_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = ["peft-0.21-py3-none-any", "torch-2.13-cp311-cp311-linux_x86_64", "nvidia_nccl_cu12-2-py3-none-any"]
    for name in [*wheels, "torchmetrics-1.9-py3-none-any"]:
        (tmp_path / f"{name}.whl").touch()
    commands = []
    monkeypatch.setattr(on_gpu.subprocess, "run", lambda command, check: commands.append(command))
    on_gpu.install(tmp_path)
    (command,) = commands
    assert command[-2:] == ["peft", "torchmetrics"]
    assert {"--no-index", "--no-deps", str(tmp_path)} <= set(command)
    with pytest.raises(SystemExit, match="expected wheels in"):
        on_gpu.install(tmp_path / "nothing")


@pytest.mark.slow
def test_everything_runs_on_the_cpu_with_tiny_sizes(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/on_gpu.py", "--dry", "--output_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    text = (tmp_path / "README.md").read_text()
    assert done.returncode == 0, text
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == list(on_gpu.parts(Path()))
    assert text.count("| ours | ") == 3
    assert "| concepts together |" in text
    assert "| a process each | 1 |" in text
    status = subprocess.run(["git", "status", "--porcelain", "examples/toybox"], cwd=ROOT, capture_output=True)
    assert not status.stdout  # the toybox was built in a copy
