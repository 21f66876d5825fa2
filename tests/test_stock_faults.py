"""Faults of stock `load_textual_inversion` that ours does not have: what prompts are read as, and what errors say.

The faults and their numbers are those of `test_stock_faults_in_models` as well, which has the rest of them. Every
assertion is about our loader. Where it is cheap, a test also asks stock and notes the answer (`note_stock`), which
documents the diffusers that is installed and cannot fail: ``pytest -rP tests/test_stock_faults*.py | grep ^stock``
lists the notes, ``--junitxml`` keeps them as properties of the tests.
"""

import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxImg2ImgPipeline, FluxInpaintPipeline
from safetensors.torch import save_file
from tiny.every_family import FAMILY, load_everywhere, rows_for
from tiny.families import RecordIds, holds_run
from tiny.stock_loader import Note, load_stock, note_stock, raises, read_ids, stock_ids

from diffusers_supreme_init import ConceptLoadError, EmbeddingFileError, SupremeInitWarning
from diffusers_supreme_init.text.text_pairs import find_text_pairs
from diffusers_supreme_init.triggers import row_table

Unchanged = Callable[[Any], None]
NOT_CLEANED = pytest.mark.filterwarnings("ignore:.* when it cleans prompts")  # these tests do not let it
PLACES = ("<mug> on the beach", "<mug> in the park at night")


@pytest.fixture
def pipe() -> Any:
    """A tiny Stable Diffusion whose CLIP has the legacy `eos_token_id` of the real one."""
    return FAMILY["stable_diffusion"].build()


@pytest.fixture
def stock_pipe() -> Any:
    """An equal one, for stock."""
    return FAMILY["stable_diffusion"].build()


def rows(pipe: Any, num_vectors: int = 4) -> torch.Tensor:
    return rows_for(find_text_pairs(pipe)[0], num_vectors)


@torch.no_grad()
def pooled(pipe: Any, prompt: str) -> torch.Tensor:
    return pipe.encode_prompt(prompt, prompt_2=None, **({"prompt_3": None} if hasattr(pipe, "tokenizer_3") else {}))[
        1 if "Flux" in type(pipe).__name__ else 2
    ]


@torch.no_grad()
def clip_pooled_and_end(pair: Any, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return CLIP's pooled vector, and what it should be: the hidden state at the end of the prompt."""
    ids = pair.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
    output = pair.encoder(ids)
    end = output.last_hidden_state[:, ids[0].tolist().index(pair.tokenizer.eos_token_id)]
    if hasattr(output, "text_embeds"):
        return output.text_embeds, pair.encoder.text_projection(end)
    return output.pooler_output, end


@pytest.mark.parametrize("name", ["stable_diffusion_xl", "stable_diffusion_3", "flux"])
def test_b01_pooled_output_is_taken_at_the_end_of_the_prompt(name: str, tmp_path: Path, record_property: Note) -> None:
    pipe = FAMILY[name].build()
    before = pooled(pipe, "a red mug")
    load_everywhere(pipe, tmp_path)
    assert torch.equal(pooled(pipe, "a red mug"), before)
    assert not torch.equal(pooled(pipe, PLACES[0]), pooled(pipe, PLACES[1]))
    for pair in find_text_pairs(pipe):
        if type(pair.encoder).__name__.startswith("CLIP"):
            got, expected = clip_pooled_and_end(pair, PLACES[0])
            assert torch.equal(got, expected), pair.label

    def ignores_the_rest_of_the_prompt() -> bool:
        stock = load_stock(FAMILY[name].build())
        return torch.equal(pooled(stock, PLACES[0]), pooled(stock, PLACES[1]))

    note_stock(record_property, f"B1 ({name})", ignores_the_rest_of_the_prompt)


def test_b02_capital_letters_in_token_and_prompt(pipe: Any, stock_pipe: Any, record_property: Note) -> None:
    pipe.load_multitoken_inversion({"<Mug>": rows(pipe)})
    row_ids = find_text_pairs(pipe)[0].row_ids("<Mug>")
    assert len(row_ids) == 4
    for spelling in ("<Mug>", "<mug>", "<MUG>"):
        ids = read_ids(FAMILY["stable_diffusion"], pipe, f"a {spelling}")["text_encoder"][0]
        assert holds_run(ids, row_ids), spelling
        assert len(set(ids)) == 7  # BOS, "a", four rows and EOS: nothing of the token is read as letters

    def reads_too_few_rows() -> bool:
        load_stock(stock_pipe, "<Mug>")
        ids = stock_pipe.tokenizer(stock_pipe.maybe_convert_prompt("a <Mug>", stock_pipe.tokenizer)).input_ids
        return not set(stock_ids(find_text_pairs(stock_pipe)[0], "<Mug>")) <= set(ids)

    note_stock(record_property, "B2", reads_too_few_rows)


def test_b03_tokens_that_begin_or_lie_within_other_words(pipe: Any, stock_pipe: Any, record_property: Note) -> None:
    words = "zmgs azmga zmg_1 azmg2 zmg22"
    as_before = pipe.tokenizer.tokenize(words)
    pipe.load_multitoken_inversion([{"zmg": rows(pipe, 3)}, {"zmg2": rows(pipe, 4)}])
    tokenize = pipe.tokenizer.tokenize
    table = row_table(pipe.tokenizer)
    assert [len(table[token]) for token in ("zmg", "zmg2")] == [3, 4]
    assert tokenize("a zmg, zmg2") == ["a</w>", *table["zmg"], ",</w>", *table["zmg2"]]
    assert tokenize("zmg2 zmg") == [*table["zmg2"], *table["zmg"]]
    assert tokenize(words) == as_before

    def mixes_them_up() -> bool:
        load_stock(load_stock(stock_pipe, "zmg", 3), "zmg2", 4)
        converted = stock_pipe.maybe_convert_prompt("a zmg, zmg2", stock_pipe.tokenizer)
        (pair,) = find_text_pairs(stock_pipe)
        ids = stock_pipe.tokenizer(converted).input_ids[1:-1]
        _, first, comma, second = ids[:1], ids[1:4], ids[4:5], ids[5:]
        return (first, second) != (stock_ids(pair, "zmg", 3), stock_ids(pair, "zmg2", 4)) or len(comma) != 1

    note_stock(record_property, "B3", mixes_them_up)


@pytest.mark.parametrize("token", ["<mug>", "zmg"])
def test_b04_a_prompt_that_is_converted_already_stays_as_it_is(
    token: str, pipe: Any, stock_pipe: Any, record_property: Note
) -> None:
    pipe.load_multitoken_inversion({token: rows(pipe, 3)})
    names = row_table(pipe.tokenizer)[token]
    expected = pipe.tokenizer.tokenize(f"a {token}")
    assert expected == ["a</w>", *names]
    written_out = "a " + "".join(names)
    for prompt in (f"a {token}", written_out, "a " + " ".join(names)):
        once = pipe.maybe_convert_prompt(prompt, pipe.tokenizer)  # the pipeline itself calls it
        twice = pipe.maybe_convert_prompt(once, pipe.tokenizer)
        for text in (prompt, once, twice):
            assert pipe.tokenizer.tokenize(text) == expected
    assert pipe.tokenizer.tokenize(f"{written_out} {token}") == [*expected, *names]

    def grows_each_time() -> bool:
        load_stock(stock_pipe, token)
        once = stock_pipe.maybe_convert_prompt(f"a {token}", stock_pipe.tokenizer)
        return stock_pipe.maybe_convert_prompt(once, stock_pipe.tokenizer) != once

    note_stock(record_property, f"B4 ({token})", grows_each_time)


@torch.no_grad()
@pytest.mark.parametrize("other_class", [FluxImg2ImgPipeline, FluxInpaintPipeline])
def test_b05_from_pipe_keeps_all_rows(other_class: type, tmp_path: Path, record_property: Note) -> None:
    def ids_of_other(pipe: Any) -> dict[str, list[int]]:
        other = other_class.from_pipe(pipe)
        with RecordIds(other) as record:
            other.encode_prompt("a <mug>", prompt_2=None)
        return {name: calls[-1][0].tolist() for name, calls in record.ids.items()}

    pipe = FAMILY["flux"].build()
    expected = load_everywhere(pipe, tmp_path)
    ids = ids_of_other(pipe)
    assert sorted(ids) == sorted(expected) == ["text_encoder", "text_encoder_2"]
    for pair in find_text_pairs(pipe):
        assert holds_run(ids[pair.encoder_name], pair.row_ids("<mug>"))
        assert len(pair.row_ids("<mug>")) == len(expected[pair.encoder_name]) > 1

    def loses_rows() -> bool:
        stock = load_stock(FAMILY["flux"].build())
        ids = ids_of_other(stock)
        return not all(set(stock_ids(pair)) <= set(ids[pair.encoder_name]) for pair in find_text_pairs(stock))

    note_stock(record_property, f"B5 ({other_class.__name__})", loses_rows)


def test_b06_one_file_for_both_encoders_of_sdxl(tmp_path: Path, record_property: Note) -> None:
    family = FAMILY["stable_diffusion_xl"]
    pipe = family.build()
    first, second = find_text_pairs(pipe)
    made = {"clip_l": rows_for(first, 3), "clip_g": rows_for(second, 5, seed=1)}
    file = tmp_path / "mug.safetensors"
    save_file(made, file)
    (report,) = pipe.load_multitoken_inversion(file, token="<mug>")
    assert report.num_vectors == {"text_encoder": 3, "text_encoder_2": 5}
    assert torch.equal(first.rows("<mug>"), made["clip_l"])
    assert torch.equal(second.rows("<mug>"), made["clip_g"])
    ids = read_ids(family, pipe, "a <mug>")
    for pair in (first, second):
        assert any(holds_run(row, pair.row_ids("<mug>")) for row in ids[pair.encoder_name])

    def refuses_the_file() -> bool:
        stock = family.build()
        message = raises(ValueError, lambda: stock.load_textual_inversion(str(file), token="<mug>"))
        return "state dictionary is incorrect" in (message or "")

    note_stock(record_property, "B6 (one call)", refuses_the_file)


def test_b06_an_encoder_that_reads_letters_is_told(record_property: Note) -> None:
    family = FAMILY["stable_diffusion_xl"]
    pipe = family.build()
    made = rows(pipe)
    with pytest.warns(SupremeInitWarning, match="<mug>: text_encoder_2 will read it as letters"):
        (report,) = pipe.load_multitoken_inversion({"<mug>": made})
    assert report.loaded == ("text_encoder",)
    assert list(report.missing) == ["text_encoder_2"]

    def fills_only_one_silently() -> bool:
        stock = family.build()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stock.load_textual_inversion({"<mug>": made})
        return not caught and len(stock.tokenizer.tokenize("<mug>")) == 1 < len(stock.tokenizer_2.tokenize("<mug>"))

    note_stock(record_property, "B6 (default call)", fills_only_one_silently)


@NOT_CLEANED
@pytest.mark.parametrize("name", ["qwen_image", "z_image", "sana", "lumina2"])
def test_b14_no_token_comes_between_the_rows(name: str, tmp_path: Path, record_property: Note) -> None:
    family = FAMILY[name]
    pipe = family.build()
    load_everywhere(pipe, tmp_path)
    (pair,) = find_text_pairs(pipe)
    row_ids = pair.row_ids("<mug>")
    assert len(row_ids) == 3
    for prompt in ("a photo of <mug> on the beach", "<mug>", "mug,<mug>,mug"):
        ids = read_ids(family, pipe, prompt)[pair.encoder_name]
        assert any(holds_run(row, row_ids) for row in ids), prompt

    def puts_spaces_between() -> bool:
        stock = load_stock(family.build())
        (stock_pair,) = find_text_pairs(stock)
        converted = stock.maybe_convert_prompt("a photo of <mug> on the beach", stock_pair.tokenizer)
        ids, rows_read = stock_pair.tokenizer(converted).input_ids, stock_ids(stock_pair)
        return set(rows_read) <= set(ids) and not holds_run(ids, rows_read)

    note_stock(record_property, f"B14 ({name})", puts_spaces_between)


@torch.no_grad()
def test_b15_a_concept_that_is_cut_off_is_told_in_numbers(pipe: Any, stock_pipe: Any, record_property: Note) -> None:
    prompt = "mug " * 71 + "<mug>"  # with BOS and EOS this leaves room for 4 rows
    pipe.load_multitoken_inversion({"<mug>": rows(pipe, 8)})
    message = "the prompt needs 81 tokens but only 77 are read: 4 of 8 concept rows are cut off"
    with pytest.warns(SupremeInitWarning, match=message):
        pipe.encode_prompt(prompt, "cpu", 1, False)
    pipe.encode_prompt("<mug> " + "mug " * 80, "cpu", 1, False)  # only words are cut: a warning would be an error here

    def cuts_silently() -> bool:
        load_stock(stock_pipe, num_vectors=8)
        with warnings.catch_warnings(record=True) as caught, RecordIds(stock_pipe) as record:
            warnings.simplefilter("always")
            stock_pipe.encode_prompt(prompt, "cpu", 1, False)
        read = set(record.ids["text_encoder"][-1][0].tolist())
        num_kept = len(read & set(stock_ids(find_text_pairs(stock_pipe)[0], num_vectors=8)))
        return not caught and 0 < num_kept < 8

    note_stock(record_property, "B15", cuts_silently)


@NOT_CLEANED
def test_b15_also_where_the_pipeline_chooses_the_window(tmp_path: Path) -> None:
    family = FAMILY["pixart_alpha"]
    pipe = family.build()
    load_everywhere(pipe, tmp_path)
    message = "the prompt needs 6 tokens but only 4 are read: 2 of 3 concept rows are cut off"
    with pytest.warns(SupremeInitWarning, match=message), torch.no_grad():
        pipe.encode_prompt("a mug <mug>", do_classifier_free_guidance=False, max_sequence_length=4)


def test_b16_messages_carry_the_numbers(
    pipe: Any, stock_pipe: Any, unchanged: Unchanged, record_property: Note
) -> None:
    unchanged(pipe)
    too_wide = torch.zeros(2, 33)
    with pytest.raises(ConceptLoadError) as caught:
        pipe.load_multitoken_inversion({"<mug>": too_wide})
    assert {"33", "32"} <= set(re.findall(r"\d+", str(caught.value)))
    assert "{" not in str(caught.value)

    def prints_its_own_source() -> bool:
        message = raises(ValueError, lambda: stock_pipe.load_textual_inversion({"<mug>": too_wide}))
        return "{input_embeddings.shape[-1]}" in (message or "")

    note_stock(record_property, "B16 (message)", prints_its_own_source)


def test_b16_documented_arguments_exist_and_token_works(pipe: Any, stock_pipe: Any, record_property: Note) -> None:
    for method in (pipe.load_multitoken_inversion, pipe.unload_multitoken_inversion):
        text, arguments = inspect.getdoc(method), inspect.signature(method).parameters
        documented = text.partition("Args:\n")[2].partition("\n\n")[0]
        if documented:
            assert re.findall(r"^    (\w+):", documented, re.MULTILINE) == list(arguments)
        called = re.findall(r"`?`?\w*load_multitoken_inversion\(([^)]*)\)", text)
        assert set(re.findall(r"(\w+)=", " ".join(called))) <= set(arguments)
    made = [rows(pipe), rows(pipe, 2)]
    pipe.load_multitoken_inversion({"<mug>": made[0]}, token="<cup>")
    pipe.load_multitoken_inversion([{"<a>": made[0]}, {"<b>": made[1]}], token=["<bowl>", "<jug>"])
    assert list(row_table(pipe.tokenizer)) == ["<cup>", "<bowl>", "<jug>"]
    pipe.unload_multitoken_inversion(token="<cup>")
    assert list(row_table(pipe.tokenizer)) == ["<bowl>", "<jug>"]

    def documents_an_argument_it_lacks() -> bool:
        text = inspect.getdoc(stock_pipe.unload_textual_inversion)
        is_documented = re.search(r"\.load_textual_inversion\([^)]*tokens=\[", text) is not None
        error = raises(Exception, lambda: stock_pipe.load_textual_inversion(made[1], tokens=["<s0>", "<s1>"]))
        return is_documented and error is not None

    note_stock(record_property, "B16 (argument)", documents_an_argument_it_lacks)


def test_b17_rows_of_another_shape_are_refused(
    pipe: Any, stock_pipe: Any, unchanged: Unchanged, record_property: Note
) -> None:
    unchanged(pipe)
    message = r"expected \(num_vectors, hidden_size\) with rows, got shape \(1, 8, 32\)"
    with pytest.raises(EmbeddingFileError, match=message):
        pipe.load_multitoken_inversion({"<mug>": torch.zeros(1, 8, 32)})

    def breaks_down() -> bool:
        error = raises(Exception, lambda: stock_pipe.load_textual_inversion({"<mug>": torch.zeros(1, 8, 32)}))
        return error is not None and "shape (1, 8, 32)" not in error

    note_stock(record_property, "B17 (shape)", breaks_down)


def test_b17_rows_without_a_name_are_loaded_or_refused_in_words(pipe: Any) -> None:
    made = rows(pipe)
    with pytest.raises(EmbeddingFileError, match="does not name its concept; pass e.g. token="):
        pipe.load_multitoken_inversion(made)
    with pytest.raises(EmbeddingFileError, match=r"got shape \(1, \d, 32\)"):
        pipe.load_multitoken_inversion([made[None]], token="<mug>")
    with pytest.raises(EmbeddingFileError, match="a Hub id 'user/name' or a state dict, got a NoneType"):
        pipe.load_multitoken_inversion([None], token="<mug>")
    pipe.load_multitoken_inversion(made, token="<mug>")
    assert torch.equal(find_text_pairs(pipe)[0].rows("<mug>"), made)


def test_b17_an_encoder_in_fp8_is_refused(
    pipe: Any, stock_pipe: Any, unchanged: Unchanged, record_property: Note
) -> None:
    made = rows(pipe)
    for one in (pipe, stock_pipe):
        one.text_encoder.get_input_embeddings().to(torch.float8_e4m3fn)
    unchanged(pipe)
    with pytest.raises(ConceptLoadError, match="got torch.float8_e4m3fn; load this encoder without quantisation"):
        pipe.load_multitoken_inversion({"<mug>": made})

    def breaks_down() -> bool:
        error = raises(Exception, lambda: stock_pipe.load_textual_inversion({"<mug>": made}))
        return error is not None and "quantis" not in error and "quantiz" not in error

    note_stock(record_property, "B17 (fp8)", breaks_down)
