"""The catalogue: killed anywhere, divided in any way, whatever is wrong in its list: the same library comes out."""

import errno
import itertools
import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_pipeline
from filelock import FileLock
from hub.client import shared_worker
from hub.faults import Fault
from PIL import Image
from run_catalogue import draw_catalogue, library_files, read_list, write_list
from test_publishing import SETUP, fresh
from tiny.describers import build_blip, build_sam, build_vit
from training_processes import run_forked

from diffusers_supreme_init import (
    Concept,
    ConfigError,
    DescriberConfig,
    DescriberError,
    Describers,
    EmbeddingFileError,
    OutputError,
    SupremeInitConfig,
    merge_libraries,
    read_embedding,
    remove_concepts,
    train_catalogue,
    verify_library,
)
from diffusers_supreme_init.catalogue import chunk, dividing
from diffusers_supreme_init.catalogue.ledger import read_ledgers
from diffusers_supreme_init.describers import Captioner

SETTINGS: dict[str, Any] = {"max_train_steps": 1, "validation_samples": 2}
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


@pytest.mark.long
def test_three_kills_change_no_byte(undisturbed: dict[str, bytes], options: list[str], tmp_path: Path) -> None:
    kills = [("step", 4), ("rename", 2), ("ledger", 3)]
    check_kills(kills, options, tmp_path / "library", SETTINGS)
    assert library_files(tmp_path / "library") == undisturbed
    assert verify_library(tmp_path / "library") == []


@pytest.mark.long
def test_two_processes_divide_the_list_and_give_the_same_library(
    undisturbed: dict[str, bytes], options: list[str], tmp_path: Path
) -> None:
    """As `accelerate launch` starts them, on one folder."""
    ended = run_forked(tmp_path / "library", SETTINGS, *options, num_processes=2)
    assert ended.returncode == 0, ended.stderr
    assert library_files(tmp_path / "library") == undisturbed
    first, second = (json.loads(said) for said in re.findall(r'"trained": (\[.*?\])', ended.stderr))
    assert first
    assert second
    assert len({*first, *second}) == len(first) + len(second) == NUM_FAST


def test_shards_of_several_folders_merge_into_the_same_library(
    undisturbed: dict[str, bytes], options: list[str], tmp_path: Path
) -> None:
    parts = [tmp_path / f"part-{index}" for index in range(2)]
    for index, part in enumerate(parts):
        ended = run_forked(part, SETTINGS, *options, "--shard", str(index), "2")
        assert ended.returncode == 0, ended.stderr
    assert len(merge_libraries(parts, tmp_path / "library")) == NUM_FAST
    assert library_files(tmp_path / "library") == undisturbed
    assert merge_libraries(parts, tmp_path / "library") == []


# whatever is wrong in the list


UNTRAINED = SupremeInitConfig(max_train_steps=0, validation_samples=0)
"""The words as rows: quick."""


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return draw_catalogue(tmp_path / "toys", range(4))


def train(pipe: Any, folder: Path, library: Path, **options: Any) -> Any:
    return train_catalogue(pipe, folder, library, **{"config": UNTRAINED, **options})


def test_what_is_wrong_stops_nothing_else(pipe: Any, tmp_path: Path, unchanged: Any) -> None:
    """A damaged, an unreadable and an empty picture and a name that is there already, among 100."""
    toys, library = draw_catalogue(tmp_path / "toys", range(100)), tmp_path / "library"
    unchanged(pipe)
    whole = (toys / "10.png").read_bytes()
    (toys / "10.png").write_bytes(whole[: len(whole) // 2])
    (toys / "20.png").write_text("no picture")
    (toys / "30.png").write_bytes(b"")
    lines = read_list(toys)
    lines[40]["placeholder_token"] = "<toy-39>"
    lines[40]["initializer"] = "another toy"
    write_list(toys, lines)
    result = train(pipe, toys, library)
    assert len(result.trained) == 96
    told = sorted(map(str, result.failed))
    assert [one.split(":")[0] for one in told] == [f"metadata.jsonl, line {number}" for number in (11, 21, 31, 41)]
    assert "line 11: <toy-10>: " in told[0]
    assert "damaged" in told[0]
    assert "<toy-39>: expected one initializer for all its pictures, got different ones" in told[3]
    assert verify_library(library) == []
    page = (library / "index.html").read_text()
    assert page.index("damaged") < page.index("&lt;toy-0&gt;")

    again = train(pipe, toys, library)
    assert (again.trained, len(again.done), len(again.failed) + len(again.failed_before)) == ([], 96, 4)
    assert [one.token for one in again.failed_before] == ["<toy-10>"]  # the only one that cost anything
    # A photo changed, one mended, five added: seven.
    (toys / "10.png").write_bytes(whole)
    shutil.copy(toys / "3.png", toys / "5.png")
    draw_catalogue(tmp_path / "more", range(100, 105))
    for seed in range(100, 105):
        shutil.copy(tmp_path / "more" / f"{seed}.png", toys)
    with (toys / "metadata.jsonl").open("a") as file:
        file.write((tmp_path / "more" / "metadata.jsonl").read_text())
    third = train(pipe, toys, library)
    assert set(third.trained) == {"<toy-5>", "<toy-10>", *(f"<toy-{seed}>" for seed in range(100, 105))}
    assert third.changed == ["<toy-5>"]
    assert verify_library(library) == []


def test_a_concept_is_what_it_is_whatever_is_beside_it(few: Path, tmp_path: Path, monkeypatch: Any) -> None:
    config, libraries = SupremeInitConfig(**SETTINGS), []
    for size in (32, 1):
        monkeypatch.setattr(dividing, "_CHUNK_SIZE", size)
        train(build_tiny_pipeline(), few, tmp_path / str(size), config=config)
        libraries.append(library_files(tmp_path / str(size)))
    assert libraries[0] == libraries[1]
    train(build_tiny_pipeline(), few, tmp_path / "together", config=config, concepts_per_batch=3)
    for number in range(4):
        file = f"toy-{number}/learned_embeds.safetensors"
        together, apart = (read_embedding(tmp_path / name / file).rows for name in ("together", "1"))
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    write_list(few, read_list(few)[2:3])
    train(build_tiny_pipeline(), few, tmp_path / "alone", config=config)
    for name in ("learned_embeds.safetensors", "training.json", "README.md"):
        assert (tmp_path / "alone" / "toy-2" / name).read_bytes() == libraries[0][f"toy-2/{name}"]


def test_words_are_kept_as_they_are_found(
    pipe: Any, toys: Path, describers: dict[str, str], undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: Any
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    config = DescriberConfig(**describers, max_caption_tokens=5, score_samples=2)
    patched = pytest.MonkeyPatch()
    patched.setattr(chunk, "_learned", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(pipe, toys, tmp_path / "library", config=SupremeInitConfig(**SETTINGS), describers=config)
    patched.undo()
    assert {line["state"] for line in read_ledgers(tmp_path / "library")} == {"words"}
    monkeypatch.setattr(Describers, "captioner", None)
    monkeypatch.setattr(Describers, "classifier", None)
    train(pipe, toys, tmp_path / "library", config=SupremeInitConfig(**SETTINGS), describers=config)
    assert library_files(tmp_path / "library") == undisturbed


def test_words_of_several_concepts_are_found_together(
    pipe: Any, describers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = draw_catalogue(tmp_path / "toys", range(6))
    methods = ["caption", "auto", "class", "caption", "auto", "caption"]
    write_list(toys, [line | {"initializer": how} for line, how in zip(read_list(toys), methods, strict=True)])
    config = DescriberConfig(**describers, max_caption_tokens=5, score_samples=2)
    asked: list[int] = []
    original = Captioner.describe_each

    def counting(self: Any, images: Any, **options: Any) -> Any:
        asked.append(len(images))
        if len(images) > 1 and is_broken:
            raise DescriberError("it fails on one of them")
        return original(self, images, **options)

    monkeypatch.setattr(Captioner, "describe_each", counting)
    found = []
    for per_batch, is_broken, numbers in (
        (1, False, [1] * 5),
        (6, False, [3, 2]),
        (4, False, [2, 1, 1, 1]),
        (6, True, [3, *[1] * 5]),  # then each asks for itself
    ):
        asked.clear()
        folder = tmp_path / f"{per_batch}{is_broken}"
        made = train(pipe, toys, folder, config=UNTRAINED, describers=config, concepts_per_batch=per_batch)
        assert len(made.trained) == 6
        assert asked == numbers
        found.append([read_embedding(path).description for path in sorted(folder.glob("*/*.safetensors"))])
    assert found[1:] == found[:1] * 3


def test_fewer_go_together_when_memory_is_full(
    pipe: Any, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A second step of more than two concepts, and a picture of more than one, do not fit."""
    step, draw = chunk.TrainingLoop.train_step, type(pipe).__call__
    together: list[int] = []

    def training(loop: Any, number: int) -> Any:
        together.append(len(loop.progress))
        if number == 1 and len(loop.progress) > 2:
            raise torch.OutOfMemoryError
        return step(loop, number)

    def drawing(self: Any, prompt: Any, **options: Any) -> Any:
        if isinstance(prompt, list) and len(prompt) > 1:
            raise torch.OutOfMemoryError
        return draw(self, prompt, **options)

    config, prompts = SupremeInitConfig(**SETTINGS | {"max_train_steps": 2}), ["a photo of a {}"]
    train(pipe, few, tmp_path / "one", config=config, sample_prompts=prompts)
    monkeypatch.setattr(chunk.TrainingLoop, "train_step", training)
    monkeypatch.setattr(type(pipe), "__call__", drawing)
    made = train(pipe, few, tmp_path / "four", config=config, sample_prompts=prompts, concepts_per_batch=4)
    assert len(made.trained) == 4
    assert together == [4, 4, 2, 2, 1, 1, 1, 1]  # two of them, then drawing them does not fit either
    assert [line for line in caplog.messages if "memory is full" in line] == [
        "memory is full; going on with concepts_per_batch=2",
        "memory is full; going on with concepts_per_batch=1",
    ]
    for number in range(4):
        file = f"toy-{number}/learned_embeds.safetensors"
        rows = [read_embedding(tmp_path / name / file).rows for name in ("one", "four")]
        torch.testing.assert_close(*rows, rtol=0, atol=1e-5)
    monkeypatch.setattr(type(pipe), "__call__", draw)


def test_what_failed_is_tried_again_only_when_asked(pipe: Any, few: Path, tmp_path: Path, monkeypatch: Any) -> None:
    config = SupremeInitConfig(max_train_steps=1, validation_samples=0)
    before = chunk.TrainingLoop.train_step

    def diverging(loop: Any, step: int) -> Any:
        if "<toy-1>" in loop.progress:
            loop.progress["<toy-1>"].latents.mean.fill_(torch.nan)
        return before(loop, step)

    with monkeypatch.context() as patched:
        patched.setattr(chunk.TrainingLoop, "train_step", diverging)
        first = train(pipe, few, tmp_path / "library", config=config)
    (failure,) = first.failed
    assert re.match(r"metadata.jsonl, line 2: <toy-1>: its loss became NaN or infinite", str(failure))
    assert not (tmp_path / "library" / "toy-1").exists()
    second = train(pipe, few, tmp_path / "library", config=config)
    assert (second.failed, second.failed_before, second.trained) == ([], [failure], [])
    planned = train(pipe, few, tmp_path / "library", config=config, retry_failed=True, dry_run=True)
    assert (planned.planned, planned.trained) == (["<toy-1>"], [])
    assert planned.seconds_each
    third = train(pipe, few, tmp_path / "library", config=config, retry_failed=True)
    assert (third.failed, third.failed_before, third.trained) == ([], [], ["<toy-1>"])
    assert "failed" not in (tmp_path / "library" / "summary.csv").read_text()


# results that are there


def test_results_of_other_settings_are_not_touched(pipe: Any, few: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    train(pipe, few, library)
    before = library_files(library)
    slower = SupremeInitConfig(max_train_steps=0, validation_samples=0, learning_rate=0.01)
    with pytest.raises(
        OutputError, match=r"holds 4 .* \(learning_rate: 0.002 there, 0.01 here\), the first is <toy-0>"
    ):
        train(pipe, few, library, config=slower)
    assert library_files(library) == before
    assert len(train(pipe, few, library, config=slower, overwrite=True).trained) == 4
    assert len(train(pipe, few, library, config=slower, overwrite=True).done) == 4
    write_list(few, read_list(few)[:3])
    assert train(pipe, few, library, config=slower).removed == ["<toy-3>"]
    (library / "toy-0" / "notes.txt").write_text("mine")
    shutil.copy(few / "1.png", few / "0.png")
    with pytest.raises(OutputError, match=r"it holds notes.txt, which no save wrote"):
        train(pipe, few, library, config=slower)
    assert (library / "toy-0" / "notes.txt").read_text() == "mine"


def test_a_full_disk_loses_nothing(pipe: Any, few: Path, tmp_path: Path, monkeypatch: Any) -> None:
    library, original, calls = tmp_path / "library", os.fsync, itertools.count()

    def full(descriptor: int) -> None:
        if next(calls) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        train(pipe, few, library)
    monkeypatch.undo()
    assert not list(library.glob(".*.part"))
    assert len(train(pipe, few, library).trained) in (2, 3)
    assert verify_library(library) == []


def test_a_cut_ledger_is_mended_and_a_damaged_one_named(
    pipe: Any, few: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = tmp_path / "library"
    train(pipe, few, library)
    before, ledger = library_files(library), library / "ledger-0-of-1.jsonl"
    os.truncate(ledger, ledger.stat().st_size - 9)
    train(pipe, few, library)
    assert "the last line was cut when its process ended" in caplog.text
    assert library_files(library).keys() == before.keys()
    ledger.write_bytes(b"{\n" + ledger.read_bytes())
    with pytest.raises(OutputError, match=r"ledger-0-of-1.jsonl', line 1: expected a line of JSON, got a damaged one"):
        train(pipe, few, library)


def test_two_runs_share_a_folder(few: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second waits for the first, and finds everything done; who divides the list otherwise is refused."""
    library, pipe = tmp_path / "library", build_tiny_pipeline()
    train(pipe, few, library)
    lock = FileLock(library / ".ledger-0-of-1.lock")
    with (
        lock,
        pytest.raises(OutputError, match=r"where part 0-of-1 is being trained, and this is 1-of-2"),
    ):
        train(pipe, few, library, num_shards=2, shard_index=1)
    ended: list[Any] = []
    with lock:
        second = threading.Thread(target=lambda: ended.append(train(build_tiny_pipeline(), few, library)))
        second.start()
        while "waiting until it ends" not in caplog.text:
            time.sleep(0.01)
        assert not ended
    second.join()
    assert len(ended[0].done) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_shards": 0}, "num_shards: expected a number from 1, got 0"),
        ({"num_shards": 4, "shard_index": 4}, "shard_index: expected a number from 0 to 3 with num_shards=4, got 4"),
        ({"shard_index": -1}, "shard_index: expected a number from 0 to 0 with num_shards=1, got -1"),
        ({"concepts_per_batch": 0}, "concepts_per_batch: expected a number from 1, got 0"),
        ({"config": SupremeInitConfig(checkpointing_steps=5)}, "checkpointing_steps: a catalogue has none"),
        ({"sample_prompts": ["a photo"]}, "sample_prompts: expected '{}' where <toy-0> stands"),
        ({"config": 5}, "config: expected a SupremeInitConfig, got 5"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_make_no_sense(pipe: Any, few: Path, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(pipe, few, tmp_path / "library", **options)
    assert not (tmp_path / "library").exists()


def test_a_dry_run_writes_nothing(pipe: Any, few: Path, tmp_path: Path) -> None:
    result = train(pipe, few, tmp_path / "library", dry_run=True)
    assert (len(result.planned), result.seconds_each) == (4, None)
    assert not (tmp_path / "library").exists()


def test_a_catalogue_in_python(pipe: Any, few: Path, tmp_path: Path) -> None:
    concepts = [
        Concept(images=few / f"{n}.png", placeholder_token=f"<thing-{n}>", initializer="a toy") for n in range(3)
    ]
    result = train_catalogue(
        pipe,
        concepts,
        tmp_path / "library",
        config=UNTRAINED,
        sample_prompts=["a photo of a {}"],
        concepts_per_batch=2,
    )
    assert result.trained == ["<thing-0>", "<thing-1>", "<thing-2>"]
    assert "![](thing-1/images/0.png)" in (tmp_path / "library" / "README.md").read_text()
    assert pipe.load_multitoken_inversion(tmp_path / "library", only=["<thing-1>"])[0].placeholder_token == "<thing-1>"


def test_samples_are_drawn_together(pipe: Any, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    original = type(pipe).__call__

    def counting(self: Any, prompt: Any, **options: Any) -> Any:
        drawn.append(1 if isinstance(prompt, str) else len(prompt))
        return original(self, prompt, **options)

    monkeypatch.setattr(type(pipe), "__call__", counting)
    prompts = ["a photo of a {}", "a {} on a table"]
    for size, calls in ((1, [1] * 8), (3, [3, 3, 2])):
        drawn.clear()
        folder = tmp_path / str(size)
        assert len(train(pipe, few, folder, sample_prompts=prompts, concepts_per_batch=size).trained) == 4
        assert drawn == calls
    for number, index in itertools.product(range(4), range(2)):
        name = f"toy-{number}/images/{index}.png"
        alone, together = (np.asarray(Image.open(tmp_path / size / name), dtype=int) for size in ("1", "3"))
        assert abs(alone - together).max() <= 2


# libraries


def test_a_library_is_verified_and_cut(pipe: Any, few: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    train(pipe, few, library)
    file = library / "toy-1" / "learned_embeds.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    shutil.move(library / "toy-2", tmp_path / "elsewhere")
    shutil.copytree(library / "toy-3", library / "stranger")
    problems = verify_library(library)
    assert "toy-1/learned_embeds.safetensors: its bytes are not those that were saved" in problems
    assert "toy-2: listed in the index, but there is no such folder" in problems
    assert "stranger: a concept that the index does not list" in problems
    file.write_bytes(data)
    shutil.rmtree(library / "stranger")
    shutil.move(tmp_path / "elsewhere", library / "toy-2")
    assert verify_library(library) == []
    remove_concepts(library, ["<toy-1>"])
    assert verify_library(library) == []
    assert "toy-1" not in (library / "README.md").read_text()
    with pytest.raises(EmbeddingFileError, match="only: expected some of <toy-0>, <toy-2>, <toy-3> in"):
        remove_concepts(library, ["<toy-1>"])
    with pytest.raises(EmbeddingFileError, match="expected a library, got .*, which has no index"):
        verify_library(few)


def test_merging_refuses_two_of_one_name(pipe: Any, few: Path, tmp_path: Path) -> None:
    train(pipe, few, tmp_path / "a")
    lines = read_list(few)
    lines[0]["initializer"] = "another thing"
    write_list(few, lines)
    train(pipe, few, tmp_path / "b")
    with pytest.raises(OutputError, match=r"are both <toy-0>, with other rows; pass overwrite=True to take the last"):
        merge_libraries([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert not [path for path in (tmp_path / "both").iterdir() if path.is_dir()]
    merge_libraries([tmp_path / "a", tmp_path / "b"], tmp_path / "both", overwrite=True)
    assert (tmp_path / "both" / "toy-0" / "training.json").read_bytes() == (
        tmp_path / "b" / "toy-0" / "training.json"
    ).read_bytes()
    with pytest.raises(EmbeddingFileError, match="which holds no concept"):
        merge_libraries([few], tmp_path / "both")


# the Hub


def make_library(folder: Path, toys: Path, seeds: range) -> Path:
    train(build_tiny_pipeline(), draw_catalogue(toys, seeds), folder)
    return folder


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return libraries of 40 concepts, of 5 others, and of 45: the 40 and 5 more."""
    base = tmp_path_factory.mktemp("libraries")
    made = {"ours": make_library(base / "ours", base / "1", range(40))}
    made["theirs"] = make_library(base / "theirs", base / "2", range(100, 105))
    shutil.copytree(made["ours"], base / "more")
    made["more"] = make_library(base / "more", base / "1", range(45))
    return made


@pytest.mark.parametrize("per_commit", [300, 16])
def test_what_several_people_push_is_one_library(libraries: dict[str, Path], tmp_path: Path, per_commit: int) -> None:
    hub = fresh(shared_worker("lfs", setup=SETUP))
    hub.run(f"publishing.CONCEPTS_PER_COMMIT = {per_commit}").check()
    for name, faults in (
        ("ours", []),
        ("theirs", [Fault("POST", r".*/commit/.*", 503)]),
        ("more", [Fault("POST", r".*/commit/.*", "lost_answer")]),
    ):
        folder = shutil.copytree(libraries[name], tmp_path / name)
        for fault in faults:
            hub.server.add_fault(fault)
        hub.run(f"result = push({str(folder)!r}, 'user/toys')").check()
        hub.server.clear_faults()
    num_commits = {300: 3, 16: 5}[per_commit]
    assert len([one for one in hub.server.commits("user/toys") if one.title.startswith("Add")]) == num_commits
    files = hub.server.files("user/toys")
    index = json.loads(files["training.json"].data)
    assert len(index["concepts"]) == 50
    assert len([path for path in files if path.endswith("/learned_embeds.safetensors")]) == 50
    assert {entry["pack"] for entry in index["concepts"].values()} == {"pack-0-of-1.safetensors"}
    before = len(hub.server.commits("user/toys"))
    again = hub.run(f"result = push({str(tmp_path / 'more')!r}, 'user/toys')").check()
    assert again.value[1] is False
    assert len(hub.server.commits("user/toys")) == before
    hub.run("publishing.CONCEPTS_PER_COMMIT = 300").check()


def test_a_library_loads_in_one_request_for_the_index_and_one_a_pack(
    libraries: dict[str, Path], tmp_path: Path
) -> None:
    hub = fresh(shared_worker("lfs", setup=SETUP))
    folder = shutil.copytree(libraries["ours"], tmp_path / "ours")
    hub.run(f"result = push({str(folder)!r}, 'user/toys')").check()
    loads = """
from diffusers_supreme_init.loading.reading import read_sources
from diffusers_supreme_init.loading.options import SourceOptions
found = read_sources(["user/toys"], {only}, SourceOptions(cache_dir={cache!r}), has_token=False)
result = [[one[0].placeholder_token, one[0].rows.sum().item()] for _, one in found]
"""
    before = len(hub.server.requests)
    everything = hub.run(loads.format(only=None, cache=str(tmp_path / "cache"))).check().value
    asked = [one.path.rpartition("/")[2] for one in hub.server.requests[before:] if one.method == "HEAD"]
    assert [token for token, _ in everything] == sorted((f"<toy-{n}>" for n in range(40)), key=lambda one: one[1:-1])
    assert asked == ["training.json", "pack-0-of-1.safetensors"]
    some = hub.run(loads.format(only=["<toy-3>"], cache=str(tmp_path / "other"))).check().value
    assert some == [one for one in everything if one[0] == "<toy-3>"]


def test_a_list_without_a_line_that_can_be_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "placeholder_token": "<a>"}\n' * 3)
    with pytest.raises(ConfigError, match="line 1: expected a text in column 'initializer'.*no other line.*3 in all"):
        train_catalogue(build_tiny_pipeline(), tmp_path / "metadata.jsonl", tmp_path / "library")
    assert not (tmp_path / "library").exists()
