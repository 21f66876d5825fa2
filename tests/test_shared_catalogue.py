"""The folder of a catalogue that several processes share, that a killed one left, or whose files were damaged."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import build_tiny_pipeline
from filelock import FileLock
from run_catalogue import draw_catalogue, read_list, write_list
from training_processes import run_forked

from diffusers_supreme_init import (
    OutputError,
    SupremeInitConfig,
    merge_libraries,
    remove_concepts,
    train_catalogue,
    verify_library,
)
from diffusers_supreme_init.catalogue.finishing import finish
from diffusers_supreme_init.catalogue.folders import clear_leftovers, write_folder
from diffusers_supreme_init.catalogue.ledger import alone, read_ledgers
from diffusers_supreme_init.catalogue.shards import Shard
from diffusers_supreme_init.formats.pack import members_of_pack
from diffusers_supreme_init.sharing import library_folder


def train(toys: Path, library: Path, **settings: Any) -> Any:
    """Make a library of untrained concepts; steps are asked for as settings."""
    config = SupremeInitConfig(**{"max_train_steps": 0, "validation_samples": 0, **settings})
    return train_catalogue(build_tiny_pipeline(), toys, library, config=config)


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    return draw_catalogue(tmp_path / "toys", range(2))


# locks


def test_a_refused_part_is_free_again(tmp_path: Path) -> None:
    """A process that kept the lock of the part it was refused would wait for itself when it tries again."""
    with FileLock(tmp_path / ".ledger-0-of-1.lock"):
        with (
            pytest.raises(OutputError, match="where part 0-of-1 is being trained") as refused,
            alone(tmp_path, Shard(1, 2)),
        ):
            pass
        assert refused.value.__traceback__ is not None  # which holds the frame, as a notebook does
        FileLock(tmp_path / ".ledger-1-of-2.lock", timeout=0).acquire()


# ledgers of several saves


def redraw(toys: Path, number: int) -> None:
    """Give a toy the picture and the words of one that is not listed."""
    lines, other = read_list(toys), draw_catalogue(toys.parent / "other", range(50, 51))
    (toys / f"{number}.png").write_bytes((other / "50.png").read_bytes())
    lines[number]["initializer"] = "another thing"
    write_list(toys, lines)


def saves_of(library: Path, token: str) -> list[Any]:
    return [line for line in read_ledgers(library) if (line["state"], line["token"]) == ("saved", token)]


def test_a_merged_library_is_compared_with_the_saves_that_it_took(toys: Path, tmp_path: Path) -> None:
    """Those of the last source, though the first was trained after it."""
    train(toys, tmp_path / "b")
    time.sleep(1.1)  # the ledgers tell seconds
    redraw(toys, 1)
    train(toys, tmp_path / "a")
    merged = tmp_path / "merged"
    merge_libraries([tmp_path / "a", tmp_path / "b"], merged, overwrite=True)
    (of_b,), (*_, newest) = saves_of(tmp_path / "b", "<toy-1>"), saves_of(merged, "<toy-1>")
    assert newest != of_b
    assert verify_library(merged) == []
    page = (merged / "index.html").read_text()
    assert of_b["thumbnail"] in page
    (merged / "toy-1" / "training.json").write_text("{")
    assert "toy-1/training.json: its bytes are not those that were saved" in verify_library(merged)


# killed between the two renames


class KilledError(BaseException):
    """Ends a call without any handler for errors, as a kill does."""


def test_a_kill_between_the_renames_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = tmp_path / "mug", os.rename
    old, new = ({"training.json": json.dumps({"placeholder_token": "<mug>", "steps": n}).encode()} for n in (1, 2))
    write_folder(folder, old)

    def killed(source: Path, target: Path) -> None:
        if target == folder:
            raise KilledError
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed)
        with pytest.raises(KilledError):
            write_folder(folder, new)
    assert not folder.exists()
    clear_leftovers(tmp_path, ["cat"])
    assert len([*tmp_path.iterdir()]) == 2  # those of another process's concept stay
    clear_leftovers(tmp_path, ["mug"])
    assert [*tmp_path.iterdir()] == [folder]
    assert (folder / "training.json").read_bytes() == new["training.json"]


def test_what_a_killed_process_removed_or_replaced_does_not_come_back(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    train(toys, library)

    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KilledError):
            remove_concepts(library, ["<toy-1>"])
    assert len([*library.glob(".old-toy-1*")]) == 1
    remove_concepts(library, ["<toy-1>"])
    assert not [*library.glob("*toy-1*"), *library.glob(".*toy-1*")]
    assert indexed(library) == {"toy-0"}


@pytest.mark.long
def test_a_concept_whose_replacement_was_killed_is_there_though_it_cannot_be_trained_again(
    toys: Path, tmp_path: Path
) -> None:
    library, settings = tmp_path / "library", {"max_train_steps": 1, "validation_samples": 0}
    assert run_forked(library, settings, "--catalogue", str(toys)).returncode == 0
    before = (library / "toy-1" / "training.json").read_bytes()
    redraw(toys, 1)
    killed = run_forked(library, settings, "--catalogue", str(toys), "--kill", "rename", "2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (library / "toy-1").exists()
    (toys / "1.png").write_bytes(b"no picture")
    ended = run_forked(library, settings, "--catalogue", str(toys))
    assert ended.returncode == 0, ended.stderr
    assert (library / "toy-1" / "training.json").read_bytes() != before
    assert indexed(library) == {"toy-0", "toy-1"}
    assert verify_library(library) == []


# an index of what can be read


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_one_damaged_concept_keeps_no_other_from_the_index(
    toys: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    library = tmp_path / "library"
    train(toys, library)
    file = library / "toy-1" / "learned_embeds.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    more = draw_catalogue(toys, range(4))
    assert [*train(more, library).trained] == ["<toy-2>", "<toy-3>"]
    assert indexed(library) == {"toy-0", "toy-2", "toy-3"}
    assert verify_library(library) == [
        "toy-1: a concept that the index does not list",
        "toy-1/learned_embeds.safetensors: its bytes are not those that were saved",
    ]
    (said,) = {one.getMessage() for one in caplog.records if "is not in the index" in one.getMessage()}
    assert "toy-1" in said
    assert "delete that folder, and the command that made it makes it anew" in said
    shutil.rmtree(library / "toy-1")
    assert train(more, library).trained == ["<toy-1>"]
    assert indexed(library) == {"toy-0", "toy-1", "toy-2", "toy-3"}
    assert verify_library(library) == []


@pytest.mark.parametrize("place", ["saved_digests", "read_safetensors"])
def test_a_folder_that_another_process_swaps_meanwhile_is_left_to_it(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It goes between its two renames when this process looks at the record, or when it packs the rows."""
    library = tmp_path / "library"
    train(toys, library)
    (library / "training.json").unlink()
    read = getattr(library_folder, place)

    def while_it_is_away(path: Path) -> Any:
        if path.is_relative_to(library / "toy-1") and path.exists():
            os.rename(library / "toy-1", library / ".old-toy-1")
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(library_folder, place, while_it_is_away)
        assert finish(library).keys() == {"toy-0"}
    assert indexed(library) == {"toy-0"}
    os.rename(library / ".old-toy-1", library / "toy-1")
    finish(library)
    assert verify_library(library) == []


def indexed(library: Path) -> set[str]:
    """Return the folders that the index lists, and the pack holds."""
    index = json.loads((library / "training.json").read_bytes())
    packed = members_of_pack(library / "pack-0-of-1.safetensors")
    assert {name.partition("/")[0] for name in packed} == set(index["folders"]) == set(index["concepts"])
    return set(index["folders"])
