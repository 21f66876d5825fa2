"""Random pictures, lists, settings and initializers: only our own errors are raised, and nothing is changed."""

import io
import json
import os
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_same, build_tiny_pipeline, random_picture, snapshot_of
from PIL import Image
from test_settings import WRONG, dataclass_names

from diffusers_supreme_init import (
    Concept,
    DescriberConfig,
    InitializerError,
    Region,
    SupremeInitConfig,
    SupremeInitError,
    SupremeInitTextualInversionTrainer,
    load_concepts,
)
from diffusers_supreme_init.pictures import find_pictures, load_mask, load_picture, load_subject

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "2000"))
"""`make fuzz` takes 20,000."""
LONGEST = 20.0
"""Seconds that one input may take on a busy machine."""

pytestmark = pytest.mark.slow


def outcome_of(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    """Return ``"fine"`` or the name of our own error; anything else is raised."""
    start = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(*args, **options)
    except SupremeInitError as error:
        message = str(error)
        assert "\n" not in message, message
        assert "object at 0x" not in message, message
        assert len(message) < 1000, message
        return type(error).__name__
    finally:
        assert time.monotonic() - start < LONGEST
    return "fine"


def whole_pictures() -> dict[str, bytes]:
    """Return a small picture in every format and mode that pillow writes, turned by EXIF data where it has any."""
    Image.init()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2024:01:01 00:00:00"})
    deep = Image.fromarray(np.linspace(0, 65535, 768).reshape(24, 32).astype(np.uint16))
    rgb = random_picture((32, 24))
    modes = [rgb, rgb.convert("L"), rgb.convert("P"), random_picture((32, 24), mode="RGBA"), deep]
    modes += [Image.fromarray(np.linspace(0, 1, 768).reshape(24, 32).astype(np.float32)), rgb.convert("CMYK")]
    found = {}
    for kind in sorted(Image.SAVE):
        for picture in modes:
            for options in ({"exif": exif}, {"save_all": True, "append_images": [picture]}, {}):
                data = io.BytesIO()
                try:
                    picture.save(data, kind, **options)
                    Image.open(io.BytesIO(data.getvalue())).load()
                except Exception:  # a mode that the format does not know, or a format that pillow only writes
                    continue
                found[f"{kind}-{picture.mode}-{next(iter(options), '')}"] = data.getvalue()
    return found


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with one to three changes, half of them where headers and EXIF data are."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        if not changed:
            break
        at = chance.randrange(min(len(changed), 400) if chance.random() < 0.5 else len(changed))
        kind = chance.choice(["byte", "byte", "bit", "cut", "insert", "repeat"])
        if kind == "byte":
            changed[at] = chance.randrange(256)
        elif kind == "bit":
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del changed[at : at + chance.randint(1, len(changed))]
        elif kind == "insert":
            changed[at:at] = chance.randbytes(chance.randint(1, 9))
        else:
            changed[at:at] = changed[at : at + 20]
    return bytes(changed)


def test_mutated_pictures(tmp_path: Path) -> None:
    chance = random.Random(0)
    whole = whole_pictures()
    expected = {"JPEG-RGB-exif", "PNG-RGB-exif", "TIFF-F-exif", "WEBP-RGBA-exif", "GIF-P-save_all", "AVIF-RGB-exif"}
    assert expected <= set(whole)
    outcomes: Counter[str] = Counter()
    names = sorted(whole)
    for number in range(ROUNDS):
        name = names[number % len(names)]
        path = tmp_path / f"picture.{chance.choice(['png', 'jpg', 'tif', name.split('-')[0].lower()])}"
        path.write_bytes(damaged(whole[name], chance))
        read = chance.choice([load_picture, load_picture, load_subject, load_mask, find_pictures])
        outcomes[outcome_of(read, path)] += 1
        if chance.random() < 0.1:
            outcomes[outcome_of(find_pictures, tmp_path)] += 1
        path.unlink()
    assert set(outcomes) == {"fine", "PictureError"}
    assert min(outcomes.values()) > ROUNDS // 10, outcomes


LINE: dict[str, Any] = {
    "file_name": "a.png",
    "placeholder_token": "<mug>",
    "initializer": "a red mug",
    "mask_file_name": "m.png",
    "num_vectors": 3,
    "train_on": "crop",
    "points": [[40, 22]],
    "negative_points": [[1, 1]],
    "box": [0, 0, 9, 9],
}
JSON_JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    1e400,
    10**30,
    "",
    " ",
    "x",
    "3",
    "none",
    "\x00",
    "\u2028",
    "../a",
    [],
    {},
]
JSON_JUNK += [[1], [1, 2], [[1, 2]], [["1", "2"]], {"x": 1}, "y" * 3000, "<cat>", "image", [None] * 4, [0, 0, 5, 5]]


def random_list(chance: random.Random) -> bytes:
    """Return a ``metadata.jsonl`` with other values, columns, encodings or bytes."""
    rows = []
    for _ in range(chance.randint(1, 4)):
        names = chance.sample(list(LINE), chance.randint(2, len(LINE)))
        row = {name: LINE[name] for name in {*names, *("file_name", "placeholder_token", "initializer")}}
        for _ in range(chance.choice([0, 0, 1, 2])):
            row[chance.choice([*LINE, "mask", "Points", "caption"])] = chance.choice(JSON_JUNK)
        rows.append(json.dumps(row, ensure_ascii=chance.random() < 0.5))
    text = chance.choice(["\n", "\r\n", "\n\n", "\u2028"]).join(rows)
    data = text.encode(chance.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]), "surrogatepass")
    return damaged(data, chance) if chance.random() < 0.5 else data


def test_mutated_lists(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = tmp_path / "metadata.jsonl"
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        path.write_bytes(random_list(chance))
        column = chance.choice(["initializer", "initializer", "caption", "num_vectors"])
        initializer = chance.choice([None, None, "auto"])
        options = {"initializer_column": column, "initializer": initializer}
        outcomes[outcome_of(load_concepts, tmp_path, **options)] += 1
    assert {"fine", "ConfigError", "RegionError"} <= set(outcomes), outcomes
    assert outcomes["fine"] > ROUNDS // 50, outcomes


def test_random_settings() -> None:
    chance = random.Random(0)
    values = [
        *WRONG,
        "1e-4",
        "512",
        2.0,
        [0, 10],
        "none",
        "false",
        7,
        0.5,
        "every:3",
        "latest",
        Path("x"),
        1e-3,
        "out",
    ]
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        config = chance.choice([SupremeInitConfig, SupremeInitConfig, DescriberConfig])
        names = dataclass_names(config)
        given = {name: chance.choice(values) for name in chance.sample(names, chance.randint(1, 3))}
        outcomes[outcome_of(config, **given)] += 1
    assert set(outcomes) == {"fine", "ConfigError"}, outcomes
    assert outcomes["fine"] > ROUNDS // 50, outcomes


def test_random_concepts_change_nothing() -> None:
    chance = random.Random(0)
    pipe = build_tiny_pipeline()
    before = snapshot_of(pipe)
    junk = [*WRONG, "a mug", "<mug>", "nowhere.png", random_picture(), [random_picture()], Region(points=(4, 4))]
    junk += [
        np.ones((8, 8)),
        torch.ones(40, 40),
        "3",
        2,
        "a photo of a {}",
        ["a {}"],
        "auto",
        "class",
        "crop",
        "image",
    ]
    outcomes: Counter[str] = Counter()

    def make(**values: Any) -> None:
        SupremeInitTextualInversionTrainer(pipe, concepts=[Concept(**values)])

    for _ in range(ROUNDS // 10):
        values: dict[str, Any] = {
            "images": random_picture(),
            "placeholder_token": "<mug>",
            "initializer": "a mug",
        }
        for name in chance.sample(dataclass_names(Concept), chance.randint(1, 2)):
            values[name] = chance.choice(junk)
        outcomes[outcome_of(make, **values)] += 1
    assert_same(before, snapshot_of(pipe))
    assert outcomes["fine"] > 0, outcomes
    assert len(outcomes) > 3, outcomes


def test_no_path_is_trained_or_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    monkeypatch.chdir(tmp_path)
    for name in ("secret", "secret photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret.pt").write_bytes(b"\x80\x02}.")
    (tmp_path / "secret.txt").write_text("words")
    parts = ["secret", "secret photos", "secret.pt", "secret.txt", "mug", str(tmp_path), "~", ".", "..", "C:", "user"]
    ends = ["", ".pt", ".safetensors", ".PNG", "/", "@main", " "]
    pipe = build_tiny_pipeline()
    config = SupremeInitConfig(max_train_steps=0, validation_samples=0)
    num_saved = 0
    for number in range(max(ROUNDS // 100, 20)):
        chosen = chance.choices(parts, k=chance.randint(1, 3))
        text = chance.choice(["/", "\\", " "]).join(chosen) + chance.choice(ends)
        try:
            trainer = SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", text, config=config)
        except InitializerError:
            continue
        trainer.train()
        trainer.save(tmp_path / "out" / str(number))
        pipe.unload_multitoken_inversion()
        num_saved += 1
        for path in (tmp_path / "out" / str(number)).rglob("*.*"):
            for secret in (str(tmp_path).encode(), b"secret.", b"secret/", b"/secret"):
                assert secret not in path.read_bytes(), (text, path.name)
    assert num_saved
