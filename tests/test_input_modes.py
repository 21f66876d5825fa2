"""Modes of torch and of pipelines that the user has switched: they change no row, or are refused in one line."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import build_tiny_pipeline, random_picture

from diffusers_supreme_init import (
    ConceptLoadError,
    ConfigError,
    SupremeInitConfig,
    SupremeInitError,
    SupremeInitTextualInversionTrainer,
    SupremeInitWarning,
    UnsupportedPipelineError,
    convert_embedding,
    evaluate,
    folder_name,
    propose_initializer,
    read_embeddings,
    write_atomically,
)


def train(pipe: Any) -> torch.Tensor:
    config = SupremeInitConfig(max_train_steps=2, validation_samples=2)
    trainer = SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a red mug", config=config)
    return trainer.train()[0].rows["text_encoder"]


@contextlib.contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "device meta": lambda: torch.device("meta"),
    "default device meta": lambda: default_device("meta"),
    "default float64": lambda: default_dtype(torch.float64),
    "default float16": lambda: default_dtype(torch.float16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.fixture(scope="module")
def plain_rows() -> torch.Tensor:
    return train(build_tiny_pipeline())


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch_change_no_row(mode: str, pipe: Any, plain_rows: torch.Tensor) -> None:
    with MODES[mode]():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
        rows = train(pipe)
        assert before == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype())
    assert rows.device.type == "cpu"
    assert torch.equal(rows, plain_rows)
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[-3:], plain_rows)


@pytest.mark.parametrize("mode", MODES)
def test_concepts_that_were_loaded_in_a_mode_can_be_trained_beside(mode: str, pipe: Any) -> None:
    with MODES[mode]():
        pipe.load_multitoken_inversion({"<cat>": torch.randn(2, 32, device="cpu", dtype=torch.float32)})
    weight = pipe.text_encoder.get_input_embeddings().weight
    assert (weight.device.type, weight.dtype, weight.is_inference()) == ("cpu", torch.float32, False)
    assert torch.isfinite(train(pipe)).all()


def test_pipelines_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        pipe = build_tiny_pipeline()
    with pytest.raises(UnsupportedPipelineError, match=r"vae: its weights were made under torch.inference_mode\(\)"):
        train(pipe)


def test_pipelines_without_weights_are_refused(pipe: Any) -> None:
    pipe.unet.to("meta")
    with pytest.raises(
        UnsupportedPipelineError, match=r"unet: its weights are not loaded \(they are on the meta device"
    ):
        train(pipe)


def layerwise(pipe: Any) -> None:
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def layerwise_encoder(pipe: Any) -> None:
    from diffusers.hooks import apply_layerwise_casting

    apply_layerwise_casting(pipe.text_encoder, torch.float8_e4m3fn, torch.float32)


def group_offloading(pipe: Any) -> None:
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(pipe.unet, onload_device=torch.device("cpu"), offload_type="leaf_level")


@pytest.mark.parametrize("switch", [layerwise, layerwise_encoder, group_offloading])
def test_hooks_of_diffusers_are_refused(switch: Callable[[Any], None], pipe: Any) -> None:
    switch(pipe)
    with pytest.raises(UnsupportedPipelineError, match=r"expected plain weights, got hooks of diffusers \(\w+"):
        train(pipe)


# -- arguments of another kind


ROWS = torch.randn(2, 32)


@pytest.mark.parametrize("bad", [5, [torch.nn.Linear(2, 2)], torch.nn.Linear(2, 2), object(), torch.ones(3), print])
def test_no_argument_raises_a_foreign_exception(bad: Any, pipe: Any, tmp_path: Any, unchanged: Any) -> None:
    unchanged(pipe)
    target = tmp_path / "q.safetensors"
    calls: list[Callable[[], Any]] = [
        lambda: pipe.load_multitoken_inversion({"<mug>": ROWS}, text_encoder=bad),
        lambda: pipe.load_multitoken_inversion({"<mug>": ROWS}, token=bad),
        lambda: pipe.load_multitoken_inversion({"<mug>": ROWS}, only=bad),
        lambda: pipe.load_multitoken_inversion({"<mug>": ROWS}, weight_name=bad),
        lambda: pipe.load_multitoken_inversion({"<mug>": ROWS}, subfolder=bad),
        lambda: pipe.load_multitoken_inversion({"<mug>": ROWS}, description=bad),
        lambda: pipe.load_multitoken_inversion({"<mug>": bad}),
        lambda: pipe.unload_multitoken_inversion(bad),
        lambda: SupremeInitTextualInversionTrainer(bad, random_picture(), "<mug>", "a mug"),
        lambda: SupremeInitTextualInversionTrainer(pipe, random_picture(), bad, "a mug"),
        lambda: SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", bad),
        lambda: SupremeInitTextualInversionTrainer(pipe, bad, "<mug>", "a mug"),
        lambda: SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a mug", describers=bad),
        lambda: SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a mug", accelerator=bad),
        lambda: evaluate(pipe, bad, random_picture()),
        lambda: propose_initializer(random_picture(), bad),
        lambda: propose_initializer(bad, "class"),
        lambda: convert_embedding(bad, target, format="kohya"),
        lambda: convert_embedding({"<mug>": ROWS}, target, format=bad),
        lambda: convert_embedding({"<mug>": ROWS}, bad, format="kohya"),
        lambda: convert_embedding({"<mug>": ROWS}, target, format="kohya", token=bad),
        lambda: read_embeddings(bad),
        lambda: write_atomically(bad, b""),
        lambda: folder_name(bad),
    ]
    for call in calls:
        with pytest.raises(SupremeInitError) as info:
            call()
        message = str(info.value)
        assert "\n" not in message
        assert "object at" not in message
        assert "in_features" not in message
        assert "tensor(" not in message
    assert not target.exists()


def test_a_missing_tokenizer_is_not_listed_as_present(pipe: Any) -> None:
    pipe.tokenizer = None
    with pytest.raises(ConceptLoadError, match=r"text_encoder \(CLIPTextModel\), no tokenizer; both have"):
        pipe.load_multitoken_inversion({"<mug>": ROWS})
    with pytest.raises(UnsupportedPipelineError, match="got one without tokenizer"):
        train(pipe)


def test_a_tokenizer_of_another_library_is_named(pipe: Any, other_pipe: Any) -> None:
    pipe.tokenizer = copy.deepcopy(pipe.tokenizer._tokenizer)
    with pytest.raises(ConceptLoadError, match=r"tokenizer \(Tokenizer\); both have to be classes of transformers"):
        pipe.load_multitoken_inversion({"<mug>": ROWS})
    with pytest.raises(UnsupportedPipelineError, match="got CLIPTextModel with Tokenizer as tokenizer"):
        train(pipe)


def test_an_encoder_without_its_tokenizer_is_not_called_another_model() -> None:
    from tiny.every_family import FAMILY

    pipe = FAMILY["stable_diffusion_xl"].build()
    width = pipe.text_encoder_2.config.hidden_size
    pipe.tokenizer_2 = None
    with pytest.raises(ConceptLoadError, match="not counted, for lack of a tokenizer of transformers: text_encoder_2"):
        pipe.load_multitoken_inversion({"clip_g": torch.randn(2, width)}, token="<mug>")


# -- words in prompts that look like concepts


@pytest.mark.parametrize(
    ("prompt", "word", "advice"),
    [
        ("a photo of <mugg>", "<mugg>", "did you mean '<mug>'"),
        ("a photo of <Mugs> on a table", "<Mugs>", "did you mean '<mug>'"),
        ("<dog> and <mug>", "<dog>", "loaded are <mug>, %cat%"),
        ("a %cats% photo", "%cats%", "did you mean '%cat%'"),
        ("a <mug > photo", "<mug >", "did you mean '<mug>'"),
        ("a < mug> photo", "< mug>", "did you mean '<mug>'"),
        ("a ＜mug＞ photo", "＜mug＞", "did you mean '<mug>'"),
        ("a ‹mug› photo", "‹mug›", "did you mean '<mug>'"),
        ("a &lt;mug&gt; photo", "&lt;mug&gt;", "did you mean '<mug>'"),
        ("a <mug|9> photo", "<mug|9>", "did you mean '<mug>'"),
        ("a <MUG|0> photo", "<MUG|0>", "did you mean '<mug>'"),
        ("a <dog|0> photo", "<dog|0>", "loaded are <mug>, %cat%"),
    ],
)
def test_words_that_look_like_concepts_are_said_once(prompt: str, word: str, advice: str, pipe: Any) -> None:
    pipe.load_multitoken_inversion([{"<mug>": ROWS}, {"%cat%": ROWS}])
    with pytest.warns(SupremeInitWarning) as told:
        [pipe.tokenizer(text) for text in (prompt, [prompt, prompt + " again"])]
    (one,) = told
    assert f"{word!r} in the prompt is not a loaded concept and is read as letters; {advice}" in str(one.message)


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of <mug>",
        "a < b > c",
        "<3",
        "a <|endoftext|>",
        "100% of 50% off",
        "</b>",
        "<mug|0>",
        "1<2",
        "<image>",
        "the book ‹Emma›",
        "a &lt; b &gt; c",
    ],
)
def test_other_prompts_are_read_without_a_word(prompt: str, pipe: Any) -> None:
    pipe.load_multitoken_inversion([{"<mug>": ROWS}, {"%cat%": ROWS}])
    pipe.tokenizer(prompt)


def test_a_pipeline_with_several_tokenizers_says_it_once() -> None:
    from tiny.every_family import FAMILY, rows_for

    from diffusers_supreme_init.text.text_pairs import find_text_pairs

    pipe = FAMILY["stable_diffusion_xl"].build()
    first, second = find_text_pairs(pipe)
    pipe.load_multitoken_inversion({"<mug>": rows_for(first)}, text_encoder="text_encoder", description="a mug")
    with pytest.warns(SupremeInitWarning) as told:
        [pair.tokenizer("a photo of <mugg>") for pair in (first, second)]
    assert len(told) == 1


def test_config_errors_are_ours() -> None:
    with pytest.raises(ConfigError, match="expected a path, got ''"):
        write_atomically("", b"")
