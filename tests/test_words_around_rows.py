"""The words around a concept in a prompt are read as they are around its description, whatever the tokenizer."""

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from tiny.every_family import FAMILY, pair_of
from transformers import AutoTokenizer

from diffusers_supreme_init.multitoken import arm, set_triggers
from diffusers_supreme_init.triggers import row_names

DESCRIPTION = "a photo of x"
"""Ends with a letter that merges with no comma: other words do in the tiny vocabularies of Gemma and Llama."""
SPLITTING = ["pixart_sigma", "kandinsky", "hunyuan_video"]
"""T5's, XLM-RoBERTa's and Llama's tokenizers read text beside an added token in another way than beside words."""
OTHERS = ["stable_diffusion", "sana", "qwen_image", "hunyuan_dit", "flux2"]
PROMPTS = [
    "a photo of {}",
    "a photo of {}, on a table",
    "a photo ({})",
    "the boat of {}'s",
    'a photo "{}".',
    "(a {}: 1.2)\n{}!",
    " a photo  of  {}  ,{}",
    "{}-like, {}/{}",
    "<{}>",
]


def loaded(family: str) -> tuple[Any, list[int]]:
    """Return a tokenizer that reads ``<mug>`` as four rows, and their ids."""
    pipe = FAMILY[family].build()
    rows = torch.randn(4, pair_of(pipe, "text_encoder").hidden_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some pipelines clean or rewrite prompts
        pipe.load_multitoken_inversion({"<mug>": rows}, text_encoder="text_encoder", description=False)
    pair = pair_of(pipe, "text_encoder")
    return pair.tokenizer, pair.row_ids("<mug>")


def around(tokenizer: Any, prompt: str, words: str) -> list[int]:
    """Return the ids of all tokens of a prompt but those of `words`, which stand for ``{}``; a token is never both."""
    parts = prompt.split("{}")
    inside: set[int] = set()
    for index in range(1, len(parts)):
        start = len(words.join(parts[:index]))
        inside |= set(range(start, start + len(words)))
    encoding = tokenizer(prompt.replace("{}", words), add_special_tokens=False).encodings[0]
    found = []
    for token_id, (start, end), token in zip(encoding.ids, encoding.offsets, encoding.tokens, strict=True):
        letters = set(range(end - len(token.lstrip("▁Ġ").removesuffix("</w>")), end))
        assert letters <= inside or not letters & inside, (prompt, token)
        if not letters & inside and not (start < end and end - 1 in inside):
            found.append(token_id)
    return found


@pytest.mark.parametrize("family", SPLITTING + OTHERS)
def test_words_around_a_concept_are_those_around_its_description(family: str) -> None:
    tokenizer, row_ids = loaded(family)
    for prompt in PROMPTS:
        ids = tokenizer(prompt.replace("{}", "<mug>"), add_special_tokens=False).input_ids
        assert [one for one in ids if one in row_ids] == row_ids * prompt.count("{}")
        assert [one for one in ids if one not in row_ids] == around(tokenizer, prompt, DESCRIPTION), prompt


@pytest.mark.parametrize("family", SPLITTING)
def test_all_ways_of_reading_a_prompt_agree(family: str) -> None:
    tokenizer, row_ids = loaded(family)
    prompts = ["<mug>, a photo", "a photo of a photo", "a photo (<mug>) of <mug>, on"]
    one_by_one = [tokenizer(prompt).input_ids for prompt in prompts]
    assert tokenizer(prompts).input_ids == one_by_one
    assert [tokenizer.encode(prompt) for prompt in prompts] == one_by_one
    assert all(
        tokenizer.encode(prompt, return_tensors="pt").tolist() == [tokenizer.encode(prompt)] for prompt in prompts
    )
    padded = tokenizer(prompts, padding=True, return_tensors="pt")
    kept = [ids[mask.bool()].tolist() for ids, mask in zip(padded.input_ids, padded.attention_mask, strict=True)]
    assert kept == one_by_one
    for prompt, ids in zip(prompts, one_by_one, strict=True):
        tokens = tokenizer.convert_ids_to_tokens(ids)
        assert tokenizer.tokenize(prompt, add_special_tokens=True) == tokens
        assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(prompt)) == tokenizer.encode(
            prompt, add_special_tokens=False
        )
        assert tokenizer(prompt, return_tensors="np").input_ids.tolist() == [ids]
    assert sum(one in row_ids for one in one_by_one[2]) == 8


@pytest.mark.parametrize("family", SPLITTING)
@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_cuts_rows_in_order(family: str, side: str) -> None:
    tokenizer, _ = loaded(family)
    tokenizer.truncation_side = side
    prompt = "<mug>, on" if side == "right" else "on <mug>"
    whole = tokenizer(prompt, add_special_tokens=False).input_ids
    for length in range(1, len(whole)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rows are cut off
            ids = tokenizer(prompt, truncation=True, max_length=length, add_special_tokens=False).input_ids
        assert ids == (whole[:length] if side == "right" else whole[-length:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = tokenizer(
            ["on", prompt], max_length=2, truncation=True, return_overflowing_tokens=True, add_special_tokens=False
        )
    parts = split.input_ids[1:] if side == "right" else split.input_ids[:0:-1]
    assert [one for part in parts for one in part] == whole


@pytest.mark.parametrize("family", SPLITTING)
def test_copied_and_reloaded_tokenizers_read_alike(family: str, tmp_path: Path) -> None:
    tokenizer, _ = loaded(family)
    prompt = "a photo (<mug>), on a table"
    ids = tokenizer(prompt).input_ids
    assert copy.deepcopy(tokenizer)(prompt).input_ids == ids
    assert pickle.loads(pickle.dumps(tokenizer))(prompt).input_ids == ids
    tokenizer.save_pretrained(tmp_path)
    reloaded = type(tokenizer).from_pretrained(tmp_path)
    assert reloaded(prompt).input_ids == ids


@pytest.mark.parametrize("family", SPLITTING)
def test_prompts_of_other_shapes_are_read_with_the_names_of_the_rows(family: str) -> None:
    tokenizer, row_ids = loaded(family)
    pair = tokenizer("<mug>, on", "a <mug>").input_ids
    words = tokenizer([["<mug>", "on"]], is_split_into_words=True).input_ids[0]
    assert sum(one in row_ids for one in pair) == 8
    assert [one for one in words if one in row_ids] == row_ids


def test_real_words_of_t5_around_a_concept() -> None:
    folder = ROOT.parent / "shared" / "data" / "tokenizers" / "t5-v1_1"
    if not folder.is_dir():
        pytest.skip("the real tokenizer of T5 is not here")
    description = "a red mug with white boats"
    plain = AutoTokenizer.from_pretrained(folder)
    tokenizer = copy.deepcopy(plain)
    names = row_names("<mug>", len(plain(f"photo {description}", add_special_tokens=False).input_ids) - 1)
    tokenizer.add_tokens(names)
    arm(tokenizer)
    set_triggers(tokenizer, {"<mug>": names})
    row_ids = set(tokenizer.convert_tokens_to_ids(names))
    for prompt in [*PROMPTS, "of {}'s boat", "the words {}: {}; {}?", "wow! {}... and {}"]:
        ids = tokenizer(prompt.replace("{}", "<mug>"), add_special_tokens=False).input_ids
        assert [one for one in ids if one not in row_ids] == around(plain, prompt, description), prompt
        assert sum(one in row_ids for one in ids) == len(names) * prompt.count("{}")
