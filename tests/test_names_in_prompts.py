"""Names of concepts in prompts: however their letters are composed, whatever script stands beside them."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HIDDEN_SIZE, random_picture
from tiny.every_family import FAMILY, pair_of, rows_for

from diffusers_supreme_init import (
    ConceptLoadError,
    ConfigError,
    EmbeddingFileError,
    SupremeInitTextualInversionTrainer,
    load_concepts,
)
from diffusers_supreme_init.triggers import TriggerFinder

COMPOSED = ["<café>", "<ångström>", "<한국>", "<がぎ>", "<ñandú>", "<việt>", "<ǖ>", "zmg-é", "<Å>"]
FORMS = ["NFC", "NFD"]


def normal(form: str, text: str) -> str:
    return unicodedata.normalize(form, text)  # type: ignore[arg-type]


def row_ids(pipe: Any, prompt: str, token: str) -> list[int]:
    """Return which of a concept's rows a prompt leads to, in order."""
    pair = pair_of(pipe, "text_encoder")
    ids = dict.fromkeys(pair.row_ids(token))
    return [one for one in pair.tokenizer(prompt).input_ids if one in ids]


@pytest.mark.parametrize("token", COMPOSED)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prompt_form", FORMS)
def test_a_name_is_found_however_its_letters_are_composed(pipe: Any, token: str, form: str, prompt_form: str) -> None:
    name = normal(form, token)
    rows = torch.randn(2, HIDDEN_SIZE)
    pipe.load_multitoken_inversion({name: rows}, description=False)
    for prompt in (f"a photo of {token} on a beach", f"crème {token}, {token.upper()}"):
        found = row_ids(pipe, normal(prompt_form, prompt), name)
        assert found == pair_of(pipe, "text_encoder").row_ids(name) * prompt.lower().count(token.lower())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("text", "trigger", "spans"),
    [
        ("un café <mug> à la crème", "<mug>", ["<mug>"]),
        ("<café><mug>é", "<mug>", ["<mug>"]),
        ("zmé zm zmgé", "zm", ["zm"]),  # "zmé" is a longer word, in either form
        ("x́zm", "zm", []),
        ("zm̂ zm", "zm", ["zm"]),  # there is no composed m̂: the mark belongs to the word all the same
        ("한 <한> 국", "<한>", ["<한>"]),
    ],
)
def test_spans_are_places_in_the_text_as_it_was_written(form: str, text: str, trigger: str, spans: list[str]) -> None:
    written = normal(form, text)
    found = [written[start:end] for start, end in TriggerFinder([trigger]).spans(written)]
    assert found == [normal(form, one) for one in spans]


def test_text_without_a_trigger_stays_as_it_was_written(pipe: Any) -> None:
    pipe.load_multitoken_inversion({"<mug>": torch.randn(1, HIDDEN_SIZE)}, description=False)
    for text in ("cafe\u0301", "\u1112\u1161\u11ab", "\u212b", "x\u0302 <cat>"):
        assert pipe.tokenizer._expand(text) == text
        assert pipe.tokenizer._expand(f"{text} <mug>").startswith(text)


@pytest.mark.parametrize("form", FORMS)
def test_one_name_in_two_forms_is_one_name(
    pipe: Any, form: str, tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    token, other = normal(form, "<café>"), normal("NFD" if form == "NFC" else "NFC", "<café>")
    rows, others = torch.randn(2, HIDDEN_SIZE), torch.randn(2, HIDDEN_SIZE)
    unchanged(pipe)
    with pytest.raises(ConceptLoadError, match="expected different names, got it twice"):
        pipe.load_multitoken_inversion([{token: rows}, {other: others}], description=False)
    pipe.load_multitoken_inversion({token: rows}, description=False)
    with pytest.raises(ConceptLoadError, match="another concept of that name is loaded"):
        pipe.load_multitoken_inversion({other: others}, description=False)
    (report,) = pipe.load_multitoken_inversion([{token: rows}, {"<mug>": others}], only=[other], description=False)
    assert report.placeholder_token == token
    with pytest.raises(EmbeddingFileError, match="only: expected some of"):
        pipe.load_multitoken_inversion([{token: rows}, {"<mug>": others}], only=["<cafe>"])
    pipe.unload_multitoken_inversion(other)


@pytest.mark.parametrize("form", FORMS)
def test_cleaning_that_composes_letters_loses_no_name(form: str) -> None:
    pipe = FAMILY["pixart_sigma"].build()
    token = normal(form, "café-concept")
    pipe.load_multitoken_inversion({token: rows_for(pair_of(pipe, "text_encoder"))}, description=False)


def test_training_data_may_write_one_name_in_two_forms(pipe: Any, tmp_path: Path) -> None:
    lines = []
    for form in FORMS:
        random_picture().save(tmp_path / f"{form}.png")
        lines.append({"file_name": f"{form}.png", "placeholder_token": normal(form, "<café>"), "initializer": "a cup"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (concept,) = load_concepts(tmp_path)
    assert len(list(concept.images)) == 2  # type: ignore[arg-type]
    concepts = [
        type(concept)(images=concept.images, placeholder_token=normal(form, "<café>"), initializer="a cup")
        for form in FORMS
    ]
    with pytest.raises(ConfigError, match="expected different placeholder tokens"):
        SupremeInitTextualInversionTrainer(pipe, concepts=concepts)


NO_SPACES = [
    "一张{}的照片",
    "これは{}です",
    "カップ{}ト",
    "사진{}를",
    "ภาพ{}สวย",
    "我的{}",
    "{}很好",
    "。{}，",
    "ㄅ{}ㄆ",
]
"""Scripts that put no spaces around a word, or let endings follow it at once."""


@pytest.mark.parametrize("name", ["stable_diffusion", "qwen_image", "z_image", "kolors"])
@pytest.mark.parametrize("trigger", ["zmg", "sks_mug", "cup7"])
def test_bare_triggers_are_found_between_characters_without_spaces(name: str, trigger: str) -> None:
    pipe = FAMILY[name].build()
    pair = pair_of(pipe, "text_encoder")
    pipe.load_multitoken_inversion({trigger: rows_for(pair)}, text_encoder="text_encoder", description=False)
    for text in NO_SPACES:
        ids = pair.tokenizer(text.format(trigger)).input_ids
        assert [one for one in ids if one in pair.row_ids(trigger)] == pair.row_ids(trigger), text


@pytest.mark.parametrize("text", ["azmg", "zmgs", "zmg2", "2zmg", "_zmg", "zmg_", "ézmg", "zmgж", "ｚzmg", "zmgŁ"])
def test_bare_triggers_are_not_found_in_longer_words(text: str) -> None:
    assert not list(TriggerFinder(["zmg"]).spans(text))
    assert not list(TriggerFinder(["zmg"]).spans(f"一{text}的"))


@pytest.mark.parametrize("trigger", ["杯子", "カップ", "我的zmg"])
def test_triggers_of_those_scripts_are_found_in_a_sentence(trigger: str) -> None:
    text = f"这是{trigger}的照片"
    assert [text[start:end] for start, end in TriggerFinder([trigger]).spans(text)] == [trigger]
