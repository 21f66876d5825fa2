"""The catalogue: killed anywhere, divided in any way, whatever is wrong in its list: the same library comes out."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from run_catalogue import draw_catalogue, library_files, read_list, write_list
from tiny.describers import build_blip, build_sam, build_vit
from training_processes import run_forked

from diffusers_supreme_init import (
    verify_library,
)

SETTINGS: dict[str, Any] = {"max_train_steps": 2, "validation_samples": 2}
NUM_FAST = 12


@pytest.fixture(scope="module")
def describers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return folders of tiny describers."""
    folder = tmp_path_factory.mktemp("describers")
    builders = {"captioner": build_blip, "classifier": build_vit, "segmenter": build_sam}
    return {kind: str(build(folder / kind)) for kind, build in builders.items()}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a list of 12 toys; the words of every third have to be found, one of them among several."""
    folder = draw_catalogue(tmp_path_factory.mktemp("toys"), range(NUM_FAST))
    lines = read_list(folder)
    for number, line in enumerate(lines):
        line["initializer"] = {1: "class", 4: "caption", 7: "auto"}.get(number, line["initializer"])
    write_list(folder, lines)
    return folder


@pytest.fixture(scope="module")
def options(toys: Path, describers: dict[str, str]) -> list[str]:
    return ["--catalogue", str(toys), "--describers", json.dumps(describers)]


@pytest.fixture(scope="module")
def undisturbed(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed") / "library"
    ended = run_forked(folder, SETTINGS, *options)
    assert ended.returncode == 0, ended.stderr
    files = library_files(folder)
    assert len([name for name in files if name.endswith("/learned_embeds.safetensors")]) == NUM_FAST
    return files


def check_kills(kills: list[tuple[str, int]], options: list[str], folder: Path, settings: dict[str, Any]) -> None:
    for number, (place, times) in enumerate(kills):
        killed = run_forked(folder, settings, *options, "--kill", place, str(times), hashes=1 + number % 2)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    ended = run_forked(folder, settings, *options, hashes=1 + len(kills) % 2)
    assert ended.returncode == 0, ended.stderr


# killed anywhere


def test_three_kills_change_no_byte(undisturbed: dict[str, bytes], options: list[str], tmp_path: Path) -> None:
    kills = [("step", 6), ("rename", 2), ("ledger", 3)]
    check_kills(kills, options, tmp_path / "library", SETTINGS)
    assert library_files(tmp_path / "library") == undisturbed
    assert verify_library(tmp_path / "library") == []


def test_two_processes_divide_the_list_and_give_the_same_library(
    undisturbed: dict[str, bytes], options: list[str], tmp_path: Path
) -> None:
    """As `accelerate launch` starts them, on one folder."""
    ended = run_forked(tmp_path / "library", SETTINGS, *options, num_processes=2)
    assert ended.returncode == 0, ended.stderr
    assert library_files(tmp_path / "library") == undisturbed
    first, second = (json.loads(line)["trained"] for line in ended.stderr.splitlines() if line.startswith("{"))
    assert first
    assert second
    assert len({*first, *second}) == len(first) + len(second) == NUM_FAST
