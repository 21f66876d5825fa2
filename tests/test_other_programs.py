"""Files for other programs, read by their own rules; files of theirs, read by us."""

import base64
import itertools
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import programs
import pytest
import safetensors.torch
import torch
from conftest import HIDDEN_SIZE, ROOT, random_picture
from PIL import Image, PngImagePlugin
from programs import UnreadableError
from tiny.every_family import FAMILY, pair_of, rows_for

from diffusers_supreme_init import (
    ConceptLoadError,
    EmbeddingFileError,
    EmbeddingFormat,
    EmbeddingProgram,
    LearnedEmbedding,
    convert_embedding,
    read_embeddings,
    write_embeddings,
)
from diffusers_supreme_init.commands import main as supreme_init
from diffusers_supreme_init.text.encoder_identity import EncoderIdentity

WIDTHS = {"clip_l": 768, "clip_h": 1024, "clip_g": 1280, "t5xxl": 4096, "gemma2_2b": 2304, "llama": 4096}
CLASSES = {
    "clip_l": "CLIPTextModel",
    "clip_h": "CLIPTextModel",
    "clip_g": "CLIPTextModelWithProjection",
    "t5xxl": "T5EncoderModel",
    "gemma2_2b": "Gemma2Model",
    "llama": "LlamaModel",
}
TRAINED = {
    "sd1": ("stable-diffusion-v1", ["clip_l"]),
    "sd2": ("stable-diffusion-v2-512", ["clip_h"]),
    "sdxl": ("stable-diffusion-xl-v1-base", ["clip_l", "clip_g"]),
    "sd3": ("stable-diffusion-3", ["clip_l", "clip_g", "t5xxl"]),
    "flux": ("flux-1-dev", ["clip_l", "t5xxl"]),
    "pixart": ("pixart-sigma", ["t5xxl"]),
    "sana": ("sana", ["gemma2_2b"]),
}
"""``{family we train: (architecture in its files, keys of its text encoders)}``."""
UNTRAINED = {
    "hidream": (None, ["clip_l", "clip_g", "t5xxl", "llama"]),
    "hunyuan_video": (None, ["clip_l", "llama"]),
    "lumina2": (None, ["gemma2_2b"]),
    "chroma": (None, ["t5xxl"]),
    "wuerstchen": (None, ["clip_g"]),
}
FAMILIES: dict[str, tuple[str | None, list[str]]] = {**TRAINED, **UNTRAINED}
NAMES: list[EmbeddingFormat | EmbeddingProgram] = [*get_args(EmbeddingFormat), *get_args(EmbeddingProgram)]


def rows(width: int, num_vectors: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_vectors, width, generator=torch.Generator().manual_seed(seed + width))


def concept(family: str, keys: list[str] | None = None, **changes: Any) -> list[LearnedEmbedding]:
    """Return a concept as the trainer would save it on a model of `family`."""
    architecture, all_keys = FAMILIES[family]
    values = {"architecture": architecture and f"{architecture}/textual-inversion", "placeholder_token": "<mug>"}
    return [
        LearnedEmbedding(
            rows=rows(WIDTHS[key], seed=number),
            encoder=EncoderIdentity(CLASSES[key], WIDTHS[key], "0" * 64),
            **(values | changes),  # type: ignore[arg-type]
        )
        for number, key in enumerate(keys or all_keys)
    ]


def written(folder: Path, embeddings: list[LearnedEmbedding], name: EmbeddingFormat | EmbeddingProgram) -> Path:
    """Write a concept for a program; return the file, or the first one."""
    is_pickle = name == "a1111" and len(embeddings) == 1
    target = folder / ("mug" if name == "diffusers" else "mug.pt" if is_pickle else "mug.safetensors")
    return write_embeddings(target, embeddings, name)[0]


def equal(taken: Any, embeddings: list[LearnedEmbedding]) -> bool:
    """Whether a program takes the rows of all text encoders, and no others."""
    wanted = [one.rows for one in embeddings]
    found = list(taken.values())
    return len(found) == len(wanted) and all(any(torch.equal(a, b) for a in found) for b in wanted)


# --------------------------------------------------------------------------- what we write, read by their rules

READERS: dict[str, Callable[[Path, str], Any]] = {
    "comfyui": programs.comfyui,
    "a1111": programs.webui,
    "forge": lambda path, family: programs.webui(path, family, is_forge=True),
    "sdnext": programs.sdnext,
    "invokeai": programs.invokeai,
    "sd-scripts": programs.sd_scripts,
    "invoke-training": programs.invoke_training,
    "onetrainer": programs.onetrainer,
}
READ_ALL = {
    "comfyui": [family for family in programs.COMFYUI_KEYS if family in FAMILIES],
    "onetrainer": [family for family in programs.ONETRAINER_KEYS if family in FAMILIES],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("program", READERS)
def test_every_program_reads_what_is_written_for_it_or_it_is_not_written(
    tmp_path: Path, program: Any, family: str
) -> None:
    embeddings = concept(family)
    is_read = family in READ_ALL.get(program, ["sd1", "sd2", "sdxl"])
    if not is_read and program in READ_ALL:
        return  # the file can be written, but no model of the program asks for it
    if is_read:
        path = written(tmp_path, embeddings, program)
        assert equal(READERS[program](path, family), embeddings)
        for one, other in zip(read_embeddings(path, allow_pickle=True), embeddings, strict=True):
            assert torch.equal(one.rows, other.rows)
    else:
        with pytest.raises(EmbeddingFileError, match=f"{program}: expected .* got rows for .*; write format="):
            written(tmp_path, embeddings, program)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_format_of_every_family_is_read_again(tmp_path: Path, family: str) -> None:
    embeddings = concept(family, description="a red mug")
    for name in NAMES:
        try:
            path = written(tmp_path / name, embeddings, name)
        except EmbeddingFileError:
            continue
        again = read_embeddings(path.parent if name == "diffusers" else path, allow_pickle=True)
        by_width = sorted(embeddings, key=lambda one: (one.hidden_size, float(one.rows[0, 0])))
        for one, other in zip(
            sorted(again, key=lambda one: (one.hidden_size, float(one.rows[0, 0]))), by_width, strict=True
        ):
            assert torch.equal(one.rows, other.rows), name
            assert one.description == "a red mug", name
            assert one.placeholder_token == "<mug>", name


@pytest.mark.parametrize(
    ("program", "layouts"),
    [
        ("onetrainer", ["comfyui"]),  # t5xxl: silently none on SD 3 and Flux
        ("invokeai", ["diffusers", "comfyui", "per-token"]),  # its probe misreads (n, 768)
        ("sd-scripts", ["per-token"]),
        ("comfyui", ["per-token"]),
    ],
)
def test_the_rules_tell_right_from_wrong_formats(tmp_path: Path, program: str, layouts: list[Any]) -> None:
    """Each program's rules, on a layout that is not its own, lose rows or fail: so the tests above could fail."""
    family = "flux" if program == "onetrainer" else "sd1"
    for layout in layouts:
        try:
            path = written(tmp_path / layout, concept(family), layout)
            taken = READERS[program](path, family)
        except (UnreadableError, EmbeddingFileError):
            continue
        assert not equal(taken, concept(family)), layout


@pytest.mark.parametrize("program", ["onetrainer", "a1111", "forge", "sdnext", "invokeai", "sd-scripts"])
@pytest.mark.parametrize("key", ["clip_l", "clip_g"])
def test_one_of_two_text_encoders_is_not_enough_for_sdxl(tmp_path: Path, program: Any, key: str) -> None:
    with pytest.raises(EmbeddingFileError, match=f"{program}: expected rows for both text encoders of SDXL, got them"):
        written(tmp_path, concept("sdxl", [key]), program)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", ["a1111", "forge", "sdnext", "sd-scripts", "invoke-training"])
def test_programs_with_one_number_of_rows_get_equal_numbers(tmp_path: Path, program: Any) -> None:
    first, second = concept("sdxl")
    second = replace(second, rows=second.rows[:2])
    with pytest.raises(EmbeddingFileError, match=f"{program}: expected as many rows for clip_l .*3 and 2"):
        written(tmp_path, [first, second], program)
    path = written(tmp_path, [first, second], "invokeai")
    assert equal(programs.invokeai(path, "sdxl"), [first, second])


def test_onetrainer_trains_no_other_text_encoders(tmp_path: Path) -> None:
    other = LearnedEmbedding(placeholder_token="<mug>", rows=rows(3584), encoder_key="qwen25_7b")
    with pytest.raises(EmbeddingFileError, match="onetrainer: expected rows for some of clip_l, .* got .* qwen25_7b"):
        written(tmp_path, [other], "onetrainer")
    with pytest.raises(EmbeddingFileError, match="got them for an unknown text encoder; pass e.g. encoder_keys"):
        written(tmp_path, [replace(other, encoder_key=None)], "onetrainer")


def test_onetrainer_gets_its_own_names(tmp_path: Path) -> None:
    for family, names in programs.ONETRAINER_KEYS.items():
        if family in FAMILIES:
            path = written(tmp_path / family, concept(family), "onetrainer")
            assert sorted(safetensors.torch.load_file(path)) == sorted(names)


def test_sdnext_reads_no_pickle_of_rows(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingFileError, match="sdnext: expected a target that ends in .safetensors"):
        write_embeddings(tmp_path / "mug.pt", concept("sd1"), "sdnext")


@pytest.mark.parametrize(("num_vectors", "is_warned"), [(1, False), (2, True), (12, True)])
def test_a_row_per_key_is_warned_of(
    tmp_path: Path, num_vectors: int, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (one,) = concept("sd1")
    embeddings = [replace(one, rows=rows(768, num_vectors))]
    path = written(tmp_path, embeddings, "per-token")
    said = f"will read only the first of its {num_vectors} rows"
    assert (said in caplog.text) == is_warned
    for name in ("comfyui", "sd-scripts"):
        assert equal(READERS[name](path, "sd1"), embeddings) != is_warned
    for name in ("kohya", "comfyui", "invokeai"):
        caplog.clear()
        written(tmp_path, embeddings, name)  # type: ignore[arg-type]
        assert "only the first" not in caplog.text


def test_the_table_in_the_docs_names_every_program_and_format() -> None:
    table = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"`{name}`" in table, name


def test_programs_are_choices_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_embeddings(tmp_path / "mug", concept("sd1"), "diffusers")
    assert (
        supreme_init(["convert", str(tmp_path / "mug"), str(tmp_path / "mug.safetensors"), "--format", "invokeai"])
        == 0
    )
    assert equal(programs.invokeai(tmp_path / "mug.safetensors", "sd1"), concept("sd1"))


# -------------------------------------------------------------------------------- what they write, read by us


@pytest.mark.parametrize("names", [("t5", "t5xxl"), ("gemma", "gemma2_2b"), ("text_encoders_0", "clip_l")])
def test_a_file_with_both_names_of_a_text_encoder_is_read(names: tuple[str, str]) -> None:
    one, other = names
    key = other if other in WIDTHS else one
    made = rows(WIDTHS[key])
    for order in itertools.permutations(names):
        (read,) = read_embeddings({name: made.clone() for name in order})
        assert read.encoder_key == key
        assert torch.equal(read.rows, made)
    with pytest.raises(EmbeddingFileError, match=f"the same rows under '{one}' and '{other}', two names of one text"):
        read_embeddings({one: made, other: made + 1})
    with pytest.raises(EmbeddingFileError, match="got different ones"):
        read_embeddings({one: made, other: made[:2]})


def test_both_names_beside_other_text_encoders() -> None:
    made = {key: rows(WIDTHS[key]) for key in ("clip_l", "clip_g", "t5xxl")}
    read = read_embeddings({**made, "t5": made["t5xxl"]})
    assert [one.encoder_key for one in read] == ["clip_l", "clip_g", "t5xxl"]


def test_embeddings_of_cog_sdxl(tmp_path: Path) -> None:
    made = {"text_encoders_0": rows(768, 2), "text_encoders_1": rows(1280, 2)}
    safetensors.torch.save_file(made, tmp_path / "embeddings.pti")
    read = read_embeddings(tmp_path / "embeddings.pti")
    assert [one.encoder_key for one in read] == ["clip_l", "clip_g"]
    for one, wanted in zip(read, made.values(), strict=True):
        assert torch.equal(one.rows, wanted)


TWO_CONCEPTS = [
    ("<cat1>", "<cat2>"),
    ("<s1>", "<s2>"),
    ("<s0>", "<s1>"),
    ("<cat-1>", "<cat-2>"),
    ("cat1", "cat2"),
    ("<dog9>", "<dog10>"),
    ("<1cat>", "<2cat>"),
    ("sks1x", "sks2x"),
]


@pytest.mark.parametrize("tokens", TWO_CONCEPTS)
@pytest.mark.parametrize("shape", [(-1,), (1, -1)])
def test_two_concepts_in_one_file_are_not_two_rows_of_one(
    pipe: Any, tmp_path: Path, tokens: tuple[str, str], shape: Any, unchanged: Callable[[Any], None]
) -> None:
    content = {token: rows(HIDDEN_SIZE, 1, seed).reshape(shape) for seed, token in enumerate(tokens)}
    safetensors.torch.save_file(content, tmp_path / "cats.safetensors")
    torch.save(content, tmp_path / "cats.pt")
    unchanged(pipe)
    for source in (content, tmp_path / "cats.safetensors", tmp_path / "cats.pt"):
        for token in ("<cat>", None):
            with pytest.raises(EmbeddingFileError, match=r"exactly one tensor, got 2 .*stack them"):
                pipe.load_multitoken_inversion(source, token=token, allow_pickle=True)
    with pytest.raises(EmbeddingFileError, match="exactly one tensor, got 2"):
        convert_embedding(content, tmp_path / "one.safetensors", format="kohya", token="<cat>")


# ---------------------------------------------------------------------------- embeddings in LoRA files of OneTrainer


def lora(**bundles: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a LoRA with embeddings in it, ``{name: {key: rows}}``."""
    weights = {f"lora_te_layers_{n}.lora_{way}.weight": torch.ones(2, 2) for n in range(3) for way in ("up", "down")}
    return weights | {
        f"bundle_emb.{name}.{key}": value for name, tensors in bundles.items() for key, value in tensors.items()
    }


@pytest.mark.parametrize("name", ["<mug>", "mug", "my.mug.v2"])
@pytest.mark.parametrize(
    ("tensors", "keys"),
    [
        ({"clip_l": rows(768)}, ["clip_l"]),
        ({"clip_l": rows(768), "clip_g": rows(1280)}, ["clip_l", "clip_g"]),
        ({"clip_l": rows(768), "t5": rows(4096)}, ["clip_l", "t5xxl"]),
        ({"gemma": rows(2304)}, ["gemma2_2b"]),
        ({"string_to_param.*": rows(768)}, [None]),
        ({"emb_params": rows(1024)}, [None]),
    ],
)
def test_an_embedding_in_a_lora_file_is_read_and_the_rest_is_said(
    tmp_path: Path, name: str, tensors: dict[str, torch.Tensor], keys: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    safetensors.torch.save_file(lora(**{name: tensors}), tmp_path / "lora.safetensors")
    read = read_embeddings(tmp_path / "lora.safetensors")
    assert {one.placeholder_token for one in read} == {name}
    assert [one.encoder_key for one in read] == keys
    for one, wanted in zip(read, tensors.values(), strict=True):
        assert torch.equal(one.rows, wanted)
    assert "load its other 6 tensors with load_lora_weights" in caplog.text


def test_several_embeddings_in_a_lora_file_are_loaded_each_as_a_concept(pipe: Any, tmp_path: Path) -> None:
    mug, cat = rows(HIDDEN_SIZE, 3), rows(HIDDEN_SIZE, 1, 1)
    path = tmp_path / "lora.safetensors"
    safetensors.torch.save_file(lora(**{"<mug>": {"clip_l": mug}, "<cat>": {"clip_l": cat}}), path)
    with pytest.raises(EmbeddingFileError, match=r"expected one concept, got 2 \(<cat>, <mug>\); load them with"):
        read_embeddings(path)
    reports = pipe.load_multitoken_inversion(path, only=["<mug>"], description=False)
    assert [report.placeholder_token for report in reports] == ["<mug>"]
    assert len(pipe.load_multitoken_inversion(path, description=False)) == 2
    pair = pair_of(pipe, "text_encoder")
    assert torch.equal(pair.rows("<mug>"), mug)
    assert torch.equal(pair.rows("<cat>"), cat)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lora(), "got a LoRA without one in it; load it with load_lora_weights"),
        ({"unet.down.lora_A.weight": torch.ones(2, 2), "unet.down.lora_B.weight": torch.ones(2, 2)}, "got a LoRA"),
        ({"unet.down.lora_A.weight": rows(HIDDEN_SIZE)}, "got a LoRA"),
        ({"unet.up.attn1.processor.to_q_lora.down.weight": rows(HIDDEN_SIZE)}, "got a LoRA"),
        ({"base_model.model.token_embedding.lora_embedding_A": rows(HIDDEN_SIZE)}, "got a LoRA"),
        ({"lora_unet_down_0.alpha": torch.ones(1)}, "got a LoRA"),
        ({"lora_unet_down_0.lokr_w1": rows(HIDDEN_SIZE)}, "got a LoRA"),
        ({"text_model.embeddings.token_embedding.weight": rows(HIDDEN_SIZE)}, "got the weights of a model"),
        ({"conv_in.bias": torch.ones(HIDDEN_SIZE)}, "got the weights of a model"),
        (lora(**{"<mug>": {"clip_x": rows(768)}}), "got 'bundle_emb.<mug>.clip_x'"),
        ({"bundle_emb.clip_l": rows(768)}, "got 'bundle_emb.clip_l'"),
        (
            lora(**{"<mug>": {"clip_l": rows(768), "clip_l_out": rows(768)}}),
            r"output embeddings \(clip_l_out\)",
        ),
        (lora(**{"<mug>": {"clip_l": rows(768) / 0}}), "finite rows"),
    ],
)
def test_lora_files_without_usable_embeddings_are_refused(content: Any, message: str) -> None:
    with pytest.raises(EmbeddingFileError, match=message):
        read_embeddings(content)


# ------------------------------------------------------------------------------------------ A1111's pictures


def a1111_json(values: torch.Tensor, **changes: Any) -> bytes:
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": {"TORCHTENSOR": values.tolist()}},
        "name": "mug",
        "step": 500,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }
    return json.dumps(content | changes).encode()


def with_chunk(path: Path, data: bytes) -> Path:
    info = PngImagePlugin.PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(data).decode())
    random_picture().save(path, pnginfo=info)
    return path


def with_pixels(path: Path, data: bytes, *, border: int = 0, **options: Any) -> Path:
    """Write what A1111 writes: two blocks of half bytes beside a picture, two black columns between."""
    height = 64
    compressed = np.frombuffer(zlib.compress(data, 9), np.uint8)
    size = -(-compressed.size // (height * 3)) * height * 3
    padded = np.resize(compressed, size)
    state, numbers = 0, []
    for _ in range(size):
        state = (1664525 * state + 1013904223) % 2**32
        numbers.append(state % 255 & 15)
    style = np.random.default_rng(0).integers(1, 16, size, dtype=np.uint8) << 4
    low, high = ((half ^ np.array(numbers, np.uint8) | style) for half in (padded & 15, padded >> 4))
    blocks = [half.reshape(height, -1, 3) for half in (low, high)]
    black = np.zeros((height, 1, 3), np.uint8)
    middle = np.asarray(random_picture((64, height))) | 1
    pixels = np.concatenate([blocks[0], black, middle, black, blocks[1]], axis=1)
    Image.fromarray(np.pad(pixels, ((border, border), (border, border), (0, 0)))).save(path, **options)
    return path


@pytest.mark.parametrize("num_vectors", [1, 3, 8])
@pytest.mark.parametrize("width", [768, 1024])
@pytest.mark.parametrize("kind", ["chunk", "pixels", "border", "webp"])
def test_pictures_of_a1111_hold_their_embedding(tmp_path: Path, kind: str, width: int, num_vectors: int) -> None:
    values = rows(width, num_vectors)
    data = a1111_json(values)
    if kind == "chunk":
        path = with_chunk(tmp_path / "mug.png", data)
    elif kind == "webp":
        path = with_pixels(tmp_path / "mug.webp", data, lossless=True, exact=True)
    else:
        path = with_pixels(tmp_path / "mug.PNG", data, border=5 if kind == "border" else 0)
    (read,) = read_embeddings(path)
    assert torch.equal(read.rows, values)
    assert read.rows.dtype == torch.float32
    assert read.placeholder_token == "mug"
    assert read.training == {"steps": 500}


def test_pictures_are_loaded_converted_and_named(pipe: Any, tmp_path: Path) -> None:
    values = rows(HIDDEN_SIZE, 3)
    path = with_pixels(tmp_path / "tea pot.png", a1111_json(values, name=None))
    (report,) = pipe.load_multitoken_inversion(path, description=False)
    assert report.placeholder_token == "<tea-pot>"
    assert torch.equal(pair_of(pipe, "text_encoder").rows("<tea-pot>"), values)
    convert_embedding(path, tmp_path / "out", format="diffusers", token="<mug>")
    assert torch.equal(read_embeddings(tmp_path / "out")[0].rows, values)


@pytest.mark.parametrize(
    "data", [b"no json", b"[]", b"5", a1111_json(rows(8), string_to_param={}), a1111_json(rows(8) / 0), b"\xff" * 99]
)
@pytest.mark.parametrize("write", [with_chunk, with_pixels])
def test_pictures_with_something_else_in_them_are_refused(tmp_path: Path, data: bytes, write: Any) -> None:
    with pytest.raises(EmbeddingFileError):
        read_embeddings(write(tmp_path / "mug.png", data))


@pytest.mark.parametrize("write", [with_chunk, with_pixels])
def test_damaged_pictures_are_read_or_refused(tmp_path: Path, write: Any) -> None:
    draw = random.Random(0)
    whole = write(tmp_path / "mug.png", a1111_json(rows(16, 2))).read_bytes()
    for number in range(200):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        (tmp_path / "damaged.png").write_bytes(data[: draw.randrange(len(data))] if number % 5 == 0 else data)
        try:
            (read,) = read_embeddings(tmp_path / "damaged.png")
        except EmbeddingFileError:
            continue
        assert torch.isfinite(read.rows).all()


def test_ordinary_pictures_hold_none(tmp_path: Path) -> None:
    random_picture().save(tmp_path / "noise.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "red.png")
    stripes = np.full((8, 64, 3), 200, np.uint8)
    stripes[:, 20:23] = stripes[:, 41:44] = 0
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    for name in ("noise", "black", "red", "stripes"):
        with pytest.raises(EmbeddingFileError, match="a picture without one"):
            read_embeddings(tmp_path / f"{name}.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(EmbeddingFileError, match="got .*empty.png', an empty file"):
        read_embeddings(tmp_path / "empty.png")


# ------------------------------------------------------------------------------------------ diffusers' own calls


@pytest.mark.parametrize("num_tokens", [2, 3, 5])
def test_rows_and_as_many_tokens_are_as_many_concepts(pipe: Any, num_tokens: int) -> None:
    made = rows(HIDDEN_SIZE, num_tokens)
    tokens = [f"<s{index}>" for index in range(num_tokens)]
    reports = pipe.load_multitoken_inversion(torch.stack(list(made)), token=tokens, description=False)
    assert [report.placeholder_token for report in reports] == tokens
    for token, row in zip(tokens, made, strict=True):
        assert torch.equal(pair_of(pipe, "text_encoder").rows(token), row[None])


@pytest.mark.parametrize(
    ("source", "tokens", "message"),
    [
        (rows(HIDDEN_SIZE, 3), ["<a>", "<b>"], "one for each of 1 concepts or for each of its 3 rows, got 2"),
        ({"<mug>": rows(HIDDEN_SIZE, 2)}, ["<a>", "<b>"], "token: expected one for each of 1 concepts, got 2"),
        ([rows(HIDDEN_SIZE, 2), rows(HIDDEN_SIZE, 2)], ["<a>", "<b>", "<c>"], "one for each of 2 concepts, got 3"),
    ],
)
def test_other_numbers_of_tokens_are_refused(
    pipe: Any, source: Any, tokens: list[str], message: str, unchanged: Callable[[Any], None]
) -> None:
    unchanged(pipe)
    with pytest.raises(ConceptLoadError, match=message):
        pipe.load_multitoken_inversion(source, token=tokens)


def test_the_calls_of_diffusers_advanced_scripts(tmp_path: Path) -> None:
    """Their model card: one call per text encoder, with the component and its tokenizer, a token per row."""
    pipe = FAMILY["stable_diffusion_xl"].build()
    first, second = pair_of(pipe, "text_encoder"), pair_of(pipe, "text_encoder_2")
    state = {"clip_l": rows_for(first, 2), "clip_g": rows_for(second, 2, seed=1)}
    tokens = ["<s0>", "<s1>"]
    pipe.load_multitoken_inversion(
        state["clip_l"], token=tokens, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
    )
    pipe.load_multitoken_inversion(
        state["clip_g"], token=tokens, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
    )
    for pair, wanted in ((first, state["clip_l"]), (second, state["clip_g"])):
        for index, token in enumerate(tokens):
            assert torch.equal(pair.rows(token), wanted[index : index + 1])
        assert pair.tokenizer("a <s0><s1>").input_ids[-3:-1] == [pair.row_ids(token)[0] for token in tokens]


def test_one_call_with_the_file_of_the_advanced_scripts_and_a_token_per_row(tmp_path: Path) -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    pairs = {"clip_l": pair_of(pipe, "text_encoder"), "clip_g": pair_of(pipe, "text_encoder_2")}
    state = {key: rows_for(pair, 2) for key, pair in pairs.items()}
    if len({pair.hidden_size for pair in pairs.values()}) == 1:
        pytest.skip("the tiny text encoders have one width")
    safetensors.torch.save_file(state, tmp_path / "mug_emb.safetensors")
    reports = pipe.load_multitoken_inversion(tmp_path / "mug_emb.safetensors", token=["<s0>", "<s1>"])
    assert [report.loaded for report in reports] == [("text_encoder", "text_encoder_2")] * 2


def test_components_of_another_pipeline_are_refused_without_their_repr(
    pipe: Any, other_pipe: Any, unchanged: Callable[[Any], None]
) -> None:
    unchanged(pipe)
    made = rows(HIDDEN_SIZE)
    for options, message in [
        (
            {"text_encoder": other_pipe.text_encoder},
            r"or its name \(text_encoder\), got a CLIPTextModel",
        ),
        ({"tokenizer": other_pipe.tokenizer}, "tokenizer: expected the tokenizer of a text encoder of this pipeline"),
        (
            {"text_encoder": pipe.text_encoder, "tokenizer": other_pipe.tokenizer},
            "expected the tokenizer of text_encoder",
        ),
        ({"text_encoder": 5}, "got 5, which is not one of them"),
    ]:
        with pytest.raises(ConceptLoadError, match=message) as info:
            pipe.load_multitoken_inversion(made, token="<mug>", **options)
        assert "\n" not in str(info.value)
        assert len(str(info.value)) < 300


def test_a_compiled_text_encoder_is_the_same_component(pipe: Any) -> None:
    compiled = torch.compile(pipe.text_encoder)
    (report,) = pipe.load_multitoken_inversion(rows(HIDDEN_SIZE), token="<mug>", text_encoder=compiled)
    assert report.loaded == ("text_encoder",)


# ------------------------------------------------------------------------------------------ ComfyUI's prompts


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a photo of embedding:mug", "a photo of <mug>"),
        ("a photo of embedding:mug.", "a photo of <mug>."),
        ("embedding:mug, on a beach", "<mug>, on a beach"),
        ("embedding:mug.safetensors", "<mug>"),
        ("embedding:mug.pt and embedding:MUG", "<mug> and <mug>"),
        ("(embedding:mug:1.2)", "(<mug>:1.2)"),
        ("embedding:<mug>", "<mug>"),
        ("Embedding:zmg-x", "zmg-x"),
        ("embedding:café", "<café>"),
        ("embedding:cafe\u0301", "<café>"),
    ],
)
def test_prompts_of_comfyui_lead_to_the_rows(pipe: Any, prompt: str, read: str) -> None:
    for token in ("<mug>", "zmg-x", "<café>"):
        pipe.load_multitoken_inversion({token: rows(HIDDEN_SIZE)}, description=False)
    assert pipe.tokenizer(prompt).input_ids == pipe.tokenizer(read).input_ids
    assert pipe.tokenizer._expand(pipe.tokenizer._expand(prompt)) == pipe.tokenizer._expand(prompt)


@pytest.mark.parametrize("prompt", ["embedding:mugg", "my_embedding:mug", "embedding: mug", "an embedding:"])
def test_what_comfyui_would_not_read_stays_as_it_is(pipe: Any, prompt: str) -> None:
    pipe.load_multitoken_inversion({"<mug>": rows(HIDDEN_SIZE)}, description=False)
    assert pipe.tokenizer._expand(prompt) == prompt


# ------------------------------------------------------------------------------------------ the file's own name


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("mug.safetensors", "<mug>"),
        ("EasyNegative.pt", "<EasyNegative>"),
        ("tea pot v2.bin", "<tea-pot-v2>"),
        ("<mug>.safetensors", "<mug>"),
        ("cafe\u0301.safetensors", "<café>"),
        ("杯子.safetensors", "<杯子>"),
        ("bad-hands.v1.safetensors", "<bad-hands.v1>"),
    ],
)
@pytest.mark.parametrize("key", ["emb_params", "emp_params", "clip_l"])
def test_a_file_without_a_name_gives_its_own(
    pipe: Any, tmp_path: Path, name: str, token: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = rows(HIDDEN_SIZE)
    save = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    save({key: made}, tmp_path / name)  # type: ignore[operator]
    (report,) = pipe.load_multitoken_inversion(tmp_path / name, allow_pickle=True, description=False)
    assert report.placeholder_token == token
    assert torch.equal(pair_of(pipe, "text_encoder").rows(token), made)
    assert f"does not name its concept, which becomes {token}" in caplog.text
    caplog.clear()
    (report,) = pipe.load_multitoken_inversion(tmp_path / name, token="<x>", allow_pickle=True, description=False)
    assert report.placeholder_token == "<x>"
    assert "does not name" not in caplog.text


@pytest.mark.parametrize("name", ["learned_embeds.safetensors", "embeddings.pti", "model.safetensors"])
def test_names_that_any_concept_could_have_are_no_names(
    pipe: Any, tmp_path: Path, name: str, unchanged: Callable[[Any], None]
) -> None:
    safetensors.torch.save_file({"emb_params": rows(HIDDEN_SIZE)}, tmp_path / name)
    unchanged(pipe)
    with pytest.raises(EmbeddingFileError, match="does not name its concept; pass e.g. token="):
        pipe.load_multitoken_inversion(tmp_path / name)
