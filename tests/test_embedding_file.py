"""The file of a concept: what is written, what is read, what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import HIDDEN_SIZE
from safetensors import safe_open

from diffusers_supreme_init import EmbeddingFileError, LearnedEmbedding, OutputError, read_embedding, write_embedding
from diffusers_supreme_init.file_names import weight_name_for
from diffusers_supreme_init.formats.embedding_file import METADATA_KEY
from diffusers_supreme_init.text.encoder_identity import EncoderIdentity

ROWS = torch.randn(3, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))


def mug(**changes: object) -> LearnedEmbedding:
    values = {
        "placeholder_token": "<mug>",
        "rows": ROWS,
        "description": "a réd mug",
        "initializer_tokens": ("a</w>", "red</w>", "mug</w>"),
        "base_model": "user/model",
        "encoder": EncoderIdentity("CLIPTextModel", HIDDEN_SIZE, "0" * 64),
        "architecture": "stable-diffusion-v1/textual-inversion",
        "training": {"steps": 100, "validation_loss": {"0": 0.1}},
    }
    return LearnedEmbedding(**(values | changes))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_embedding(tmp_path / "new" / "mug.safetensors", mug())
    read = read_embedding(path)
    assert torch.equal(read.rows, ROWS)
    assert read.rows.dtype == torch.float32
    for name in ("placeholder_token", "description", "initializer_tokens", "base_model", "encoder", "training"):
        assert getattr(read, name) == getattr(mug(), name)


def test_file_holds_one_tensor_under_the_token_and_modelspec_keys(tmp_path: Path) -> None:
    path = write_embedding(tmp_path / "mug.safetensors", mug(rows=ROWS.half()))
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["<mug>"]
        assert file.get_tensor("<mug>").dtype == torch.float32
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert metadata["modelspec.trigger_phrase"] == "<mug>"
    assert json.loads(metadata[METADATA_KEY])["description"] == "a réd mug"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_come_back_in_their_dtype_to_the_last_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = ROWS.to(dtype)
    path = write_embedding(tmp_path / "mug.safetensors", mug(rows=rows))
    read = read_embedding(path)
    assert read.rows.dtype == dtype
    assert torch.equal(read.rows, rows)
    with safe_open(path, "pt") as file:
        own = json.loads(file.metadata()[METADATA_KEY])
    assert own.get("dtype") == {torch.float16: "float16", torch.bfloat16: "bfloat16"}.get(dtype)
    assert write_embedding(tmp_path / "again.safetensors", read).read_bytes() == path.read_bytes()


def test_rows_of_other_files_keep_their_dtype(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        safetensors.torch.save_file({"<mug>": ROWS.to(dtype)}, tmp_path / "mug.safetensors")
        assert read_embedding(tmp_path / "mug.safetensors").rows.dtype == dtype


def test_float64_is_rounded_and_the_user_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ROWS.double() * torch.pi
    path = write_embedding(tmp_path / "mug.safetensors", mug(rows=rows))
    assert torch.equal(read_embedding(path).rows, rows.float())
    assert "<mug>: float64 rows are rounded to float32" in caplog.text


def test_the_key_of_an_encoder_is_kept_where_its_identity_is_unknown(tmp_path: Path) -> None:
    path = write_embedding(tmp_path / "mug.safetensors", mug(encoder=None, encoder_key="clip_g"))
    assert read_embedding(path).encoder_key == "clip_g"
    plain = write_embedding(tmp_path / "plain.safetensors", mug()).read_bytes()
    assert write_embedding(tmp_path / "keyed.safetensors", mug(encoder_key="clip_g")).read_bytes() == plain


def test_rows_are_a_copy() -> None:
    rows = ROWS.clone()
    read = read_embedding({"<mug>": rows})
    rows.zero_()
    assert torch.equal(read.rows, ROWS)


def test_equal_concepts_give_equal_bytes_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys, torch
from diffusers_supreme_init import LearnedEmbedding, write_embedding
write_embedding(sys.argv[1], LearnedEmbedding(placeholder_token="<mug>", rows=torch.ones(2, 4), description="a mug"))
"""
    environment = {**os.environ, "PYTHONHASHSEED": "random"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True, timeout=300, env=environment)
    monkeypatch.setattr("sys.argv", ["", str(tmp_path / "b")])
    exec(code, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_single_vector_counts_as_one_row() -> None:
    assert read_embedding({"<mug>": ROWS[0]}).rows.shape == (1, HIDDEN_SIZE)


@pytest.mark.parametrize(
    ("encoder_name", "file_name"),
    [
        ("text_encoder", "learned_embeds.safetensors"),
        ("text_encoder_2", "learned_embeds_2.safetensors"),
        ("text_encoder_3", "learned_embeds_3.safetensors"),
    ],
)
def test_each_encoder_has_its_file_name(encoder_name: str, file_name: str) -> None:
    assert weight_name_for(encoder_name) == file_name


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"<a>": ROWS, "<b>": ROWS.clone()}, "exactly one tensor, got 2"),
        ({"<a>": ROWS[:0]}, r"got shape \(0, 32\)"),
        ({"<a>": ROWS[None]}, r"got shape \(1, 3, 32\)"),
        ({"<a>": ROWS.long()}, "floating-point rows, got torch.int64"),
        ({"<a>": torch.full_like(ROWS, float("nan"))}, "finite rows"),
        ({"<a>": torch.full_like(ROWS, float("inf"))}, "finite rows"),
    ],
)
def test_unusable_tensors_are_refused(tmp_path: Path, tensors: dict, message: str) -> None:
    path = tmp_path / "concept.safetensors"
    safetensors.torch.save_file(tensors, path)
    for source in (path, tensors):
        with pytest.raises(EmbeddingFileError, match=message):
            read_embedding(source)


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    whole = write_embedding(tmp_path / "whole.safetensors", mug()).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-5])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    torch.save({"<mug>": ROWS}, tmp_path / "pickle.bin")
    torch.save({"<mug>": ROWS}, tmp_path / "disguised.safetensors")
    for name, message in {
        "cut": "whole safetensors file, got a damaged one",
        "empty": "whole safetensors file, got an empty file",
        "disguised": "a pickle; pickles can run code",
    }.items():
        with pytest.raises(EmbeddingFileError, match=message):
            read_embedding(tmp_path / f"{name}.safetensors")
    with pytest.raises(EmbeddingFileError, match="pickles"):
        read_embedding(tmp_path / "pickle.bin")
    with pytest.raises(EmbeddingFileError, match="does not exist"):
        read_embedding(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    "own",
    ["not json", "[]", '{"encoder": {"width": 3}}', '{"initializer_tokens": 3}', '{"dtype": "int8"}', '{"dtype": []}'],
)
def test_damaged_metadata_are_refused(tmp_path: Path, own: str) -> None:
    path = tmp_path / "concept.safetensors"
    safetensors.torch.save_file({"<mug>": ROWS}, path, metadata={METADATA_KEY: own})
    with pytest.raises(EmbeddingFileError, match="got damaged ones"):
        read_embedding(path)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "a concept with a name, got one without; pass e.g. token='<mug>'"),
        (" ", "a concept with a name"),
        ("__metadata__", "a placeholder token that can be typed, got '__metadata__'"),
        ("a\0b", "can be typed"),
        ("\ud800", "can be typed"),
    ],
)
def test_a_concept_without_a_usable_name_is_not_written(tmp_path: Path, token: str | None, message: str) -> None:
    with pytest.raises(EmbeddingFileError, match=message):
        write_embedding(tmp_path / "mug.safetensors", mug(placeholder_token=token))
    assert not list(tmp_path.iterdir())


def test_rows_that_could_not_be_read_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingFileError, match="finite rows"):
        write_embedding(tmp_path / "mug.safetensors", mug(rows=ROWS / 0))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file_and_leaves_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_embedding(tmp_path / "mug.safetensors", mug())
    before = path.read_bytes()

    def no_space_left(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space_left)
    with pytest.raises(OutputError, match="No space left on device; choose another output_dir"):
        write_embedding(path, mug(description="another"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        write_embedding(tmp_path / "file" / "mug.safetensors", mug())
