"""Templates and their articles, initializers and placeholder tokens."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import random_picture

from diffusers_supreme_init import (
    ConfigError,
    InitializerError,
    PlaceholderTokenError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    SupremeInitWarning,
)
from diffusers_supreme_init.templates import OBJECT_TEMPLATES, STYLE_TEMPLATES, fill_template
from diffusers_supreme_init.triggers import is_row_name, row_names


def make_trainer(pipe: Any, **changes: Any) -> SupremeInitTextualInversionTrainer:
    values = {"images": random_picture(), "placeholder_token": "<mug>", "initializer": "a mug"} | changes
    values.setdefault("config", SupremeInitConfig(max_train_steps=1, validation_samples=0))
    return SupremeInitTextualInversionTrainer(pipe, **values)


@pytest.mark.parametrize(
    ("template", "description", "expected"),
    [
        ("a photo of a {}", "a mug", "a photo of {}"),
        ("a photo of a {}", "mug", "a photo of a {}"),
        ("a photo of a {}", "umbrella", "a photo of an {}"),
        ("a photo of a {}", "an orange umbrella", "a photo of {}"),
        ("a photo of the cool {}", "a mug", "a photo of {}"),
        ("a photo of the cool {}", "mug", "a photo of the cool {}"),
        ("a photo of my {}", "The mug", "a photo of {}"),
        ("a photo of {}", "a mug", "a photo of {}"),
        ("{} on a beach", "a mug", "{} on a beach"),
        ("a painting in the style of {}", "a mug", "a painting in the style of {}"),
        ("a photo of a {}", "*", "a photo of a {}"),
        ("a photo of a {}", "", "a photo of a {}"),
        ("a photo of a {}", "another mug", "a photo of an {}"),
    ],
)
def test_the_article_rule(template: str, description: str, expected: str) -> None:
    assert fill_template(template, "<mug>", description) == expected.replace("{}", "<mug>")


@pytest.mark.parametrize("template", OBJECT_TEMPLATES + STYLE_TEMPLATES)
@pytest.mark.parametrize("description", ["a mug", "an umbrella", "the mug"])
def test_two_articles_never_meet(template: str, description: str) -> None:
    sentence = fill_template(template, description, description)
    assert not re.search(r"\b(a|an|the|my|one)\s+(\w+\s+)?(a|an|the)\s+(mug|umbrella)", sentence)
    assert sentence.endswith(description)


def test_template_lists_are_those_of_the_source() -> None:
    assert len(OBJECT_TEMPLATES) == len(set(OBJECT_TEMPLATES)) == 27
    assert len(set(STYLE_TEMPLATES)) == len(STYLE_TEMPLATES)
    assert all(template.count("{}") == 1 for template in OBJECT_TEMPLATES + STYLE_TEMPLATES)


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} and {}"]])
def test_templates_need_exactly_one_slot(pipe: Any, templates: list[str], unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    with pytest.raises(ConfigError, match="templates: expected"):
        make_trainer(pipe, templates=templates)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("mug", "'mug' is an ordinary word; use '<mug>'"),
        ("zorbulon", "is an ordinary word"),
        ("*", "is an ordinary token of the vocabulary"),
        ("<my mug>", "expected no spaces"),
        ("<Mug>", "expected no capitals .* use '<mug>'"),
        ("<mug\u0007>", "expected no control characters"),
        ("<mug\u200b>", "expected no control characters"),
        ("", "expected a non-empty text"),
        (7, "expected a non-empty text, got 7"),
        ("<mug|0>", "expected a name such as '<mug>'"),
        ("<|endoftext|>", "is an ordinary token of the vocabulary"),
    ],
)
def test_unusable_placeholder_tokens_are_refused(
    pipe: Any, token: Any, message: str, unchanged: Callable[[Any], None]
) -> None:
    unchanged(pipe)
    with pytest.raises(PlaceholderTokenError, match=message):
        make_trainer(pipe, placeholder_token=token)


def test_a_loaded_placeholder_token_is_refused_again(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    pipe.load_multitoken_inversion({"<mug>": torch.zeros(2, 32)})
    unchanged(pipe)
    with pytest.raises(PlaceholderTokenError, match="'<mug>' is already loaded; choose another, or call unload"):
        make_trainer(pipe)


def test_a_token_loaded_between_construction_and_training_is_refused(
    pipe: Any, unchanged: Callable[[Any], None]
) -> None:
    trainer = make_trainer(pipe)
    pipe.load_multitoken_inversion({"<mug>": torch.zeros(2, 32)})
    unchanged(pipe)
    with pytest.raises(PlaceholderTokenError, match="already loaded"):
        trainer.train()


def test_undelimited_placeholder_tokens_warn(pipe: Any) -> None:
    with pytest.warns(SupremeInitWarning, match="'sks_mug' is not delimited"):
        make_trainer(pipe, placeholder_token="sks_mug")


@pytest.mark.parametrize("text", ["", "\u200b", "\u2060 \ufeff", "   ", "\t\n"])
def test_empty_initializers_are_refused(pipe: Any, text: str, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    with pytest.raises(InitializerError, match="expected a description such as 'a red mug'"):
        make_trainer(pipe, initializer=text)


def test_initializers_with_special_tokens_are_refused(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    # Also what characters become that a tokenizer does not know: CLIP's unknown token is its end of text.
    unchanged(pipe)
    with pytest.raises(InitializerError, match=r"expected ordinary words, .*special tokens \(<\|endoftext\|>\)"):
        make_trainer(pipe, initializer="a mug <|endoftext|>")


def test_an_initializer_without_any_token_is_refused(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, unchanged: Callable[[Any], None]
) -> None:
    # Tokenizers that drop what they do not know exist (SentencePiece without byte fallback); the toybox's does not.
    unchanged(pipe)
    tokenizer_class = type(pipe.tokenizer)
    monkeypatch.setattr(tokenizer_class, "__call__", lambda *_, **__: {"input_ids": []})
    with pytest.raises(InitializerError, match="at least one token, got 'a mug' with none"):
        make_trainer(pipe)


def test_initializers_longer_than_the_window_are_refused(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    with pytest.raises(InitializerError, match=r"expected at most \d+ tokens beside the longest template, got 70"):
        make_trainer(pipe, initializer="mug " * 70)
    with pytest.raises(InitializerError, match=r"got 76 in text_encoder; shorten .*, or pass num_vectors=71"):
        make_trainer(pipe, initializer="*", num_vectors=76, templates=["photo of a {}"])
    make_trainer(pipe, initializer="*", num_vectors=71, templates=["photo of a {}"])


@pytest.mark.parametrize("num_vectors", [0, -1])
def test_num_vectors_is_at_least_one(pipe: Any, num_vectors: int) -> None:
    with pytest.raises(InitializerError, match=f"num_vectors: expected at least 1, .* got {num_vectors}"):
        make_trainer(pipe, num_vectors=num_vectors)


def test_initializer_files_that_do_not_fit_are_refused(
    pipe: Any, tmp_path: Any, unchanged: Callable[[Any], None]
) -> None:
    from diffusers_supreme_init import LearnedEmbedding, write_embedding

    unchanged(pipe)
    wide = write_embedding(
        tmp_path / "wide.safetensors", LearnedEmbedding(placeholder_token="<a>", rows=torch.ones(1, 33))
    )
    with pytest.raises(InitializerError, match="expected rows of width 32 for text_encoder, got 33"):
        make_trainer(pipe, initializer=wide)
    with pytest.raises(InitializerError, match="nowhere.safetensors', which does not exist"):
        make_trainer(pipe, initializer=tmp_path / "nowhere.safetensors")
    fits = write_embedding(
        tmp_path / "fits.safetensors", LearnedEmbedding(placeholder_token="<a>", rows=torch.ones(1, 32))
    )
    with pytest.raises(InitializerError, match="a saved embedding has its own number of rows"):
        make_trainer(pipe, initializer=fits, num_vectors=3)


def test_row_names_never_clash() -> None:
    names = row_names("<mug>", 12)
    assert len(set(names)) == 12
    assert all(is_row_name(name) for name in names)
    assert not set(names) & set(row_names("mug", 12, taken=names))
    assert row_names("|<>", 1) == ["<concept|0>"]
