"""`supreme-init train --concepts`: a list that is trained whole needs no model, and a list is pushed as a library."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import build_tiny_pipeline
from hub.client import shared_worker
from run_catalogue import draw_catalogue, read_list, write_list
from test_publishing import SETUP, fresh

from diffusers_supreme_init.commands import main as supreme_init
from diffusers_supreme_init.commands import pipelines

UNTRAINED = ("--max_train_steps", "0", "--validation_samples", "0")


class ModelIsLoadedError(Exception):
    """A command needs the model."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, a list and a library, in which one concept failed."""
    base = tmp_path_factory.mktemp("trained")
    build_tiny_pipeline().save_pretrained(base / "model")
    toys = draw_catalogue(base / "toys", range(4))
    (toys / "3.png").write_bytes(b"no picture")
    assert supreme_init(words_for(base)) == 1
    return base


@pytest.fixture
def base(trained: Path, tmp_path: Path) -> Path:
    """Return a copy, with the times of its files."""
    return Path(shutil.copytree(trained, tmp_path / "base"))


def words_for(base: Path, *more: str) -> list[str]:
    model, toys, library = (str(base / name) for name in ("model", "toys", "library"))
    return ["train", "--model", model, "--concepts", toys, "--output_dir", library, *UNTRAINED, *more]


@pytest.fixture
def needs_model(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., bool]:
    """Return a function that runs the command where a list is trained whole, and says whether it loads the model."""
    assert supreme_init(words_for(base)) == 1  # its model has another place than the one it was copied from
    capsys.readouterr()

    def loading(*_: Any, **__: Any) -> None:
        raise ModelIsLoadedError

    monkeypatch.setattr(pipelines.DiffusionPipeline, "from_pretrained", loading)

    def run(*more: str) -> bool:
        try:
            supreme_init(words_for(base, *more))
        except ModelIsLoadedError:
            return True
        return False

    return run


def test_nothing_to_do_loads_no_model(
    needs_model: Callable[..., bool], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not needs_model()
    said = capsys.readouterr().out
    assert "3 there already, 1 failed." in said
    assert "metadata.jsonl, line 4: <toy-3>: " in said
    assert not needs_model("--retry_failed")  # its picture still cannot be read
    assert needs_model("--overwrite")
    assert needs_model("--learning_rate", "0.5")
    assert needs_model("--seed", "1")
    assert needs_model("--dtype", "bfloat16")
    assert not needs_model("--dry_run")
    assert "0 to train; about 0 minutes" in capsys.readouterr().out
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as `accelerate launch` does
    assert needs_model()


@pytest.mark.parametrize("change", ["picture", "words", "line", "model", "folder", "index", "record", "failure"])
def test_whatever_changed_is_noticed(needs_model: Callable[..., bool], base: Path, change: str) -> None:
    toys, library, lines = base / "toys", base / "library", read_list(base / "toys")
    if change == "picture":
        shutil.copy(toys / "1.png", toys / "0.png")
    elif change == "words":
        write_list(toys, [lines[0] | {"initializer": "another toy"}, *lines[1:]])
    elif change == "line":
        write_list(toys, [*lines, lines[0] | {"placeholder_token": "<toy-4>"}])
    elif change == "model":
        os.utime(base / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    elif change == "folder":
        shutil.rmtree(library / "toy-1")
    elif change == "index":  # killed after the last concept was saved, and before the index was written
        index = json.loads((library / "training.json").read_text())
        index["folders"].remove("toy-1")
        (library / "training.json").write_text(json.dumps(index))
    elif change == "record":
        (library / "toy-1" / "training.json").unlink()
    else:  # nobody has written down that this one fails
        write_list(toys, [*lines, {"file_name": "4.png", "placeholder_token": "<toy-4>", "initializer": "a toy"}])
    assert needs_model()


def test_a_line_that_went_is_reported_without_a_model(
    needs_model: Callable[..., bool], base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(base / "toys", read_list(base / "toys")[1:])
    assert not needs_model()
    assert "1 in the library and no longer listed: <toy-0>" in capsys.readouterr().out


def test_options_are_checked_all_the_same(
    needs_model: Callable[..., bool], capsys: pytest.CaptureFixture[str]
) -> None:
    for mistake, message in (
        (["--token", "<mug>"], "expected either --concepts or pictures and a --token, got both"),
        (["--points", "4,4"], "as columns of --concepts, got options"),
        (["--num_shards", "2", "--shard_index", "2"], "shard_index: expected a number from 0 to 1"),
        (["--candidates", "a mug"], "--candidates: expected one concept to compare words for, got a list"),
        (["--negative_prompt", "blurry", "--no_report"], "a list has no report to draw for; leave --negative_prompt"),
        (["--hub_license", "mit"], "--hub_license: expected --push_to_hub with it, got none"),
        (["--initializer_column", "words"], "column 'words'"),
        (["--sample_prompts", "a photo"], "--sample_prompts: expected '{}' where the concept stands"),
    ):
        assert not needs_model(*mistake)
        assert message in capsys.readouterr().err
    for unchecked in (["--concepts_per_batch", "0"], ["--validation_prompt", "a {}"]):
        assert needs_model(*unchecked)  # where they are checked


def test_a_part_in_a_folder_of_its_own_needs_no_model_either(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = ["--num_shards", "2", "--shard_index", "0"]
    words = [str(base / "part") if word == str(base / "library") else word for word in words_for(base, *part)]
    first = supreme_init(words)
    capsys.readouterr()
    monkeypatch.setattr(pipelines.DiffusionPipeline, "from_pretrained", None)
    assert supreme_init(words) == first
    number = len(list((base / "part").glob("toy-*")))
    assert 0 < number < 4
    assert f"{number} there already" in capsys.readouterr().out


def test_nothing_to_do_imports_no_diffusers(base: Path) -> None:
    assert supreme_init(words_for(base)) == 1
    code = """
import sys
from diffusers_supreme_init.commands import main
assert main(sys.argv[1:]) == 1
heavy = {"accelerate", "diffusers", "peft"} & sys.modules.keys()
assert not heavy, heavy
"""
    ended = subprocess.run([sys.executable, "-c", code, *words_for(base)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "3 there already" in ended.stdout


def test_a_list_is_pushed_as_a_library(base: Path) -> None:
    hub = fresh(shared_worker("lfs", setup=SETUP))
    words = words_for(base, "--push_to_hub", "--hub_model_id", "user/toys")
    command = "from diffusers_supreme_init.commands import main\nresult = main({words!r})"
    hub.run(command.format(words=[*words, "--dry_run"])).check()
    assert not hub.server.has_repo("user/toys")
    assert hub.run(command.format(words=words)).check().value == 1  # one concept of the list failed
    files = hub.server.files("user/toys")
    assert sorted(json.loads(files["training.json"].data)["folders"]) == ["toy-0", "toy-1", "toy-2"]
    assert {f"toy-{number}/learned_embeds.safetensors" for number in range(3)} <= files.keys()
    assert "pushed" in (base / "library" / "summary.csv").read_text()
    commits = len(hub.server.commits("user/toys"))
    hub.run(command.format(words=words)).check()
    assert len(hub.server.commits("user/toys")) == commits
