"""Every format of embeddings: as other programs write it, as we write it, and from one to another."""

import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import torch
from conftest import HIDDEN_SIZE, ROOT
from safetensors import safe_open
from torch import nn

from diffusers_supreme_init import (
    EmbeddingFileError,
    InitializerError,
    LearnedEmbedding,
    OutputError,
    SupremeInitConfig,
    SupremeInitError,
    SupremeInitTextualInversionTrainer,
)
from diffusers_supreme_init.commands import main as supreme_init
from diffusers_supreme_init.formats.conversion import convert_embedding
from diffusers_supreme_init.formats.embedding_file import read_embedding, write_embedding
from diffusers_supreme_init.formats.readers import EmbeddingFormat, read_embeddings
from diffusers_supreme_init.formats.writers import write_embeddings
from diffusers_supreme_init.text.encoder_identity import EncoderIdentity

FORMATS: tuple[EmbeddingFormat, ...] = get_args(EmbeddingFormat)
PAIRS = list(itertools.permutations(FORMATS, 2))
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def rows(num_vectors: int = 3, width: int = 768, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_vectors, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def mug(**changes: Any) -> LearnedEmbedding:
    values: dict[str, Any] = {
        "placeholder_token": "<mug>",
        "rows": rows(),
        "description": "a réd mug",
        "initializer_tokens": ("a</w>", "red</w>", "mug</w>"),
        "base_model": "user/model",
        "encoder": EncoderIdentity("CLIPTextModel", 768, "0" * 64),
        "architecture": "stable-diffusion-v1/textual-inversion",
        "training": {"steps": 100, "validation_loss": {"0": 0.1}},
    }
    return LearnedEmbedding(**(values | changes))


def sdxl(**changes: Any) -> list[LearnedEmbedding]:
    second = EncoderIdentity("CLIPTextModelWithProjection", 1280, "0" * 64)
    return [mug(**changes), mug(rows=rows(2, 1280, seed=1), encoder=second, description="a mug", **changes)]


def bare(values: torch.Tensor, token: str | None = None) -> LearnedEmbedding:
    return LearnedEmbedding(placeholder_token=token, rows=values)


def assert_equal(one: LearnedEmbedding, other: LearnedEmbedding, *, but: tuple[str, ...] = ()) -> None:
    assert one.rows.dtype == other.rows.dtype
    assert torch.equal(one.rows, other.rows)
    for name in {field.name for field in fields(one)} - {"rows", *but}:
        assert getattr(one, name) == getattr(other, name), name


def target_of(folder: Path, format_name: EmbeddingFormat) -> Path:
    return folder / {"diffusers": "folder", "a1111": "mug.pt"}.get(format_name, "mug.safetensors")


# ----------------------------------------------------------------------------- as other programs write them

CLIP_L, CLIP_G, T5 = rows(2, 768), rows(2, 1280, seed=1), rows(2, 4096, seed=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tensors", "keys", "name"),
    [
        ({"<mug>": CLIP_L}, [None], "<mug>"),
        ({"<mug>": CLIP_L[0]}, [None], "<mug>"),
        ({"emb_params": CLIP_L}, [None], None),
        ({"emb_params": CLIP_L[0]}, [None], None),
        ({"emp_params": CLIP_L}, [None], None),
        ({"clip_l": CLIP_L}, ["clip_l"], None),
        ({"clip_g": CLIP_G, "clip_l": CLIP_L}, ["clip_l", "clip_g"], None),
        ({"clip_l": CLIP_L, "t5": T5}, ["clip_l", "t5xxl"], None),
        ({"t5xxl": T5, "clip_g": CLIP_G, "clip_l": CLIP_L}, ["clip_l", "clip_g", "t5xxl"], None),
        ({"llama": T5}, ["llama"], None),
        ({"llama": CLIP_L}, [None], "llama"),
        ({"gemma": rows(2, 2304)}, ["gemma2_2b"], None),
        ({"clip_l": CLIP_L, "llama": T5}, ["clip_l", "llama"], None),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "pt", None])
def test_state_dicts_of_other_programs(
    tmp_path: Path,
    dtype: torch.dtype,
    tensors: dict[str, torch.Tensor],
    keys: list[str | None],
    name: str | None,
    suffix: str | None,
) -> None:
    tensors = {key: value.to(dtype) for key, value in tensors.items()}
    source: Any = tensors if suffix is None else tmp_path / f"mug.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(tensors, source)
    elif suffix == "pt":
        torch.save(tensors, source)
    read = read_embeddings(source, allow_pickle=True)
    assert [one.encoder_key for one in read] == keys
    assert {one.placeholder_token for one in read} == {name}
    wanted = {value.shape[-1]: value for value in tensors.values()}
    for one in read:
        assert one.rows.dtype == dtype
        assert torch.equal(one.rows, wanted[one.hidden_size].reshape(-1, one.hidden_size))
        assert one.encoder is None


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ([f"<{index}>" for index in range(12)], None),
        ([f"_v{index}" for index in range(12)], None),
        ([f"<{index + 1}>" for index in range(11)], None),
        (["<mug>", *(f"<mug>_{index}" for index in range(1, 12))], "<mug>"),
        (["v2", *(f"v2_{index}" for index in range(1, 12))], "v2"),
        (["<0>"], None),
        (["_v0"], None),
    ],
)
def test_one_key_per_row(tmp_path: Path, names: list[str], name: str | None) -> None:
    values = rows(len(names))
    shuffled = random.Random(0).sample(range(len(names)), len(names))
    # A single key with (1, hidden_size) is diffusers' own format, whose key is the name.
    for shape in [(-1,), (1, -1)] if len(names) > 1 else [(-1,)]:
        content = {names[index]: values[index].reshape(shape).clone() for index in shuffled}
        torch.save(content, tmp_path / "learned_embeds.bin")
        (read,) = read_embeddings(tmp_path / "learned_embeds.bin", allow_pickle=True)
        assert torch.equal(read.rows, values)
        assert read.placeholder_token == name


@pytest.mark.parametrize(
    "tensors",
    [
        {"<a>": CLIP_L, "<b>": CLIP_L.clone()},
        {"<a>": CLIP_L[0], "<b>": CLIP_L[1]},
        {"<0>": CLIP_L[0], "<2>": CLIP_L[1]},
        {"<0>": CLIP_L[0], "<00>": CLIP_L[1]},
        {"<0>": CLIP_L[0], "_v1": CLIP_L[1]},
        {"<0>": CLIP_L[0], "<1>": CLIP_G[1]},
        {"<0>": CLIP_L[0], "<1>": CLIP_L},
        {"<0>": CLIP_L[0], "<1>": CLIP_L[1].half()},
        {"<mug>": CLIP_L[0], "<mug>_2": CLIP_L[1]},
        {"clip_l": CLIP_L, "<mug>": CLIP_L},
        {"emb_params": CLIP_L, "emp_params": CLIP_L},
        {"<mug1>": CLIP_L[0], "<mug2>": CLIP_L[1]},
    ],
)
def test_several_tensors_that_are_no_known_format_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(EmbeddingFileError, match=r"exactly one tensor, got 2 .*pass one of them as a state dict"):
        read_embeddings(tensors)


@pytest.mark.parametrize(
    ("tensors", "names"),
    [
        ({"emp_params": CLIP_L, "emp_params_out": CLIP_L}, "emp_params_out"),
        ({"clip_l": CLIP_L, "clip_g": CLIP_G, "clip_l_out": CLIP_L, "clip_g_out": CLIP_G}, "clip_l_out, clip_g_out"),
        ({"t5_out": T5}, "t5_out"),
    ],
)
def test_output_embeddings_of_onetrainer_are_refused(tensors: dict[str, torch.Tensor], names: str) -> None:
    with pytest.raises(EmbeddingFileError, match=rf"output embeddings \({names}\)"):
        read_embeddings(tensors)


def of_a1111(**changes: Any) -> dict[str, Any]:
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": CLIP_L},
        "name": "mug",
        "step": 500,
        "sd_checkpoint": "cc6cb27103",
        "sd_checkpoint_name": "v1-5-pruned",
    } | changes


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (of_a1111(), "mug"),
        (of_a1111(name=None), None),
        (of_a1111(string_to_param={"<toy>": CLIP_L}), "<toy>"),
        (of_a1111(string_to_param=nn.ParameterDict({"*": nn.Parameter(CLIP_L)})), "mug"),
        (
            {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": nn.ParameterDict({"*": CLIP_L.half()})},
            None,
        ),
    ],
)
def test_pickles_of_a1111_and_rinongal(tmp_path: Path, content: dict[str, Any], name: str | None) -> None:
    torch.save(content, tmp_path / "mug.pt")
    sources: list[Any] = [tmp_path / "mug.pt", tmp_path / "old.pt", content]
    if isinstance(content["string_to_param"], dict):
        torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    else:
        vars(content["string_to_param"]).pop("_keys")  # as before torch 1.12
        torch.save(content, tmp_path / "old.pt")
    for source in sources:
        (read,) = read_embeddings(source, allow_pickle=True)
        assert torch.equal(read.rows.float(), CLIP_L.to(read.rows.dtype).float())
        assert not read.rows.requires_grad
        assert read.placeholder_token == name
        assert read.training == ({"steps": 500} if "step" in content else {})
    assert nn.ParameterDict not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (of_a1111(string_to_param={}), "one entry in string_to_param, got 0 entries"),
        (of_a1111(string_to_param={"*": CLIP_L, "@": CLIP_L}), "got 2 entries"),
        (of_a1111(string_to_param=CLIP_L), "got Tensor"),
        (of_a1111(string_to_param={"*": None}), "expected a tensor, got NoneType"),
        (of_a1111(string_to_param={5: CLIP_L}), "a text as name, got '5'"),
        (of_a1111(name=["mug"]), "a text as name"),
        (of_a1111(diffusers_supreme_init=5), "got damaged ones"),
    ],
)
def test_damaged_content_of_a1111_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(EmbeddingFileError, match=message):
        read_embeddings(content)


# --------------------------------------------------------------------------------------------------- pickles


class _RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", ["pt", "bin", "ckpt", "pth", "PT"])
def test_pickles_are_opened_only_when_asked_and_never_run(tmp_path: Path, suffix: str) -> None:
    harmless, evil = tmp_path / f"harmless.{suffix}", tmp_path / f"evil.{suffix}"
    torch.save({"<mug>": CLIP_L}, harmless)
    torch.save({"<mug>": CLIP_L, "more": _RunsCode(tmp_path / "ran")}, evil)
    for path in (harmless, evil):
        with pytest.raises(
            EmbeddingFileError, match=r"is a pickle, .*run code.*allow_pickle=True.*supreme-init convert"
        ):
            read_embeddings(path)
    assert read_embeddings(harmless, allow_pickle=True)[0].placeholder_token == "<mug>"
    with pytest.raises(EmbeddingFileError, match="got one that asks for posix.system"):
        read_embeddings(evil, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CLIP_L, "expected a pickle of a dict, got Tensor"),
        ([CLIP_L], "expected a pickle of a dict, got list"),
        (5, "expected a pickle of a dict, got int"),
        (None, "expected a pickle of a dict, got NoneType"),
        ({}, r"expected exactly one tensor, got 0 \(\); pass one of them as a state dict"),
        ({"<mug>": "no tensor"}, r"expected {placeholder_token: tensor}, got {'<mug>': str}"),
        ({5: CLIP_L}, "expected texts as keys, got '5'"),
    ],
)
def test_pickles_of_something_else_are_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "mug.pt")
    with pytest.raises(EmbeddingFileError, match=message):
        read_embeddings(tmp_path / "mug.pt", allow_pickle=True)


def test_files_of_another_kind_than_their_name_says_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "text.pt").write_text("no pickle")
    (tmp_path / "picture.png").write_bytes(b"")
    safetensors.torch.save_file({"<mug>": CLIP_L}, tmp_path / "really_safetensors.pt")
    torch.save({"<mug>": CLIP_L}, tmp_path / "really_pickle.safetensors")
    for name, message in {
        "folder.safetensors": "expected learned_embeds.safetensors in",
        "text.pt": "pickle of tensors and plain values, got a text file",
        "picture.png": "or a picture with an embedding of A1111 in it, got .*picture.png', an empty file",
        "really_safetensors.pt": "pickle of tensors and plain values, got a safetensors file; give it the suffix",
        "really_pickle.safetensors": "a pickle; pickles can run code",
        "nowhere.pt": "does not exist",
        "nowhere": "does not exist",
        "n" * 5000 + ".pt": "does not exist",
        "n" * 5000: "does not exist",
    }.items():
        with pytest.raises(EmbeddingFileError, match=message):
            read_embeddings(tmp_path / name, allow_pickle=True)


# ------------------------------------------------------------------------------------- unusable tensors, fuzz


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.tensor(1.0), r"got shape \(\)"),
        (CLIP_L[None], r"got shape \(1, 2, 768\)"),
        (CLIP_L[:0], r"got shape \(0, 768\)"),
        (CLIP_L.long(), "floating-point rows, got torch.int64"),
        (CLIP_L.to(torch.float8_e4m3fn), "floating-point rows, got torch.float8_e4m3fn"),
        (CLIP_L.to(torch.complex64), "floating-point rows, got torch.complex64"),
        (CLIP_L / 0, "finite rows"),
        (CLIP_L.double() * 1e300, "finite rows"),
        (CLIP_L.to_sparse(), "dense tensor"),
        (CLIP_L.to("meta"), "dense tensor"),
        ([0.0], "got list|got {'.*': list}"),
    ],
)
@pytest.mark.parametrize("key", ["<mug>", "clip_l", "emb_params", "<0>"])
def test_unusable_tensors_are_refused_in_every_format(values: Any, message: str, key: str) -> None:
    for content in ({key: values}, of_a1111(string_to_param={"*": values})):
        with pytest.raises(EmbeddingFileError, match=message if key in content else "expected"):
            read_embeddings(content)


@pytest.mark.filterwarnings("ignore:.*quantized tensor:UserWarning")
def test_quantised_tensors_are_refused() -> None:
    with pytest.raises(EmbeddingFileError, match="dense tensor"):
        read_embeddings({"<0>": torch.quantize_per_tensor(CLIP_L[0], 0.1, 0, torch.qint8)})


def _junk(draw: random.Random, depth: int = 0) -> Any:
    leaves: list[Callable[[], Any]] = [
        lambda: draw.choice([None, True, -1, 2**70, float("nan"), "", "*", "\ud800", b"\xff", (), torch.float16]),
        lambda: torch.full([draw.randrange(3) for _ in range(draw.randrange(4))], draw.choice([0.0, float("inf")])),
        lambda: torch.zeros(2, 4, dtype=draw.choice([torch.int8, torch.bool, torch.float64, torch.float8_e5m2])),
        lambda: torch.zeros(2, 4).to_sparse(),
    ]
    if depth > 2 or draw.random() < 0.6:
        return draw.choice(leaves)()
    keys = ["string_to_param", "name", "step", "clip_l", "clip_l_out", "emb_params", "<0>", "<1>", "<m>", "<m>_1", 7]
    chosen = draw.sample(keys, draw.randrange(4))
    return {key: _junk(draw, depth + 1) for key in chosen} if draw.random() < 0.8 else [_junk(draw, depth + 1)]


def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path: Path) -> None:
    draw = random.Random(0)
    (whole,) = write_embeddings(tmp_path / "mug.safetensors", [mug(rows=rows(2, 768))], "comfyui")
    own = write_embedding(tmp_path / "own.safetensors", mug())
    (pickled,) = write_embeddings(tmp_path / "mug.pt", [mug()], "a1111")
    outcomes = set()
    for number in range(600):
        path = draw.choice([whole, own, pickled])
        data, mutated = bytearray(path.read_bytes()), tmp_path / f"mutated{path.suffix}"
        head = len(data) if path is pickled else 8 + int.from_bytes(data[:8], "little")
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(head)] = draw.randrange(256)
        mutated.write_bytes(data[: draw.randrange(len(data))] if number % 7 == 0 else data)
        content = _junk(draw)
        torch.save(content, tmp_path / "junk.pt")
        for source in (mutated, tmp_path / "junk.pt", *([content] if isinstance(content, dict) else [])):
            try:
                for embedding in read_embeddings(source, allow_pickle=True):
                    assert embedding.rows.ndim == 2
                    assert torch.isfinite(embedding.rows.float()).all()
                    write_embedding(tmp_path / "again.safetensors", replace(embedding, placeholder_token="<mug>"))
                outcomes.add("read")
            except EmbeddingFileError:
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# ------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_vectors", [1, 3, 11])
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_round_trips_of_one_encoder_lose_nothing(
    tmp_path: Path, one: EmbeddingFormat, other: EmbeddingFormat, num_vectors: int, dtype: torch.dtype
) -> None:
    original = mug(rows=rows(num_vectors, dtype=dtype), initializer_tokens=("a</w>",) * num_vectors)
    (first,) = write_embeddings(target_of(tmp_path / "first", one), [original], one)
    (second,) = convert_embedding(first, target_of(tmp_path / "second", other), format=other, allow_pickle=True)
    (third,) = convert_embedding(second, target_of(tmp_path / "third", one), format=one, allow_pickle=True)
    assert third.read_bytes() == first.read_bytes()
    for path, format_name in ((first, one), (second, other)):
        (read,) = read_embeddings(path, allow_pickle=True)
        assert_equal(read, original, but=("encoder_key",))
        assert read.encoder_key == ("clip_l" if format_name == "comfyui" else None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_round_trips_of_nameless_foreign_files_keep_tensors_and_keys(
    tmp_path: Path, one: EmbeddingFormat, other: EmbeddingFormat, dtype: torch.dtype
) -> None:
    values = rows(11, dtype=dtype)
    content: dict[str, Any] = {
        "diffusers": {"<mug>": values},
        "comfyui": {"clip_l": values},
        "kohya": {"emb_params": values},
        "onetrainer": {"emp_params": values},
        "a1111": of_a1111(string_to_param={"*": values}, name=None),
        "per-token": {f"<{index}>": values[index] for index in range(11)},
    }[one]
    keys = ["clip_l"] if "comfyui" in (one, other) else None
    token = "<mug>" if "diffusers" in (one, other) else None
    second = convert_embedding(
        content, target_of(tmp_path / "second", other), format=other, encoder_keys=keys, token=token
    )
    target = tmp_path / ("third" if one == "diffusers" else "third.pt")
    (third,) = convert_embedding(second[0], target, format=one, allow_pickle=True)
    is_ours = one == "diffusers"
    back: Any = {"<mug>": read_embedding(third).rows} if is_ours else torch.load(third, weights_only=True)
    if one == "a1111":
        content, back = content["string_to_param"], back["string_to_param"]
    if one == "per-token" and token is not None:  # it has a name by now
        content = {"<mug>" + (f"_{index}" if index else ""): values[index] for index in range(11)}
    assert list(back) == list(content)
    for key, value in content.items():
        assert back[key].dtype == dtype
        assert torch.equal(back[key], value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sdxl_goes_from_diffusers_to_comfyui_and_back(tmp_path: Path, dtype: torch.dtype) -> None:
    original = [replace(one, rows=one.rows.to(dtype)) for one in sdxl()]
    ours = write_embeddings(tmp_path / "ours", original, "diffusers")
    assert [path.name for path in ours] == ["learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    (comfy,) = convert_embedding(tmp_path / "ours", tmp_path / "mug.safetensors", format="comfyui")
    with safe_open(comfy, "pt") as file:
        assert sorted(file.keys()) == ["clip_g", "clip_l"]
        assert file.get_tensor("clip_g").dtype == dtype
    for read, wanted in zip(read_embeddings(comfy), original, strict=True):
        assert_equal(read, wanted, but=("encoder_key",))
    back = convert_embedding(comfy, tmp_path / "back", format="diffusers")
    assert [path.read_bytes() for path in back] == [path.read_bytes() for path in ours]


@pytest.mark.parametrize("dtype", DTYPES)
def test_foreign_sdxl_goes_to_diffusers_and_back(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"clip_l": CLIP_L.to(dtype), "clip_g": CLIP_G.to(dtype)}
    safetensors.torch.save_file(tensors, tmp_path / "foreign.safetensors")
    convert_embedding(tmp_path / "foreign.safetensors", tmp_path / "ours", format="diffusers", token="<mug>")
    (back,) = convert_embedding(tmp_path / "ours", tmp_path / "back.safetensors", format="comfyui")
    found = safetensors.torch.load_file(back)
    assert set(found) == set(tensors)
    for key, value in tensors.items():
        assert found[key].dtype == dtype
        assert torch.equal(found[key], value)


@pytest.mark.parametrize(
    ("keys", "numbers"),
    [
        (["clip_l"], [1]),
        (["clip_g"], [2]),
        (["clip_l", "clip_g"], [1, 2]),
        (["clip_l", "t5xxl"], [1, 2]),
        (["t5xxl"], [2]),
        (["clip_g", "t5xxl"], [2, 3]),
        (["clip_l", "clip_g", "t5xxl"], [1, 2, 3]),
        (["clip_l", "clip_g", "t5xxl", "llama"], [1, 2, 3, 4]),
        (["clip_l", "llama"], [2, 1]),
        (["clip_h"], [1]),
        (["gemma2_2b"], [1]),
        ([None], [1]),
        ([None, None], [1, 2]),
    ],
)
def test_files_are_numbered_like_the_text_encoders_of_pipelines(
    tmp_path: Path, keys: list[str | None], numbers: list[int]
) -> None:
    embeddings = [replace(bare(rows(1, 8), "<mug>"), encoder_key=key) for key in keys]
    files = write_embeddings(tmp_path, embeddings, "diffusers")
    assert [path.name for path in files] == [
        "learned_embeds.safetensors" if number == 1 else f"learned_embeds_{number}.safetensors" for number in numbers
    ]


def test_stock_diffusers_reads_what_is_converted(tmp_path: Path, pipe: Any) -> None:
    values = rows(3, HIDDEN_SIZE)
    torch.save(of_a1111(string_to_param={"*": values}), tmp_path / "mug.pt")
    convert_embedding(tmp_path / "mug.pt", tmp_path / "mug", format="diffusers", token="<mug>", allow_pickle=True)
    pipe.load_textual_inversion(str(tmp_path / "mug"))
    ids = pipe.tokenizer.convert_tokens_to_ids(["<mug>", "<mug>_1", "<mug>_2"])
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[ids], values)


def test_equal_concepts_give_equal_bytes_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys, torch
from diffusers_supreme_init import LearnedEmbedding
from diffusers_supreme_init.formats.writers import write_embeddings
training = {"b": 1, "a": 2}
mug = LearnedEmbedding(placeholder_token="<mug>", rows=torch.ones(2, 768), encoder_key="clip_l", training=training)
for name in sys.argv[2:]:
    write_embeddings(f"{sys.argv[1]}/{name}", [mug], name.partition(".")[0])
"""
    suffixes = {"diffusers": [".safetensors"], "a1111": [".pt"]}
    names = [name + suffix for name in FORMATS for suffix in suffixes.get(name, [".safetensors", ".pt"])]
    command = [sys.executable, "-c", code, str(tmp_path / "other"), *names]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "PYTHONHASHSEED": "random"})
    monkeypatch.setattr("sys.argv", ["", str(tmp_path / "this"), *names])
    exec(code, {})
    for name in names:
        assert (tmp_path / "this" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("format_name", ["kohya", "per-token"])
def test_two_text_encoders_do_not_fit_where_there_is_room_for_one(
    tmp_path: Path, format_name: EmbeddingFormat
) -> None:
    with pytest.raises(EmbeddingFileError, match=rf"{format_name}: expected one text encoder, got 2; write format="):
        write_embeddings(target_of(tmp_path, format_name), sdxl(), format_name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "embeddings", "format_name", "message"),
    [
        ("mug", [mug()], "safetensors", "format: expected one of diffusers, comfyui, .*, got 'safetensors'"),
        ("mug", [], "diffusers", r"embeddings of one concept, got \[\]"),
        ("mug", [mug(), mug(placeholder_token="<cup>")], "diffusers", r"of one concept, got \['<mug>', '<cup>'\]"),
        ("mug", [bare(CLIP_L)], "diffusers", "a concept with a name, got one without; pass e.g. token='<mug>'"),
        ("mug", [bare(CLIP_L, " ")], "diffusers", "a concept with a name"),
        ("mug", [bare(CLIP_L, "a\nb")], "diffusers", r"can be typed, got 'a\\nb'"),
        ("mug.safetensors", [bare(CLIP_L, "__metadata__")], "per-token", "can be typed"),
        ("mug.safetensors", sdxl(), "diffusers", "expected a folder for 2 text encoders"),
        ("mug.pt", [mug()], "diffusers", "expected a folder or a .safetensors file as target, got '.*mug.pt'"),
        ("mug.bin", [mug()], "invoke-training", "expected a folder or a .safetensors file"),
        ("mug", [mug()], "kohya", "a target that ends in .safetensors .*, got '.*mug'"),
        ("mug.safetensors", [mug()], "a1111", "a1111: expected a target that ends in .pt"),
        (
            "mug.safetensors",
            [bare(CLIP_L)],
            "comfyui",
            r"a text encoder of width 768; pass e.g. encoder_keys=\['clip_l'\]",
        ),
        ("mug.safetensors", [mug(encoder=EncoderIdentity("X", 768, ""))], "comfyui", "got a X of width 768"),
        ("mug.safetensors", [mug(), mug()], "comfyui", "a different, known text encoder for each"),
        ("mug.safetensors", [mug(rows=CLIP_L / 0)], "comfyui", "finite rows"),
    ],
)
def test_what_a_format_cannot_hold_is_not_written(
    tmp_path: Path, name: str, embeddings: list[LearnedEmbedding], format_name: Any, message: str
) -> None:
    with pytest.raises(EmbeddingFileError, match=message):
        write_embeddings(tmp_path / name, embeddings, format_name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keys", [["clip_l", "clip_g"], ["clip_x"], [], "clip_x"])
def test_unusable_encoder_keys_are_refused(tmp_path: Path, keys: Any) -> None:
    with pytest.raises(EmbeddingFileError, match="encoder_keys: expected 1 of clip_l, clip_g, .*, got"):
        convert_embedding({"<mug>": CLIP_L}, tmp_path / "a.safetensors", format="comfyui", encoder_keys=keys)


def test_nothing_that_exists_is_replaced_unasked_and_the_source_never(tmp_path: Path) -> None:
    (source,) = write_embeddings(tmp_path / "mug.safetensors", [bare(CLIP_L)], "kohya")
    before = source.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="it is the source; choose another target"):
            convert_embedding(source, source, format="onetrainer", overwrite=overwrite)
    assert source.read_bytes() == before
    other = tmp_path / "other.safetensors"
    other.write_text("mine")
    with pytest.raises(OutputError, match="it exists; pass overwrite=True"):
        convert_embedding(source, other, format="onetrainer")
    assert other.read_text() == "mine"
    assert convert_embedding(source, other, format="onetrainer", overwrite=True) == [other]
    ours = tmp_path / "ours"
    write_embeddings(ours, sdxl(), "diffusers")
    with pytest.raises(OutputError, match="it is the source"):
        convert_embedding(ours, ours, format="diffusers", token="<cup>", overwrite=True)
    with pytest.raises(OutputError, match="learned_embeds_2.safetensors would become part of the concept"):
        convert_embedding(source, ours, format="diffusers", token="<cup>", overwrite=True)
    assert read_embeddings(ours)[0].placeholder_token == "<mug>"


def test_a_new_name_is_written(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "ours", sdxl(), "diffusers")
    (comfy,) = convert_embedding(tmp_path / "ours", tmp_path / "cup.safetensors", format="comfyui", token="<cup>")
    for read, wanted in zip(read_embeddings(comfy), sdxl(placeholder_token="<cup>"), strict=True):
        assert_equal(read, wanted, but=("encoder_key",))
    with pytest.raises(EmbeddingFileError, match="got one without; pass e.g. token='<mug>'"):
        convert_embedding({"emb_params": CLIP_L}, tmp_path / "nameless", format="diffusers")


def test_what_gets_lost_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_embeddings(tmp_path / "mug.pt", [mug()], "kohya")
    assert "this pickle has no room for the description" in caplog.text
    write_embedding(tmp_path / "mug.safetensors", mug(rows=rows().double()))
    assert "<mug>: float64 rows are rounded to float32" in caplog.text


@pytest.mark.parametrize("format_name", ["comfyui", "kohya", "onetrainer", "a1111", "per-token"])
def test_float64_survives_where_the_format_has_it(tmp_path: Path, format_name: EmbeddingFormat) -> None:
    original = mug(rows=rows(dtype=torch.float64) * torch.pi)
    (path,) = write_embeddings(target_of(tmp_path, format_name), [original], format_name)
    assert_equal(read_embeddings(path, allow_pickle=True)[0], original, but=("encoder_key",))


def test_training_goes_on_from_a_foreign_file(pipe: Any, tmp_path: Path, picture_path: Path) -> None:
    values = {"clip_l": rows(3, HIDDEN_SIZE, torch.float16), "clip_g": rows(2, 1280)}
    safetensors.torch.save_file(values, tmp_path / "mug.safetensors")

    def trained(**options: Any) -> torch.Tensor:
        config = SupremeInitConfig(max_train_steps=1, learning_rate=1e-12, validation_samples=2)
        trainer = SupremeInitTextualInversionTrainer(
            pipe, images=picture_path, placeholder_token="<mug>", config=config, **options
        )
        learned = trainer.train()[0].rows["text_encoder"]
        pipe.unload_multitoken_inversion()
        return learned

    found = trained(initializer=tmp_path / "mug.safetensors")
    assert found.dtype == torch.float32
    assert torch.allclose(found, values["clip_l"].float(), atol=1e-6)
    twice = {"clip_l": rows(3, HIDDEN_SIZE), "clip_g": rows(2, HIDDEN_SIZE)}
    safetensors.torch.save_file(twice, tmp_path / "twice.safetensors")
    with pytest.raises(InitializerError, match="expected one embedding of width 32 in .*, got 2; pass a file for one"):
        trained(initializer=tmp_path / "twice.safetensors")


# ------------------------------------------------------------------------------------------------ the example


def run_example(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "convert.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_example_converts_and_says_what_it_wrote(tmp_path: Path) -> None:
    torch.save(of_a1111(string_to_param={"*": CLIP_L.half()}), tmp_path / "mug.pt")
    run = run_example(
        tmp_path / "mug.pt", tmp_path / "mug", "--format", "diffusers", "--token", "<mug>", "--allow_pickle"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{tmp_path / 'mug' / 'learned_embeds.safetensors'}: <mug> (2, 768) float16\n"
    assert torch.equal(read_embedding(tmp_path / "mug" / "learned_embeds.safetensors").rows, CLIP_L.half())


def test_mistakes_on_the_command_line_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"emb_params": CLIP_L}, tmp_path / "mug.pt")
    source, target = str(tmp_path / "mug.pt"), str(tmp_path / "out")
    for arguments, message in [
        ([], "error: expected a file or folder to read and one to write"),
        ([source], "error: expected a file or folder to read and one to write"),
        ([source, target, "--format", "ckpt"], "error: format: expected one of diffusers, comfyui, .*, got 'ckpt'"),
        ([source, target, "--format", "kohya", "--pickle"], "error: unknown option '--pickle'"),
        ([source, target, "--format", "kohya"], "error: .* is a pickle"),
        ([source, target, "--format", "diffusers", "--allow_pickle"], "error: .* pass e.g. --token '<mug>'"),
        ([source, source, "--format", "a1111", "--allow_pickle"], "error: .* it is the source"),
    ]:
        assert supreme_init(["convert", *arguments]) in (1, 2)
        said = capsys.readouterr().err
        assert re.match(message, said)
        assert said.count("\n") == 1
    arguments = [source, str(tmp_path / "mug.safetensors"), "--format", "comfyui", "--allow_pickle", "--encoder_keys"]
    assert supreme_init(["convert", *arguments, "clip_h"]) == 0
    assert capsys.readouterr().out.endswith("mug.safetensors: without a name clip_h (2, 768) float32\n")


# -------------------------------------------------------------------------------- what the metadata look like


def test_metadata_of_foreign_formats_are_one_object_per_text_encoder(tmp_path: Path) -> None:
    (path,) = write_embeddings(tmp_path / "mug.safetensors", sdxl(), "comfyui")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert set(metadata) == {"format", "diffusers_supreme_init.clip_l", "diffusers_supreme_init.clip_g"}
    assert json.loads(metadata["diffusers_supreme_init.clip_g"])["placeholder_token"] == "<mug>"


@pytest.mark.parametrize(
    "own",
    [
        "not json",
        "[]",
        "[" * 100_000,
        '{"description": 5}',
        '{"description": "\\ud800"}',
        '{"placeholder_token": ["<mug>"]}',
        '{"initializer_tokens": "abc"}',
        '{"initializer_tokens": [null]}',
        '{"training": []}',
        '{"encoder": {"class_name": "CLIPTextModel", "hidden_size": 1024, "vocabulary": ""}}',
        '{"encoder": {"class_name": "CLIPTextModel", "hidden_size": "768", "vocabulary": ""}}',
        '{"dtype": "int8"}',
        '{"dtype": []}',
    ],
)
def test_damaged_metadata_are_refused(tmp_path: Path, own: str) -> None:
    for key, metadata_key in (("<mug>", "diffusers_supreme_init"), ("clip_l", "diffusers_supreme_init.clip_l")):
        path = tmp_path / "concept.safetensors"
        safetensors.torch.save_file({key: CLIP_L}, path, metadata={metadata_key: own})
        with pytest.raises(SupremeInitError, match="expected metadata of this package, got damaged ones"):
            read_embeddings(path)
