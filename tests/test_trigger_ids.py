"""A trigger is no token, but code that looks it up finds its first row, and diffusers' own loader finds it taken."""

import copy
from pathlib import Path
from typing import Any

import pytest
from tiny.every_family import FAMILY, concept_for, load_everywhere, pair_of, rows_for
from tiny.families import Family
from tiny.stock_loader import load_stock

from diffusers_supreme_init import write_embedding
from diffusers_supreme_init.text.text_pairs import find_text_pairs
from diffusers_supreme_init.triggers import row_table

VARIETY = ["stable_diffusion_xl", "flux", "qwen_image_edit", "sana", "hunyuan_image", "kolors", "hunyuan_dit"]
pytestmark = pytest.mark.filterwarnings("ignore:.*(it when it cleans prompts|rewrite prompts)")


@pytest.mark.parametrize("family", [FAMILY[name] for name in VARIETY], ids=lambda family: family.name)
def test_a_trigger_has_the_id_of_its_first_row(family: Family, tmp_path: Path) -> None:
    pipe = family.build()
    unknown = [slot.tokenizer.convert_tokens_to_ids("<mug>") for pair in find_text_pairs(pipe) for slot in pair.slots]
    sizes = [len(pair.tokenizer.get_vocab()) for pair in find_text_pairs(pipe)]
    load_everywhere(pipe, tmp_path)
    for pair, size in zip(find_text_pairs(pipe), sizes, strict=True):
        for slot in pair.slots:
            tokenizer, row_ids = slot.tokenizer, pair.row_ids("<mug>")
            assert tokenizer.convert_tokens_to_ids("<mug>") == row_ids[0]
            assert tokenizer.convert_tokens_to_ids(["<MUG>", "a"]) == [
                row_ids[0],
                tokenizer.convert_tokens_to_ids("a"),
            ]
            assert tokenizer.get_vocab()["<mug>"] == row_ids[0]
            assert "<mug>" not in list(tokenizer.get_vocab())  # its ids are those of its rows, each counted once
            assert len(tokenizer.get_vocab()) == size + len(row_ids)
            with pytest.raises(KeyError):
                tokenizer.get_vocab()["<cat>"]
    pipe.unload_multitoken_inversion()
    again = [slot.tokenizer.convert_tokens_to_ids("<mug>") for pair in find_text_pairs(pipe) for slot in pair.slots]
    assert again == unknown


def test_a_trigger_that_is_read_as_words_has_no_id(tmp_path: Path) -> None:
    pipe = FAMILY["flux"].build()
    unknown = pipe.tokenizer_2.convert_tokens_to_ids("<mug>")
    file = write_embedding(tmp_path / "mug.safetensors", concept_for(pair_of(pipe, "text_encoder")))
    pipe.load_multitoken_inversion(file)
    assert pipe.tokenizer_2.convert_tokens_to_ids("<mug>") == unknown


def test_rows_that_stock_removed_leave_no_id() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    unknown = pipe.tokenizer.convert_tokens_to_ids("<mug>")
    pipe.load_multitoken_inversion({"<mug>": rows_for(pair_of(pipe, "text_encoder"))})
    pipe.unload_textual_inversion()
    assert pipe.tokenizer.convert_tokens_to_ids("<mug>") == unknown


@pytest.mark.parametrize("token", ["<mug>", "<MUG>"])
def test_stock_refuses_a_name_that_ours_holds(token: str, unchanged: Any) -> None:
    pipe = FAMILY["stable_diffusion"].build()
    pipe.load_multitoken_inversion({"<mug>": rows_for(pair_of(pipe, "text_encoder"))})
    unchanged(pipe)
    with pytest.raises(ValueError, match=f"Token {token} already in tokenizer vocabulary"):
        load_stock(pipe, token)


def test_stock_refuses_a_name_that_an_encoder_reads_as_words(tmp_path: Path, unchanged: Any) -> None:
    pipe = FAMILY["flux"].build()
    first, second = find_text_pairs(pipe)
    pipe.load_multitoken_inversion({"<mug>": rows_for(first)}, description="a mug")
    unchanged(pipe)
    with pytest.raises(ValueError, match="Token <mug> already in tokenizer vocabulary"):
        pipe.load_textual_inversion(
            rows_for(second), token="<mug>", tokenizer=second.tokenizer, text_encoder=second.encoder
        )


@pytest.mark.parametrize("name", ["stable_diffusion", "hunyuan_image", "kolors"])
def test_tokens_added_by_others_get_the_next_free_id(name: str, tmp_path: Path) -> None:
    pipe = FAMILY[name].build()
    load_everywhere(pipe, tmp_path)
    for pair in find_text_pairs(pipe):
        tokenizer = copy.deepcopy(pair.tokenizer)
        num_tokens = len(tokenizer)
        assert tokenizer.add_tokens(["<new>"]) == 1
        assert tokenizer.convert_tokens_to_ids("<new>") == num_tokens
        assert tokenizer("<new> <mug>").input_ids.count(num_tokens) == 1
        assert set(pair.row_ids("<mug>")) <= set(tokenizer("<new> <mug>").input_ids)


def test_a_tokenizer_without_concepts_is_as_transformers_made_it() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    made = type(pipe.tokenizer)
    pipe.load_multitoken_inversion({"<mug>": rows_for(pair_of(pipe, "text_encoder"))})
    assert type(pipe.tokenizer) is not made
    pipe.unload_multitoken_inversion()
    assert type(pipe.tokenizer) is made
    assert type(pipe.tokenizer.get_vocab()) is dict


def test_of_triggers_that_begin_alike_the_longest_is_read() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    rows = rows_for(pair_of(pipe, "text_encoder"))
    pipe.load_multitoken_inversion([{"zq": rows}, {"zq-2": rows}, {"<zq": rows}, {"<zq>": rows}])
    table = row_table(pipe.tokenizer)
    for trigger, names in table.items():
        assert pipe.tokenizer.tokenize(f"a {trigger}, zq") == ["a</w>", *names, ",</w>", *table["zq"]]
