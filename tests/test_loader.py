"""`load_multitoken_inversion` on Stable Diffusion pipelines: what it does, undoes and refuses."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HIDDEN_SIZE, assert_same, build_tiny_pipeline, draw, snapshot_of
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from diffusers_supreme_init import (
    ConceptLoadError,
    EmbeddingFileError,
    LearnedEmbedding,
    PlaceholderTokenError,
    SupremeInitWarning,
    write_embedding,
)
from diffusers_supreme_init.text.text_pairs import find_text_pairs, identify_encoder


def rows(num_vectors: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_vectors, HIDDEN_SIZE, generator=torch.Generator().manual_seed(seed)) * 0.1


def saved(folder: Path, pipe: Any, token: str = "<mug>", **changes: Any) -> Path:
    encoder = identify_encoder(find_text_pairs(pipe)[0])
    values = {"placeholder_token": token, "rows": rows(), "description": "a red mug", "encoder": encoder}
    return write_embedding(folder / "learned_embeds.safetensors", LearnedEmbedding(**(values | changes)))


def conditioning(pipe: Any, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return pipe.encode_prompt(prompt, "cpu", 1, False)[0]


def loaded_rows(pipe: Any, token: str = "<mug>") -> torch.Tensor:
    return find_text_pairs(pipe)[0].rows(token)


def test_report_and_rows(pipe: Any, tmp_path: Path) -> None:
    (report,) = pipe.load_multitoken_inversion(saved(tmp_path, pipe))
    assert (report.placeholder_token, report.loaded, report.missing) == ("<mug>", ("text_encoder",), {})
    assert report.num_vectors == {"text_encoder": 3}
    assert torch.equal(loaded_rows(pipe), rows())


@pytest.mark.parametrize("kind", ["file", "text", "folder", "subfolder", "state dict"])
def test_every_kind_of_source(pipe: Any, tmp_path: Path, kind: str) -> None:
    file = saved(tmp_path / "concepts" / "mug", pipe)
    options = {"subfolder": "mug"} if kind == "subfolder" else {}
    source = {
        "file": file,
        "text": str(file),
        "folder": file.parent,
        "subfolder": file.parent.parent,
        "state dict": {"<mug>": rows()},
    }[kind]
    pipe.load_multitoken_inversion(source, **options)
    assert torch.equal(loaded_rows(pipe), rows())


def test_hub_id_is_downloaded_with_its_options(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path, pipe)
    asked = []

    def fake_download(repo_id: str, name: str, **options: Any) -> str:
        asked.append((repo_id, name, options["revision"], options["token"]))
        if name != "learned_embeds.safetensors":
            from huggingface_hub.errors import EntryNotFoundError

            raise EntryNotFoundError(name)
        return str(file)

    monkeypatch.setattr("diffusers_supreme_init.loading.hub_sources.hf_hub_download", fake_download)
    pipe.load_multitoken_inversion("user/mug", revision="v1", hub_token="secret")
    names = ["training.json", "learned_embeds.safetensors"]  # first whether it is a library
    assert asked[:2] == [("user/mug", name, "v1", "secret") for name in names]
    assert torch.equal(loaded_rows(pipe), rows())


@pytest.mark.filterwarnings("ignore:.< mug >. in the prompt is not a loaded concept")
def test_prompts_without_the_concept_stay_bit_identical(pipe: Any, tmp_path: Path) -> None:
    prompts = ["a red mug", "a photo of a mug on the beach, < mug >"]
    before = draw(pipe, prompts)
    pipe.load_multitoken_inversion(saved(tmp_path, pipe))
    assert np.array_equal(draw(pipe, prompts), before)
    assert not np.array_equal(draw(pipe, ["a <mug>", "a <mug>"]), before)
    pipe.unload_multitoken_inversion("<mug>")
    assert np.array_equal(draw(pipe, prompts), before)


def test_stock_loader_reads_the_file_and_draws_the_same(pipe: Any, other_pipe: Any, tmp_path: Path) -> None:
    saved(tmp_path, pipe)
    pipe.load_multitoken_inversion(tmp_path)
    other_pipe.load_textual_inversion(str(tmp_path))
    for prompt in ("a photo of <mug> on the beach", "<mug>", ["<mug> and <mug>", "a mug"]):
        assert np.array_equal(draw(pipe, prompt), draw(other_pipe, prompt))


def test_rows_reach_the_encoder_in_order_and_side_by_side(pipe: Any) -> None:
    pipe.load_multitoken_inversion({"<mug>": rows(12)})
    ids = pipe.tokenizer("a photo of <mug> x").input_ids
    row_ids = find_text_pairs(pipe)[0].row_ids("<mug>")
    start = ids.index(row_ids[0])
    assert ids[start : start + 12] == row_ids


def test_triggers_are_whole_words_in_any_case(pipe: Any) -> None:
    pipe.load_multitoken_inversion([{"zmg": rows(2)}, {"zmg2": rows(3, seed=1)}, {"<Mug>": rows(2, seed=2)}])
    tokenize = pipe.tokenizer.tokenize
    zmg, zmg2 = ["<zmg|0>", "<zmg|1>"], ["<zmg2|0>", "<zmg2|1>", "<zmg2|2>"]
    assert tokenize("zmg, ZMG2") == [*zmg, ",</w>", *zmg2]
    for text in ("zmgs", "azmga", "zmg_1", "azmg2"):
        assert not any("|" in token for token in tokenize(text))
    assert tokenize("<MUG><mug>") == ["<mug|0>", "<mug|1>"] * 2


def test_expansion_is_idempotent(pipe: Any) -> None:
    pipe.load_multitoken_inversion([{"<mug>": rows(12)}, {"mug|1": rows(2)}])
    once = pipe.tokenizer._expand("a <mug> and mug|1")
    assert pipe.tokenizer._expand(once) == once
    assert pipe.maybe_convert_prompt(once, pipe.tokenizer) == once


def test_equal_cores_do_not_share_rows(pipe: Any) -> None:
    pipe.load_multitoken_inversion([{"<mug>": rows()}, {"[mug]": rows(seed=1)}])
    assert torch.equal(loaded_rows(pipe, "<mug>"), rows())
    assert torch.equal(loaded_rows(pipe, "[mug]"), rows(seed=1))


def test_loading_twice_is_a_no_op_when_identical_and_an_error_when_different(
    pipe: Any, tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    pipe.load_multitoken_inversion(saved(tmp_path, pipe))
    unchanged(pipe)
    (report,) = pipe.load_multitoken_inversion(saved(tmp_path, pipe))
    assert report.loaded == ("text_encoder",)
    for different in ({"<mug>": rows(seed=1)}, {"<mug>": rows(4)}, {"<MUG>": rows()}):
        with pytest.raises(ConceptLoadError, match="another concept of that name is loaded"):
            pipe.load_multitoken_inversion(different)


def test_renaming(pipe: Any, tmp_path: Path) -> None:
    pipe.load_multitoken_inversion(saved(tmp_path, pipe), token="<cup>")
    assert torch.equal(loaded_rows(pipe, "<cup>"), rows())
    assert "|" not in "".join(pipe.tokenizer.tokenize("<mug>"))


def test_a_nameless_file_asks_for_a_name(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    with pytest.raises(EmbeddingFileError, match=r"does not name its concept; pass e.g. token="):
        unchanged(pipe) or pipe.load_multitoken_inversion({"emb_params": rows()})


def test_unloading_restores_everything(pipe: Any, tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    pipe.load_multitoken_inversion([saved(tmp_path, pipe), {"<cat>": rows(2)}])
    pipe.unload_multitoken_inversion("<mug>")
    pipe.unload_multitoken_inversion()


def test_unloading_one_leaves_the_others_exact(pipe: Any, other_pipe: Any) -> None:
    sources = [{"<a>": rows(2)}, {"<b>": rows(3, seed=1)}, {"<c>": rows(4, seed=2)}]
    pipe.load_multitoken_inversion(sources)
    prompts = ["a <b>", "a photo of a <a> and a <c>"]
    pipe.unload_multitoken_inversion("<B>")
    other_pipe.load_multitoken_inversion([sources[0], sources[2]])
    with pytest.warns(SupremeInitWarning, match="'<b>' in the prompt is not a loaded concept"):
        assert torch.equal(conditioning(pipe, prompts[0]), conditioning(other_pipe, prompts[0]))
    assert torch.equal(conditioning(pipe, prompts[1]), conditioning(other_pipe, prompts[1]))
    for one in (pipe, other_pipe):
        one.unload_multitoken_inversion("<c>")
    assert_same(snapshot_of(other_pipe), snapshot_of(pipe))
    pipe.load_multitoken_inversion(sources[1])
    assert torch.equal(loaded_rows(pipe, "<b>"), rows(3, seed=1))


def test_unloading_keeps_tokens_that_stock_added_later(pipe: Any, tmp_path: Path) -> None:
    pipe.load_multitoken_inversion({"<a>": rows(2)})
    pipe.load_textual_inversion({"<stock>": rows(1, seed=1)})
    before = conditioning(pipe, "a photo of <stock>")
    pipe.unload_multitoken_inversion("<a>")
    assert torch.equal(conditioning(pipe, "a photo of <stock>"), before)


def test_rows_removed_by_stock_do_not_turn_into_gibberish(pipe: Any) -> None:
    expected = pipe.tokenizer.tokenize("a <mug>")
    pipe.load_multitoken_inversion({"<mug>": rows()})
    pipe.unload_textual_inversion()
    assert pipe.tokenizer.tokenize("a <mug>") == expected


def test_padded_matrices_are_never_shrunk_and_come_back_exactly(unchanged: Callable[[Any], None]) -> None:
    pipe = build_tiny_pipeline()
    encoder = pipe.text_encoder
    with torch.random.fork_rng():
        encoder.resize_token_embeddings(len(pipe.tokenizer) + 10, mean_resizing=False)
    unchanged(pipe)
    pipe.load_multitoken_inversion({"<a>": rows(4)})
    assert len(encoder.get_input_embeddings().weight) == len(pipe.tokenizer) + 6
    pipe.load_multitoken_inversion({"<b>": rows(9, seed=1)})
    assert len(encoder.get_input_embeddings().weight) == len(pipe.tokenizer)
    pipe.unload_multitoken_inversion("<a>")
    assert torch.equal(loaded_rows(pipe, "<b>"), rows(9, seed=1))
    pipe.unload_multitoken_inversion("<b>")


def test_legacy_eos_is_corrected_while_a_concept_is_loaded(unchanged: Callable[[Any], None]) -> None:
    pipe = build_tiny_pipeline()
    config = CLIPTextConfig(**{**pipe.text_encoder.config.to_dict(), "eos_token_id": 2})
    legacy = CLIPTextModel(config).eval()
    legacy.load_state_dict(pipe.text_encoder.state_dict())
    pipe.text_encoder = legacy
    unchanged(pipe)

    def pooled(prompt: str) -> torch.Tensor:
        ids = pipe.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
        return legacy(ids).pooler_output

    before = pooled("a red mug")
    pipe.load_multitoken_inversion({"<mug>": rows()})
    assert torch.equal(pooled("a red mug"), before)
    assert not torch.equal(pooled("<mug> on the beach"), pooled("<mug> in the park at night"))
    pipe.unload_multitoken_inversion()


def test_a_prompt_that_cuts_a_concept_warns_with_numbers(pipe: Any) -> None:
    pipe.load_multitoken_inversion({"<mug>": rows(10)})
    prompt = "mug " * 70 + "<mug>"
    with pytest.warns(SupremeInitWarning, match="needs 82 tokens but only 77 are read: 5 of 10 concept rows are cut"):
        conditioning(pipe, prompt)
    conditioning(pipe, "<mug> " + "mug " * 80)  # the concept is whole: no warning, which would be an error here


@pytest.mark.parametrize("kind", ["img2img", "inpaint", "controlnet", "from_pipe"])
def test_other_pipelines_of_the_family(pipe: Any, tmp_path: Path, kind: str) -> None:
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    picture = Image.new("RGB", (32, 32), "red")
    if kind == "img2img":
        other, options = (
            StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False),
            {"image": picture, "strength": 1.0},
        )
    elif kind == "inpaint":
        other = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
        options = {"image": picture, "mask_image": Image.new("L", (32, 32), 255), "height": 32, "width": 32}
    elif kind == "controlnet":
        controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8, 8))
        other = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, requires_safety_checker=False)
        options = {"image": picture}
    else:
        pipe.load_multitoken_inversion(saved(tmp_path, pipe))
        other, options = StableDiffusionImg2ImgPipeline.from_pipe(pipe), {"image": picture, "strength": 1.0}
    other.set_progress_bar_config(disable=True)
    before = draw(other, "a red mug", **options)
    if kind != "from_pipe":
        other.load_multitoken_inversion(saved(tmp_path, pipe))
    assert torch.equal(loaded_rows(other), rows())
    assert np.array_equal(draw(other, "a red mug", **options), before)
    assert not torch.equal(conditioning(other, "<mug>"), conditioning(other, "mug"))
    assert draw(other, "a <mug>", **options).shape == before.shape


def test_a_saved_pipeline_comes_back_with_its_concepts(pipe: Any, tmp_path: Path) -> None:
    pipe.load_multitoken_inversion({"<mug>": rows()})
    pipe.save_pretrained(tmp_path)
    again = StableDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(draw(again, "a <mug>"), draw(pipe, "a <mug>"))
    again.unload_multitoken_inversion("<mug>")
    assert len(again.tokenizer) == len(again.text_encoder.get_input_embeddings().weight)


def test_pickle_and_deepcopy_keep_the_concept(pipe: Any) -> None:
    pipe.load_multitoken_inversion({"<mug>": rows()})
    expected = pipe.tokenizer.tokenize("a <MUG>")
    for tokenizer in (copy.deepcopy(pipe.tokenizer), pickle.loads(pickle.dumps(pipe.tokenizer))):
        assert tokenizer.tokenize("a <MUG>") == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_encoders(pipe: Any, dtype: torch.dtype) -> None:
    pipe.text_encoder.to(dtype)
    pipe.load_multitoken_inversion({"<mug>": rows()})
    assert torch.equal(loaded_rows(pipe), rows().to(dtype))
    pipe.load_multitoken_inversion({"<mug>": rows()})


def test_concepts_that_do_not_fit_change_nothing(pipe: Any, tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    wide = torch.zeros(2, HIDDEN_SIZE + 1)
    with pytest.raises(ConceptLoadError, match="expected exactly one text encoder of width 33, got text_encoder"):
        pipe.load_multitoken_inversion({"<mug>": wide})
    with pytest.raises(ConceptLoadError, match="expected exactly one text encoder of width 33"):
        pipe.load_multitoken_inversion([{"<fits>": rows()}, {"<mug>": wide}])
    other = identify_encoder(find_text_pairs(pipe)[0])
    foreign = saved(tmp_path, pipe, encoder=type(other)("CLIPTextModel", HIDDEN_SIZE, "another vocabulary"))
    with pytest.raises(ConceptLoadError, match="with the vocabulary it was trained with"):
        pipe.load_multitoken_inversion(foreign)
    with pytest.raises(ConceptLoadError, match="<mug>: expected different names, got it twice"):
        pipe.load_multitoken_inversion([{"<MUG>": rows()}, {"<mug>": rows()}])
    with pytest.raises(ConceptLoadError, match="got it twice"):
        pipe.load_multitoken_inversion([{"<mug>": rows()}, {"<Mug>": rows(seed=1)}])
    with pytest.raises(ConceptLoadError, match="one for each of 2 concepts, got 1"):
        pipe.load_multitoken_inversion([{"<a>": rows()}, {"<b>": rows()}], token="<c>")


def test_rows_that_overflow_in_half_precision_are_refused(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    pipe.text_encoder.half()
    unchanged(pipe)
    with pytest.raises(ConceptLoadError, match="overflow in torch.float16; load the pipeline in bfloat16"):
        pipe.load_multitoken_inversion({"<mug>": rows() * 1e7})


@pytest.mark.parametrize("trigger", ["mug", "*", "<|endoftext|>", "<mug|0>", "", "  "])
def test_triggers_that_mean_something_else_are_refused(
    pipe: Any, trigger: str, unchanged: Callable[[Any], None]
) -> None:
    unchanged(pipe)
    with pytest.raises(PlaceholderTokenError, match="placeholder_token: "):
        pipe.load_multitoken_inversion({trigger: rows()})


def test_sources_that_do_not_exist_are_refused(pipe: Any, tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    saved(tmp_path, pipe)
    for name in ("../secret.safetensors", "/etc/passwd", "a\\b"):
        with pytest.raises(EmbeddingFileError, match="expected a path below the source"):
            pipe.load_multitoken_inversion(tmp_path, weight_name=name)
    with pytest.raises(EmbeddingFileError, match="got no such file; see weight_name="):
        pipe.load_multitoken_inversion(tmp_path, weight_name="other.safetensors")
    for source in (tmp_path / "nowhere", "nowhere", "a/b/c", "folder/mug.safetensors", "x" * 5000, "\0"):
        with pytest.raises(EmbeddingFileError, match="it does not exist"):
            pipe.load_multitoken_inversion(source)
    with pytest.raises(EmbeddingFileError, match="user/never-downloaded"):
        pipe.load_multitoken_inversion("user/never-downloaded")
    torch.save({"<mug>": rows()}, tmp_path / "learned_embeds.bin")
    with pytest.raises(EmbeddingFileError, match="is a pickle"):
        pipe.load_multitoken_inversion(tmp_path / "learned_embeds.bin")


def test_encoders_that_cannot_take_rows_are_refused(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    embedding = pipe.text_encoder.get_input_embeddings()
    weight = embedding.weight
    embedding.weight = torch.nn.Parameter(weight.detach().to("meta"))
    with pytest.raises(
        ConceptLoadError, match=r"its weights are not loaded \(they are on the meta device\); load concepts first"
    ):
        pipe.load_multitoken_inversion({"<mug>": rows()})
    embedding.weight = torch.nn.Parameter(weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ConceptLoadError, match="got torch.float8_e4m3fn; load this encoder without quantisation"):
        pipe.load_multitoken_inversion({"<mug>": rows()})
    embedding.weight = weight


def test_a_pipeline_without_text_encoder_is_refused(pipe: Any) -> None:
    pipe.text_encoder = None
    with pytest.raises(ConceptLoadError, match="expected a pipeline with a text encoder"):
        pipe.load_multitoken_inversion({"<mug>": rows()})


def test_unloading_what_is_not_loaded_names_what_is(pipe: Any) -> None:
    with pytest.raises(ConceptLoadError, match=r"loaded concepts \(there are none\), got \['<cat>'\]"):
        pipe.unload_multitoken_inversion("<cat>")
    pipe.load_multitoken_inversion({"<mug>": rows()})
    with pytest.raises(ConceptLoadError, match=r"loaded concepts \(<mug>\), got \['<cat>'\]"):
        pipe.unload_multitoken_inversion(["<mug>", "<cat>"])
    assert torch.equal(loaded_rows(pipe), rows())
