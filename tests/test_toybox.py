"""The toybox: its world is deterministic, its concepts are held out, its models are what `quality.json` says."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TOYBOX
from PIL import Image
from transformers import AutoImageProcessor, ViTForImageClassification

sys.path.insert(0, str(TOYBOX))  # the toybox is a folder of scripts

import check
import world
from captions import training_caption
from concepts import HELD_OUT, write_concepts
from dataset import sample_toys


@pytest.fixture(scope="module")
def metadata() -> list[dict[str, str]]:
    return [json.loads(line) for line in (TOYBOX / "concepts" / "metadata.jsonl").read_text().splitlines()]


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_drawing_is_deterministic() -> None:
    one, same, other = (world.random_toy(random.Random(seed)) for seed in (3, 3, 4))
    assert one == same != other
    assert world.render(one).tobytes() == world.render(same).tobytes() != world.render(other).tobytes()


@pytest.mark.parametrize("category", world.CATEGORIES)
def test_every_toy_is_drawn_inside_its_mask(category: str) -> None:
    toy = world.random_toy(random.Random(0), category)
    mask = np.asarray(world.render_mask(toy))
    picture = np.asarray(world.render(toy), dtype=int)
    assert 0.08 < (mask > 127).mean() < 0.75
    background = np.array(world.BACKGROUNDS[toy.background])
    assert np.abs(picture[mask == 0] - background).max() <= 1
    assert np.abs(picture[mask > 250] - background).max() > 50


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"color": False, "pattern": False}, "an umbrella"),
        ({"pattern": False}, "an orange umbrella"),
        ({}, "an orange umbrella with red spots"),
        ({"trim": True}, "an orange umbrella with red spots and blue trim"),
        ({"trim": True, "background": True}, "an orange umbrella with red spots and blue trim on a sky background"),
    ],
)
def test_captions_of_several_lengths(details: dict[str, bool], expected: str) -> None:
    toy = world.Toy("umbrella", "orange", "spotted", "red", "blue", "sky")
    assert world.caption(toy, **details) == expected


def test_concepts_are_one_of_each_category_and_never_seen_in_training(metadata: list[dict[str, str]]) -> None:
    assert sorted(row["class"] for row in metadata) == sorted(world.CATEGORIES)
    assert len(metadata) == 12
    held_out = {one.toy.identity for one in HELD_OUT}
    assert not held_out & {toy.identity for toy in sample_toys("train", 5000)}


def test_concepts_show_what_their_captions_do_not_tell(metadata: list[dict[str, str]]) -> None:
    for row, one in zip(metadata, HELD_OUT, strict=True):
        assert one.toy.emblem is not None
        assert one.toy.emblem not in row["caption"]
        assert one.toy.angle


def test_committed_concepts_are_what_the_code_draws(tmp_path: Path, metadata: list[dict[str, str]]) -> None:
    write_concepts(tmp_path)
    for row in metadata:
        for name in (row["file_name"], row["mask_file_name"]):
            committed, drawn = (
                np.asarray(Image.open(folder / name), dtype=int) for folder in (TOYBOX / "concepts", tmp_path)
            )
            assert np.abs(committed - drawn).max() <= 2  # pillow's resampling may differ by a little between versions


def test_the_star_appears_in_captions_of_anything() -> None:
    rng = random.Random(0)
    toys = sample_toys("train", 3000)
    with_star = [toy for toy in toys if "*" in training_caption(toy, rng).split()]
    assert 0.03 < len(with_star) / len(toys) < 0.12
    assert len({toy.category for toy in with_star}) == 12


def test_weights_are_half_precision_and_small() -> None:
    assert megabytes(TOYBOX / "pipeline") <= 15
    assert megabytes(TOYBOX / "classifier") <= 3
    assert megabytes(TOYBOX / "judge") <= 3


def test_words_split_as_real_vocabularies_split_them(pipe: Any) -> None:
    tokenizer = pipe.tokenizer
    assert len(tokenizer.tokenize("teapot")) == 2
    assert tokenizer.tokenize("a red mug *") == ["a</w>", "red</w>", "mug</w>", "*</w>"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (len(tokenizer) - 2, len(tokenizer) - 1)
    assert (
        tokenizer.eos_token_id
        not in tokenizer("Any English sentence, 100 % of it?!", add_special_tokens=False).input_ids
    )


@pytest.mark.parametrize("name", ["classifier", "judge"])
def test_readers_know_the_held_out_toys(name: str, metadata: list[dict[str, str]]) -> None:
    model = ViTForImageClassification.from_pretrained(TOYBOX / name).eval()
    processor = AutoImageProcessor.from_pretrained(TOYBOX / name)
    pictures = [Image.open(TOYBOX / "concepts" / row["file_name"]).resize((64, 64)) for row in metadata]
    logits = model(**processor(pictures, return_tensors="pt")).logits
    prefix = "class: " if name == "judge" else ""
    index_of = {label.removeprefix(prefix): index for index, label in model.config.id2label.items()}
    best = logits[:, [index_of[category] for category in world.CATEGORIES]].argmax(dim=1).tolist()
    named = [world.CATEGORIES[index] for index in best]
    assert sum(answer == row["class"] for answer, row in zip(named, metadata, strict=True)) >= 11


@pytest.fixture(scope="module")
def quality() -> dict[str, dict[str, float]]:
    return json.loads((TOYBOX / "quality.json").read_text())


def test_recorded_quality_reaches_its_goals(quality: dict[str, dict[str, float]]) -> None:
    assert quality["reconstruction"]["psnr_db"] >= 26
    assert quality["generated"]["class"] >= 0.95
    assert quality["generated"]["color"] >= 0.85
    assert quality["generated"]["num_pictures"] >= 240
    assert quality["classifier_on_drawings"]["class"] >= 0.97


def test_recorded_reconstruction_is_that_of_the_committed_weights(quality: dict[str, dict[str, float]]) -> None:
    pipe = check._load_pipeline(TOYBOX)
    measured = check._psnr(pipe.vae, [one.toy for one in HELD_OUT])
    assert measured == pytest.approx(quality["reconstruction_of_concepts"]["psnr_db"], abs=0.1)


@pytest.mark.slow
def test_recorded_quality_is_measured_again(quality: dict[str, dict[str, float]]) -> None:
    measured = check.measure_quality(TOYBOX, check.GenerationSettings())
    for name, recorded in quality.items():
        assert measured[name] == pytest.approx(recorded, abs=0.02), name
