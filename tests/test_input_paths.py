"""Paths, addresses and files of other kinds where words, folders or Hub ids are expected."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import HIDDEN_SIZE, random_picture
from torch import nn

from diffusers_supreme_init import (
    Concept,
    ConceptLoadError,
    ConfigError,
    EmbeddingFileError,
    InitializerError,
    LearnedEmbedding,
    OutputError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    check_writable,
    convert_embedding,
    read_embedding,
    read_embeddings,
    write_embedding,
)
from diffusers_supreme_init.inputs.file_kinds import kind_of_file
from diffusers_supreme_init.inputs.paths import looks_like_path

ROWS = torch.randn(2, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))


def make_trainer(pipe: Any, **concept: Any) -> SupremeInitTextualInversionTrainer:
    values = {"images": random_picture(), "placeholder_token": "<mug>", "initializer": "a mug"} | concept
    config = SupremeInitConfig(max_train_steps=1, validation_samples=0)
    return SupremeInitTextualInversionTrainer(pipe, concepts=[Concept(**values)], config=config)


@pytest.mark.parametrize(
    "path",
    [
        "out/mugg",
        "user/mug",
        "user/mug@main",
        "./mug",
        "../mug",
        "~/mug",
        "~",
        "/home/me/my mug",
        "C:/mug",
        "c:\\my mug",
        "photos\\mug",
        "runs/2024/red mug",
        "emb.pt",
        "secret.pt .. ~/",
        "a photo of mug.png, cropped",
        "the mug in (~/photos)",
        "a mug as in https://example.com",
        "emb.SAFETENSORS",
        "my mug.safetensors",
        "learned_embeds.bin",
        "mug.ckpt",
        "mug.png",
        "a red mug.JPG",
        "training.json",
        "metadata.jsonl",
        "prompts.txt",
        "https://huggingface.co/user/mug",
        "hf://user/mug",
        "file:mug",
        "$HOME/mug",
        "%USERPROFILE%/mug",
        " out/mugg ",
        "emb.pt?download=true",
        "emb.PT:0",
        "a mug like mug.png:large",
    ],
)
def test_paths_are_never_words(path: str, pipe: Any, unchanged: Callable[[Any], None], tmp_path: Path) -> None:
    unchanged(pipe)
    assert looks_like_path(path)
    for given in (path, Path(path.strip())):
        with pytest.raises(
            InitializerError, match="initializer: expected a description, or an existing embedding file"
        ):
            make_trainer(pipe, initializer=given)
    with pytest.raises(ConfigError, match="candidates: expected words, got"):
        make_trainer(pipe, initializer="auto", candidates=["a red mug", path])


@pytest.mark.parametrize(
    "words",
    [
        "a red mug",
        "*",
        "a black/white mug",
        "a cat and/or dog",
        "a mug with 1/2 handle",
        "st. bernard",
        "a red mug.",
        "a cup, e.g. a tea cup",
        "version 2.0 of a mug",
        "a node.js logo",
        "mug: red",
        "caffè",
        "马克杯",
        "a mug ~ a cup",
        "a cup (e.g. a tea cup), red; w/ handle",
        "a black /white mug",
        "a mug of ~5 cm",
        "what?",
    ],
)
def test_words_stay_words(words: str, pipe: Any) -> None:
    assert not looks_like_path(words)
    assert not looks_like_path("")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_what_exists_is_never_words(here: Path, pipe: Any, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    torch.save({"<mug>": ROWS}, here / "emb.pt")
    torch.save({"<mug>": ROWS}, here / "mug")
    safetensors.torch.save_file({"<mug>": ROWS}, here / "saved")
    random_picture().save(here / "picture.png")
    random_picture().save(here / "photograph", format="PNG")
    (here / "notes").write_text("a red mug")
    (here / "cat").mkdir()
    (here / "old").mkdir()
    torch.save({"<mug>": ROWS}, here / "old" / "learned_embeds.bin")
    write_embedding(here / "several" / "mug" / "learned_embeds.safetensors", embedding())
    for name, message in {
        "emb.pt": r"got 'emb.pt', a pickle, .*convert_embedding\('emb.pt', 'emb', .*allow_pickle=True\)",
        "mug": "got 'mug', a pickle",
        "saved": "got 'saved', a safetensors file; give it the suffix .safetensors",
        "picture.png": "got 'picture.png', a picture; pass it as images=",
        "photograph": "got 'photograph', a picture; pass it as images=",
        "notes": "got 'notes', a text file",
        "cat": "got 'cat', a folder of that name without learned_embeds.safetensors; write words so",
        "old": "got 'old', a folder with learned_embeds.bin, a pickle, .*allow_pickle=True",
        "several": "got 'several', a folder of several; pass one of them, e.g. 'several/mug'",
        "~/cat": "a folder of that name without",
    }.items():
        with pytest.raises(InitializerError, match=message):
            make_trainer(pipe, initializer=name)


@pytest.mark.parametrize("text", ["a \ud800 mug", "\udcff", "a\0mug"])
def test_texts_that_no_file_can_hold(text: str, pipe: Any, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    for values in ({"initializer": text}, {"templates": [text + "{}"]}, {"initializer": "auto", "candidates": [text]}):
        with pytest.raises((InitializerError, ConfigError), match="expected .*, got "):
            make_trainer(pipe, **values)
    with pytest.raises(ConceptLoadError, match="description: expected a text, True or False, got "):
        pipe.load_multitoken_inversion({"<mug>": ROWS}, description=text)


def embedding() -> LearnedEmbedding:
    return LearnedEmbedding(placeholder_token="<mug>", rows=ROWS)


@pytest.mark.parametrize("name", ["mug.safetensors", "mug.SAFETENSORS", "~/mug.safetensors", "./mug.safetensors"])
def test_saved_embeddings_in_any_spelling(name: str, here: Path, pipe: Any) -> None:
    write_embedding(name, embedding())
    assert not (here / "~").exists()
    trainer = make_trainer(pipe, initializer=name)
    assert torch.equal(trainer._given["<mug>"]["text_encoder"].rows, ROWS)


@pytest.mark.parametrize("initializer", [5, None, b"a mug", ["a mug"], {"a": 1}, object(), 1.5, torch.ones(2, 32)])
def test_initializers_of_another_kind(initializer: Any, pipe: Any) -> None:
    with pytest.raises(InitializerError, match=r"initializer: expected a description such as .*, got [^\n]+\Z"):
        make_trainer(pipe, initializer=initializer)


def test_no_path_is_a_description_when_loading(pipe: Any, here: Path) -> None:
    for words in ("out/mugg", "mug.txt", "~/mug"):
        with pytest.raises(Exception, match="description: expected words, got") as info:
            pipe.load_multitoken_inversion({"<mug>": ROWS}, description=words)
        assert type(info.value).__name__ == "ConceptLoadError"


# -- files of another kind


KINDS = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n": r"a git-LFS pointer, .*git lfs pull",
    "<!doctype html><html>": "an HTML page",
    "<html><body>404": "an HTML page",
    '{"error": "Repository not found"}': "a JSON file",
    "Entry not found": "a text file",
    "": "an empty file",
    "\x1f\x8b\x08": "a gzip archive",
    "GGUF\x03": "a GGUF file",
}


@pytest.mark.parametrize(("content", "kind"), KINDS.items())
@pytest.mark.parametrize("name", ["mug.safetensors", "mug.pt", "mug.bin"])
def test_files_of_another_kind_are_called_what_they_are(content: str, kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(EmbeddingFileError, match=f"{name}.* got {kind}") as info:
        read_embeddings(path, allow_pickle=True)
    assert "damaged" not in str(info.value)
    with pytest.raises(EmbeddingFileError, match=kind):
        read_embeddings(path)


def test_pickles_and_safetensors_under_each_others_names(tmp_path: Path, pipe: Any) -> None:
    for is_new in (True, False):
        torch.save({"<mug>": ROWS}, tmp_path / "a.safetensors", _use_new_zipfile_serialization=is_new)
        for read in (read_embedding, read_embeddings, pipe.load_multitoken_inversion):
            with pytest.raises(
                EmbeddingFileError, match=r"a.safetensors', a pickle; .*rename it to .pt and pass allow"
            ):
                read(tmp_path / "a.safetensors")
    safetensors.torch.save_file({"<mug>": ROWS}, tmp_path / "b.safetensors")
    (tmp_path / "b.safetensors").rename(tmp_path / "b.pt")
    with pytest.raises(EmbeddingFileError, match=r"got a safetensors file; give it the suffix .safetensors"):
        read_embeddings(tmp_path / "b.pt")
    (tmp_path / "b.pt").rename(tmp_path / "b")
    with pytest.raises(EmbeddingFileError, match=r"expected a .safetensors file, got .*b'; rename it"):
        read_embeddings(tmp_path / "b")


def test_torchs_old_format(tmp_path: Path) -> None:
    path = tmp_path / "mug.pt"
    plain = {"string_to_param": {"*": ROWS}, "name": "<mug>"}
    torch.save(plain, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_embeddings(path, allow_pickle=True)[0].rows, ROWS)
    rinongal = {"string_to_param": nn.ParameterDict({"*": nn.Parameter(ROWS)})}
    torch.save(rinongal, path, _use_new_zipfile_serialization=False)
    with pytest.raises(
        EmbeddingFileError, match=r"torch's old format with a module in it \(a ParameterDict\)"
    ) as info:
        read_embeddings(path, allow_pickle=True)
    assert "damaged" not in str(info.value)


def test_a_damaged_file_is_still_called_damaged(tmp_path: Path) -> None:
    path = write_embedding(tmp_path / "mug.safetensors", embedding())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(EmbeddingFileError, match="expected a whole safetensors file, got a damaged one"):
        read_embedding(path)


def test_folders_with_nothing_but_pickles_name_them(tmp_path: Path, pipe: Any) -> None:
    torch.save({"<mug>": ROWS}, tmp_path / "learned_embeds.bin")
    for read in (read_embeddings, pipe.load_multitoken_inversion):
        with pytest.raises(EmbeddingFileError, match=r"learned_embeds.bin, with allow_pickle=True"):
            read(tmp_path)
    (report,) = pipe.load_multitoken_inversion(tmp_path, allow_pickle=True)
    assert report.placeholder_token == "<mug>"


def test_kinds_of_our_own_files(tmp_path: Path) -> None:
    assert kind_of_file(write_embedding(tmp_path / "mug.safetensors", embedding())) == "a safetensors file"
    assert kind_of_file(tmp_path) is None
    assert kind_of_file(tmp_path / "nowhere") is None
    (tmp_path / "bytes").write_bytes(bytes(range(200, 256)))
    assert kind_of_file(tmp_path / "bytes") is None


# -- where a concept is looked for


@pytest.mark.parametrize(
    "source", ["./mug", "~/mug", "C:/mug", "../mug", "/mug", "a\\b", "mug", "user/mug/", "a/b.PT"]
)
def test_paths_that_do_not_exist_never_reach_the_hub(source: str, here: Path, pipe: Any) -> None:
    with pytest.raises(EmbeddingFileError, match="got '.*': it does not exist") as info:
        pipe.load_multitoken_inversion(source)
    assert "the Hub does not" not in str(info.value)


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("https://huggingface.co/user/mug", "pass 'user/mug'"),
        ("http://www.huggingface.co/user/mug/", "pass 'user/mug'"),
        ("hf.co/user/mug", "pass 'user/mug'"),
        ("hf://user/mug", "pass 'user/mug'"),
        ("https://huggingface.co/user/mug/tree/main", "pass 'user/mug'"),
        ("https://huggingface.co/user/mug/tree/v2", "pass 'user/mug', revision='v2'"),
        ("https://huggingface.co/user/mugs/tree/main/mug", "pass 'user/mugs', subfolder='mug'"),
        (
            "https://huggingface.co/user/mug/resolve/main/a/b.safetensors?download=true",
            "pass 'user/mug', subfolder='a', weight_name='b.safetensors'",
        ),
        ("user/mug@v2", "pass 'user/mug', revision='v2'"),
        ("user/mug@refs/pr/1", "pass 'user/mug', revision='refs/pr/1'"),
    ],
)
def test_addresses_of_the_hub_say_what_to_pass(source: str, advice: str, pipe: Any) -> None:
    with pytest.raises(EmbeddingFileError) as info:
        pipe.load_multitoken_inversion(source)
    assert str(info.value).endswith(advice)


@pytest.mark.parametrize("source", ["", " ", 5, None, b"mug", object()])
def test_sources_of_another_kind(source: Any, pipe: Any, here: Path) -> None:
    write_embedding(here / "learned_embeds.safetensors", embedding())
    with pytest.raises(EmbeddingFileError, match="expected a file, a folder"):
        pipe.load_multitoken_inversion(source)
    with pytest.raises(EmbeddingFileError, match="expected a"):
        read_embeddings(source)


@pytest.mark.parametrize("source", ["rows", "state dict", "file", "folder", "sequence"])
@pytest.mark.parametrize("name", ["weight_name", "subfolder", "revision"])
def test_arguments_that_a_source_cannot_follow_are_refused(
    name: str, source: str, pipe: Any, here: Path, unchanged: Callable[[Any], None]
) -> None:
    path = write_embedding(here / "folder" / "learned_embeds.safetensors", embedding())
    places: dict[str, Any] = {"rows": ROWS, "state dict": {"<mug>": ROWS}, "file": path, "folder": "folder"}
    places["sequence"] = ["folder", path]
    if source == "folder" and name != "revision":
        pytest.skip("a folder follows it")
    unchanged(pipe)
    value = "learned_embeds.safetensors" if name == "weight_name" else ""
    pipe.load_multitoken_inversion(places["folder"], **{name: value})  # an empty text is no name
    pipe.unload_multitoken_inversion()
    token = "<mug>" if source == "rows" else None
    value = "learned_embeds.safetensors" if name == "weight_name" else "main" if name == "revision" else "."
    with pytest.raises(EmbeddingFileError, match=rf"{name}='{value}'.*to look in, got .*; leave {name} out"):
        pipe.load_multitoken_inversion(places[source], token=token, **{name: value})


def test_the_home_folder_is_written_to_and_read_from(here: Path, pipe: Any) -> None:
    trainer = make_trainer(pipe)
    trainer.train()
    trainer.save("~/out/mug")
    assert (here / "out" / "mug" / "learned_embeds.safetensors").is_file()
    check_writable("~/out")
    convert_embedding("~/out/mug", "~/mug_kohya.safetensors", format="kohya")
    assert (here / "mug_kohya.safetensors").is_file()
    pipe.unload_multitoken_inversion()
    assert pipe.load_multitoken_inversion("~/out/mug")[0].placeholder_token == "<mug>"
    assert json.loads((here / "out" / "mug" / "training.json").read_text())["placeholder_token"] == "<mug>"
    assert not (here / "~").exists()


def test_a_folder_that_cannot_be_written_is_named_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write '[^']*/file/out': .*; choose another output_dir"):
        check_writable(tmp_path / "file" / "out")
