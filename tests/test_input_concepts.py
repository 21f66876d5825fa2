"""Concepts and lists of concepts as users write them: plain values are taken, disagreement and other kinds refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_picture
from PIL import Image

from diffusers_supreme_init import (
    Concept,
    ConfigError,
    PictureError,
    Region,
    RegionError,
    SupremeInitConfig,
    SupremeInitError,
    SupremeInitTextualInversionTrainer,
    SupremeInitWarning,
    load_concepts,
)

ROW = {"file_name": "a.png", "placeholder_token": "<a>", "initializer": "a mug"}


def write(folder: Path, *rows: Any, encoding: str = "utf-8", end: str = "\n") -> Path:
    path = folder / "metadata.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes(end.join(lines).encode(encoding))
    return path


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\u00a0"])
def test_lines_end_at_line_ends_only(tmp_path: Path, mark: str) -> None:
    caption = f"a red{mark}mug"
    raw = json.dumps(ROW | {"initializer": "CAPTION"}).replace("CAPTION", caption)
    if ord(mark) < 32:  # JSON wants these escaped
        raw = json.dumps(ROW | {"initializer": caption})
    (one, two) = load_concepts(write(tmp_path, raw, ROW | {"placeholder_token": "<b>"}))
    assert (one.initializer, two.initializer) == (caption, "a mug")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r"])
def test_marks_and_line_ends_of_other_systems(tmp_path: Path, encoding: str, end: str) -> None:
    path = write(tmp_path, ROW, ROW | {"placeholder_token": "<b>", "initializer": "caffè"}, encoding=encoding, end=end)
    assert [concept.initializer for concept in load_concepts(path)] == ["a mug", "caffè"]


def test_files_that_are_no_list(tmp_path: Path) -> None:
    for encoding in ("utf-16", "latin-1"):
        path = write(tmp_path, ROW | {"initializer": "caffè"}, encoding=encoding)
        with pytest.raises(ConfigError, match=r"metadata.jsonl in UTF-8, got .*, which cannot be read"):
            load_concepts(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ConfigError, match="it is a git-LFS pointer"):
        load_concepts(path)
    path.write_bytes(b"<html></html>")
    with pytest.raises(ConfigError, match="it is an HTML page"):
        load_concepts(path)
    for path in (5, None, ["metadata.jsonl"]):  # type: ignore[assignment]
        with pytest.raises(ConfigError, match="concepts: expected the path of a metadata.jsonl, got"):
            load_concepts(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, "{"], "metadata.jsonl, line 2: expected one JSON object"),
        ([ROW, "[" * 100_000], "line 2: expected one JSON object"),
        ([json.dumps(ROW)[:-1] + ', "num_vectors": ' + "9" * 5000 + "}"], "line 1: expected one JSON object"),
        (['{"file_name": "a.png", "file_name": "b.png"}'], "line 1: .*file_name twice"),
        ([ROW | {"file_name": " "}], "line 1, <a>: expected the name of a picture as file_name"),
        ([ROW, ROW | {"mask_file_name": 5}], "line 2, <a>: expected a text as mask_file_name, got 5"),
        ([ROW | {"num_vectors": "three"}], "line 1, <a>: num_vectors: expected a whole number, or None, got 'three'"),
        ([ROW | {"num_vectors": 2.5}], "num_vectors: expected a whole number, or None, got 2.5"),
        ([ROW | {"num_vectors": True}], "num_vectors: expected a whole number, or None, got True"),
        ([ROW | {"num_vectors": [3]}], "num_vectors: expected a whole number"),
        ([ROW | {"train_on": "sky"}], r"line 1, <a>: train_on: expected one of \('crop', 'image'\), got 'sky'"),
        ([ROW | {"train_on": 5}], "line 1, <a>: train_on: expected one of"),
        (
            [ROW | {"num_vectors": 2}, ROW, ROW | {"num_vectors": 3}],
            "line 3, <a>: expected one num_vectors for all its pictures, got different ones: 2 in .* line 1, 3 here",
        ),
        (
            [ROW | {"train_on": "image"}, ROW | {"train_on": "crop"}],
            "line 2, <a>: expected one train_on for all its pictures, got different ones",
        ),
        ([ROW, ROW | {"initializer": "a cup"}], "line 2, <a>: expected one initializer for all its pictures"),
    ],
)
def test_lines_that_cannot_work(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_concepts(write(tmp_path, *rows))


def test_names_of_any_length_leave_messages_short_and_on_one_line(tmp_path: Path) -> None:
    for name in ("y" * 3000, "<a\n" + "b" * 200 + ">"):
        for row in ({"placeholder_token": name}, {"file_name": name}):
            with pytest.raises(RegionError, match=r"\Ametadata.jsonl, line 1, [^\n]*\Z") as info:
                load_concepts(write(tmp_path, ROW | row | {"box": 5}))
            assert len(str(info.value)) < 300


@pytest.mark.parametrize("column", ["points", "negative_points", "box"])
@pytest.mark.parametrize("value", ["40,22", 5, {"x": 1}, [1], True, [["a", "b"]], [None, None]])
def test_regions_of_another_kind_name_line_concept_and_picture(tmp_path: Path, column: str, value: Any) -> None:
    with pytest.raises(RegionError, match=rf"\Ametadata.jsonl, line 2, <b>, b.png: {column}: expected \("):
        load_concepts(write(tmp_path, ROW, ROW | {"placeholder_token": "<b>", "file_name": "b.png", column: value}))


def test_plain_values_of_lists(tmp_path: Path) -> None:
    row = ROW | {"num_vectors": "3", "train_on": "Image", "points": [["40", "22"]], "box": None, "negative_points": []}
    (concept,) = load_concepts(write(tmp_path, row))
    assert (concept.num_vectors, concept.train_on) == (3, "image")
    assert concept.region is not None
    (none,) = load_concepts(write(tmp_path, ROW | {"num_vectors": None, "train_on": None, "mask_file_name": ""}))
    assert (none.num_vectors, none.train_on, none.mask, none.region) == (None, "crop", None, None)
    assert load_concepts(write(tmp_path, ROW | {"num_vectors": "none"}))[0].num_vectors is None


def test_columns_that_are_not_read_are_said_once(tmp_path: Path) -> None:
    quiet = ROW | {"caption": "a red mug", "class": "mug", "text": "x", "split": "train"}
    load_concepts(write(tmp_path, quiet))
    for column, advice in {
        "mask_filename": "did you mean 'mask_file_name'",
        "num_vector": "did you mean 'num_vectors'",
        "Points": "did you mean 'points'",
        "region_word": "did you mean 'region_words'",
        "candidates": "the columns are file_name,",
        "mask": "the columns are",
    }.items():
        with pytest.warns(SupremeInitWarning, match=f"the column {column!r} is not read; {advice}") as told:
            load_concepts(write(tmp_path, ROW | {column: "x"}, ROW | {column: "y"}))
        assert len(told) == 1


# -- concepts


def make_trainer(pipe: Any, **values: Any) -> SupremeInitTextualInversionTrainer:
    config = SupremeInitConfig(max_train_steps=1, validation_samples=0, masked_loss="mask" in values)
    concept = {"images": random_picture(), "placeholder_token": "<mug>", "initializer": "a red mug"} | values
    return SupremeInitTextualInversionTrainer(pipe, **concept, config=config)


@pytest.mark.parametrize(
    ("values", "name", "taken"),
    [
        ({"num_vectors": "3"}, "num_vectors", 3),
        ({"num_vectors": 2.0}, "num_vectors", 2),
        ({"num_vectors": np.int64(2)}, "num_vectors", 2),
        ({"num_vectors": "none"}, "num_vectors", None),
        ({"templates": "a drawing of a {}"}, "templates", ("a drawing of a {}",)),
        ({"train_on": "Crop"}, "train_on", "crop"),
    ],
)
def test_concepts_whose_meaning_is_plain(values: dict[str, Any], name: str, taken: Any, pipe: Any) -> None:
    (concept,) = make_trainer(pipe, **values).concepts
    assert getattr(concept, name) == taken


def test_pictures_that_can_be_read_only_once(pipe: Any, tmp_path: Path) -> None:
    trainer = make_trainer(pipe, images=(random_picture(seed=seed) for seed in range(3)))
    trainer.train()
    trainer.save(tmp_path / "out", with_pictures=True)
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 3


@pytest.mark.parametrize(
    "values",
    [
        {"placeholder_token": 3},
        {"placeholder_token": ["<mug>"]},
        {"placeholder_token": b"<mug>"},
        {"num_vectors": "three"},
        {"num_vectors": 0},
        {"num_vectors": 2**70},
        {"num_vectors": True},
        {"templates": 5},
        {"templates": ["a {}", 5]},
        {"templates": {"a {}"}},
        {"templates": []},
        {"templates": torch.ones(3)},
        {"templates": np.array(["a {}"])},
        {"templates": False},
        {"placeholder_token": "Y" * 3000},
        {"placeholder_token": "a\nb"},
        {"candidates": torch.ones(3), "initializer": "auto"},
        {"candidates": 0, "initializer": "auto"},
        {"candidates": "a mug", "initializer": "auto"},
        {"candidates": 5, "initializer": "auto"},
        {"candidates": [5], "initializer": "auto"},
        {"images": 5},
        {"images": {"a": 1}},
        {"images": np.zeros((8, 8, 3))},
        {"images": torch.zeros(3, 8, 8)},
        {"images": [None]},
        {"images": b"mug.png"},
        {"mask": 5},
        {"mask": [5]},
        {"mask": np.ones(5)},
        {"mask": "nowhere.png"},
        {"region": 5},
        {"region": (40, 22)},
        {"region": {"points": [40, 22]}},
        {"region": [None]},
        {"train_on": 5},
        {"train_on": "image"},
    ],
)
def test_concepts_of_another_kind(values: dict[str, Any], pipe: Any, unchanged: Any) -> None:
    unchanged(pipe)
    with pytest.raises(SupremeInitError, match=r"\A[^\n]*expected[^\n]*\Z") as info:
        make_trainer(pipe, **values)
    assert len(str(info.value)) < 400


@pytest.mark.parametrize(
    "config", [{"max_train_steps": 1}, 5, "config.yaml", SupremeInitConfig, lambda: SupremeInitConfig()]
)
def test_settings_of_another_kind(config: Any, pipe: Any) -> None:
    with pytest.raises(ConfigError, match="config: expected a SupremeInitConfig, got"):
        SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a mug", config=config)


def test_settings_that_were_changed_are_checked_again(pipe: Any) -> None:
    config = SupremeInitConfig()
    config.max_train_steps = "2"  # type: ignore[assignment]
    trainer = SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a mug", config=config)
    assert trainer.config is config
    assert config.max_train_steps == 2
    config.seed = None  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="seed: expected a whole number"):
        SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a mug", config=config)


def test_concepts_in_other_containers(pipe: Any) -> None:
    concept = Concept(images=random_picture(), placeholder_token="<mug>", initializer="a mug")
    assert SupremeInitTextualInversionTrainer(pipe, concepts=concept).concepts == [concept]  # type: ignore[arg-type]
    for concepts in ([{"images": random_picture()}], "metadata.jsonl", 5, [None], {"<mug>": concept}):
        with pytest.raises(ConfigError, match="concepts: expected a list of Concept, got"):
            SupremeInitTextualInversionTrainer(pipe, concepts=concepts)  # type: ignore[arg-type]


# -- masks


def test_a_mask_that_nothing_reads_is_said_once(pipe: Any) -> None:
    mask = Image.new("L", (40, 40), 0)
    config = SupremeInitConfig(max_train_steps=1, validation_samples=0)
    concepts = [
        Concept(images=random_picture(), placeholder_token=token, initializer="a mug", mask=mask)
        for token in ("<a>", "<b>")
    ]
    with pytest.warns(SupremeInitWarning, match=r"<a>, <b>: the mask is not used .*masked_loss=True") as told:
        SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=config)
    assert len(told) == 1


@pytest.mark.parametrize(("side", "is_told"), [(2, True), (6, False), (37, False), (39, True), (40, True)])
def test_masks_that_cover_nearly_nothing_or_nearly_all_are_said(side: int, is_told: bool, pipe: Any) -> None:
    mask = np.zeros((40, 40), bool)
    mask[:side, :side] = True
    trainer = make_trainer(pipe, mask=mask)
    if is_told:
        with pytest.warns(SupremeInitWarning, match=r"<mug>: the mask covers [\d.]+ % of picture 0") as told:
            trainer.train()
        assert len(told) == 1
    else:
        trainer.train()


def test_regions_that_cover_nearly_all_are_said(pipe: Any) -> None:
    mask = np.ones((40, 40), bool)
    mask[0, 0] = False
    trainer = make_trainer(pipe, region=Region(mask=mask))
    with pytest.warns(SupremeInitWarning, match=r"<mug>: the mask covers 99.9 % of picture 0") as told:
        trainer.train()
    assert len(told) == 1


def test_the_mask_of_another_picture_is_named(pipe: Any) -> None:
    with pytest.raises(PictureError, match="mask of <mug>: expected a picture or a folder, got 'nowhere.png'"):
        make_trainer(pipe, mask="nowhere.png")
