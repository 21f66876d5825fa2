"""The catalogue at length: a hundred concepts killed everywhere, memory, 10,000."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HIDDEN_SIZE, build_tiny_pipeline
from hub.client import shared_worker
from run_catalogue import PLACES, draw_catalogue, library_files
from test_catalogue import check_kills
from training_families import TRAINING_FAMILIES
from training_processes import WORKER, run_forked

from diffusers_supreme_init import (
    LearnedEmbedding,
    SupremeInitConfig,
    folder_name,
    merge_libraries,
    train_catalogue,
    verify_library,
    write_embedding,
)
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.catalogue import dividing
from diffusers_supreme_init.sharing.library_folder import refresh_library

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {"max_train_steps": 10, "validation_samples": 2}
NUM_CONCEPTS = 100


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--catalogue", str(draw_catalogue(tmp_path_factory.mktemp("toys"), range(NUM_CONCEPTS)))]


@pytest.fixture(scope="module")
def undisturbed(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed") / "library"
    ended = run_forked(folder, SETTINGS, *options)
    assert ended.returncode == 0, ended.stderr
    return library_files(folder)


def test_kills_at_every_place_change_no_byte(
    undisturbed: dict[str, bytes], options: list[str], tmp_path: Path
) -> None:
    kills = [(place, number) for number in (1, 3) for place in PLACES if place != "words"] + [
        ("words", 2),
        ("step", 77),
    ]
    check_kills(kills, options, tmp_path / "library", SETTINGS)
    assert library_files(tmp_path / "library") == undisturbed
    assert verify_library(tmp_path / "library") == []


def test_kills_at_random_moments_change_no_byte(
    undisturbed: dict[str, bytes], options: list[str], tmp_path: Path
) -> None:
    library, rng, num_kills = tmp_path / "library", random.Random(0), 0
    command = [sys.executable, WORKER, str(library), json.dumps(SETTINGS), *options]
    while num_kills < 10:
        before = size_of(library)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and size_of(library) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.5))  # some concepts after the first that this process has saved
        process.kill()
        process.wait()
        num_kills += 1
    assert run_forked(library, SETTINGS, *options).returncode == 0
    assert library_files(library) == undisturbed


def size_of(library: Path) -> int:
    return sum(path.stat().st_size for path in library.glob("ledger-*"))


@pytest.mark.parametrize("count", [2, 4])
def test_shards_merge_into_the_same_library(
    undisturbed: dict[str, bytes], options: list[str], tmp_path: Path, count: int
) -> None:
    parts = [tmp_path / f"part-{index}" for index in range(count)]
    for index, part in enumerate(parts):
        ended = run_forked(part, SETTINGS, *options, "--shard", str(index), str(count))
        assert ended.returncode == 0, ended.stderr
    merge_libraries(parts, tmp_path / "library")
    assert library_files(tmp_path / "library") == undisturbed


@pytest.mark.filterwarnings("ignore:.*it when it cleans prompts")
@pytest.mark.parametrize("family", TRAINING_FAMILIES, ids=lambda family: family.name)
def test_neighbours_change_no_byte_in_any_family(family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys = draw_catalogue(tmp_path / "toys", range(3))
    resolution = max(16, backbone_for(family.build()).resolution_multiple)
    config = SupremeInitConfig(max_train_steps=2, validation_samples=2, resolution=resolution)
    for size in (32, 1):
        monkeypatch.setattr(dividing, "_CHUNK_SIZE", size)
        result = train_catalogue(family.build(), toys, tmp_path / str(size), config=config)
        assert len(result.trained) == 3, result.failed
    assert library_files(tmp_path / "32") == library_files(tmp_path / "1")


# size


MEASURE = """
import json, resource, sys, time
import torch
torch.set_num_threads(1)
from conftest import build_tiny_pipeline
from pathlib import Path
from diffusers_supreme_init import DescriberConfig, Describers, SupremeInitConfig, train_catalogue
toys, library, describers = sys.argv[1:]
config = SupremeInitConfig(max_train_steps=0, validation_samples=0)
finders = Describers(DescriberConfig(**json.loads(describers), max_caption_tokens=5, score_samples=2))
start = time.process_time()
result = train_catalogue(build_tiny_pipeline(), toys, library, config=config, describers=finders)
seconds = time.process_time() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(result.trained), len(result.done), seconds, peak]))
"""


def test_a_thousand_concepts_need_no_more_memory_than_fifty(tmp_path: Path) -> None:
    from tiny.describers import build_blip

    describers = json.dumps({"captioner": str(build_blip(tmp_path / "captioner"))})
    measured = {}
    for number in (50, 1000):
        toys = draw_catalogue(tmp_path / f"toys-{number}", range(number), initializer="caption")
        for run in ("first", "second"):
            command = [sys.executable, "-c", MEASURE, str(toys), str(tmp_path / str(number)), describers]
            ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1200)
            assert ended.returncode == 0, ended.stderr
            measured[number, run] = json.loads(ended.stdout.splitlines()[-1])
    print(measured)
    assert measured[1000, "first"][0] == measured[1000, "second"][1] == 1000
    assert measured[1000, "first"][3] < 1.1 * measured[50, "first"][3]
    assert measured[1000, "second"][2] < 5


LOAD = """
import time
from conftest import build_tiny_pipeline
pipe = build_tiny_pipeline()
start = time.process_time()
loaded = pipe.load_multitoken_inversion("user/toys")
result = [len(loaded), time.process_time() - start]
"""


def test_ten_thousand_concepts_load_from_a_folder_and_from_the_hub(tmp_path: Path) -> None:
    for number in range(10_000):
        concept = LearnedEmbedding(placeholder_token=f"<toy-{number}>", rows=torch.randn(3, HIDDEN_SIZE))
        write_embedding(tmp_path / folder_name(f"<toy-{number}>") / "learned_embeds.safetensors", concept)
    packs = {str(entry.pack) for entry in refresh_library(tmp_path).values()}
    assert len(packs) == 16
    start = time.process_time()
    assert len(build_tiny_pipeline().load_multitoken_inversion(tmp_path)) == 10_000
    from_folder = time.process_time() - start
    hub = shared_worker("lfs")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    hub.server.create_repo("user/toys", {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in files})
    before = len(hub.server.requests)
    number, from_hub = hub.run(LOAD, timeout=300).check().value
    asked = [one.path.rpartition("/")[2] for one in hub.server.requests[before:] if one.method == "HEAD"]
    assert sorted(asked) == sorted(["training.json", *packs])
    print({"folders": from_folder, "Hub": from_hub})
    assert number == 10_000
    assert max(from_folder, from_hub) < 15
