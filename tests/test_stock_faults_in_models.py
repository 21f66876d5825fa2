"""Faults B7 to B13 of stock textual inversion that ours does not have: what loading and unloading do to the models.

See `test_stock_faults` for the others, and for how stock's behaviour is noted.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from conftest import assert_same, snapshot_of
from diffusers import DiffusionPipeline
from tiny.every_family import FAMILY, load_everywhere, rows_for
from tiny.language_models import text_options
from tiny.language_tokenizers import qwen_tokenizer
from tiny.stock_loader import Note, load_stock, note_stock, raises
from tiny.text import seeded
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from diffusers_supreme_init.text.text_pairs import TextPair, find_text_pairs

pytestmark = pytest.mark.filterwarnings("ignore:.* when it cleans prompts")  # none of the prompts here are cleaned
PLAIN = "a photo of a red mug on the beach"


def build(name: str) -> Any:
    return FAMILY[name].build()


def only_pair(pipe: Any) -> TextPair:
    (pair,) = find_text_pairs(pipe)
    return pair


def load(pipe: Any, num_vectors: int = 4, token: str = "<mug>") -> torch.Tensor:
    """Load a concept into a pipeline's only text encoder, and return its rows."""
    rows = rows_for(only_pair(pipe), num_vectors)
    pipe.load_multitoken_inversion({token: rows})
    return rows


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl", "pixart_alpha", "qwen_image", "sana"])
def test_b07_unloading_leaves_nothing_and_loading_works_again(
    name: str, tmp_path: Path, record_property: Note
) -> None:
    pipe = build(name)
    before = snapshot_of(pipe)
    for _ in range(2):
        expected = load_everywhere(pipe, tmp_path)
        for pair in find_text_pairs(pipe):
            assert torch.equal(pair.rows("<mug>"), expected[pair.encoder_name])
        pipe.unload_multitoken_inversion("<mug>")
        assert_same(before, snapshot_of(pipe))

    def leaves_rows_and_refuses_to_load() -> bool:
        stock = load_stock(build(name))
        pair = find_text_pairs(stock)[0]
        stock.unload_textual_inversion("<mug>", tokenizer=pair.tokenizer, text_encoder=pair.encoder)
        leftovers = [token for token in pair.tokenizer.get_vocab() if token.startswith("<mug>")]
        message = raises(ValueError, lambda: load_stock(stock))
        return bool(leftovers) and "already in tokenizer vocabulary" in (message or "")

    note_stock(record_property, f"B7 ({name})", leaves_rows_and_refuses_to_load)


@pytest.mark.parametrize("name", ["stable_diffusion", "pixart_alpha", "flux2_klein", "sana"])
def test_b08_a_pipeline_can_be_saved_after_unloading(name: str, tmp_path: Path, record_property: Note) -> None:
    def is_loaded_again(pipe: Any, folder: Path) -> Any:
        pipe.save_pretrained(folder)
        return type(pipe).from_pretrained(folder)

    pipe = build(name)
    before = only_pair(pipe).embedding.weight.detach().clone()
    load(pipe, num_vectors=40)  # more than the matrix has rows to spare
    assert only_pair(pipe).encoder.config.get_text_config().vocab_size == len(only_pair(pipe).embedding.weight)
    pipe.unload_multitoken_inversion()
    again = only_pair(is_loaded_again(pipe, tmp_path / "ours"))
    for pair in (only_pair(pipe), again):
        assert torch.equal(pair.embedding.weight, before)
        assert pair.encoder.config.get_text_config().vocab_size == len(before)

    def cannot_be_loaded_again() -> bool:
        stock = load_stock(build(name))
        stock.unload_textual_inversion()
        return raises(RuntimeError, lambda: is_loaded_again(stock, tmp_path / "stock")) is not None

    note_stock(record_property, f"B8 ({name})", cannot_be_loaded_again)


@pytest.mark.parametrize(("name", "token"), [("qwen_image", "<think>"), ("sana", "\n\n")])
def test_b09_unloading_everything_leaves_the_tokenizers_own_tokens(
    name: str, token: str, record_property: Note
) -> None:
    text = f"a mug {token} a dog"
    pipe = build(name)
    before, ids = dict(only_pair(pipe).tokenizer.added_tokens_encoder), only_pair(pipe).tokenizer(text).input_ids
    load(pipe)
    load(pipe, token="<cup>")
    pipe.unload_multitoken_inversion()
    tokenizer = only_pair(pipe).tokenizer
    assert token in before
    assert tokenizer.added_tokens_encoder == before
    assert tokenizer(text).input_ids == ids

    def deletes_them() -> bool:
        stock = load_stock(build(name))
        stock.unload_textual_inversion()
        return token not in stock.tokenizer.added_tokens_encoder

    note_stock(record_property, f"B9 ({name})", deletes_them)


@torch.no_grad()
def test_b10_the_embedding_keeps_its_class_scale_and_hooks(record_property: Note) -> None:
    def plain(pipe: Any) -> torch.Tensor:
        return pipe.encode_prompt(PLAIN, do_classifier_free_guidance=False)[0]

    pipe = build("sana")
    before = plain(pipe)
    embedding = only_pair(pipe).embedding
    assert "Scaled" in type(embedding).__name__
    calls: list[Any] = []
    embedding.register_forward_hook(lambda *call: calls.append(call))
    load(pipe, num_vectors=40)
    assert only_pair(pipe).embedding is embedding
    assert torch.equal(plain(pipe), before)
    pipe.unload_multitoken_inversion()
    assert only_pair(pipe).embedding is embedding
    assert torch.equal(plain(pipe), before)
    assert len(calls) == 2

    def changes_ordinary_prompts() -> bool:
        stock = load_stock(build("sana"))
        stock.unload_textual_inversion("<mug>")
        return not torch.equal(plain(stock), before)

    note_stock(record_property, "B10 (scale)", changes_ordinary_prompts)


@torch.no_grad()
@pytest.mark.parametrize("name", ["stable_diffusion", "pixart_alpha", "sana"])
def test_b10_loading_and_unloading_under_sequential_offload(name: str, record_property: Note) -> None:
    def read(pipe: Any, prompt: str) -> torch.Tensor:
        ids = pipe.tokenizer(prompt, return_tensors="pt").input_ids
        return pipe.text_encoder(ids).last_hidden_state

    pipe, whole = build(name), build(name)
    before = read(pipe, PLAIN)
    cpu_offload(pipe.text_encoder, torch.device("cpu"))
    hooks = hooks_of(pipe.text_encoder)
    load(pipe, num_vectors=40)
    load(whole, num_vectors=40)
    assert only_pair(pipe).embedding.weight.is_meta
    assert hooks_of(pipe.text_encoder) == hooks
    assert torch.equal(read(pipe, PLAIN), before)
    assert torch.equal(read(pipe, "a <mug>"), read(whole, "a <mug>"))
    pipe.unload_multitoken_inversion()
    assert only_pair(pipe).embedding.weight.is_meta
    assert hooks_of(pipe.text_encoder) == hooks
    assert torch.equal(read(pipe, PLAIN), before)

    def breaks_down() -> bool:
        stock = build(name)
        stock.enable_sequential_cpu_offload(device="cpu")
        load_stock(stock)
        return raises(RuntimeError, lambda: stock.unload_textual_inversion("<mug>")) is not None

    note_stock(record_property, f"B10 (sequential offload, {name})", breaks_down)


def hooks_of(encoder: torch.nn.Module) -> dict[str, tuple[str, str]]:
    """Return the class and the execution device of accelerate's hook on every module that has one."""
    hooks = {name: getattr(module, "_hf_hook", None) for name, module in encoder.named_modules()}
    found = {name: hook for name, hook in hooks.items() if hook is not None}
    assert found
    return {name: (type(hook).__name__, str(getattr(hook, "execution_device", ""))) for name, hook in found.items()}


def test_b11_model_offload_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Note
) -> None:
    def devices(pipe: Any) -> set[str]:
        return {
            str(pipe._execution_device),
            str(pipe._offload_device),
            str(pipe.text_encoder._hf_hook.execution_device),
        }

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("offloading was enabled again")

    pipe, stock = build("stable_diffusion_xl"), build("stable_diffusion_xl")
    for one in (pipe, stock):
        one.enable_model_cpu_offload(device="cuda")  # only noted until a model is called, so that no GPU is needed
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    hooks = {name: part._hf_hook for name, part in modules.items() if hasattr(part, "_hf_hook")}
    assert {"text_encoder", "text_encoder_2", "unet"} <= set(hooks)
    with monkeypatch.context() as patch:
        for method in ("enable_model_cpu_offload", "enable_sequential_cpu_offload", "remove_all_hooks", "to"):
            patch.setattr(DiffusionPipeline, method, refuse)
        for undo in (False, True):
            pipe.unload_multitoken_inversion() if undo else load_everywhere(pipe, tmp_path)
            assert devices(pipe) == {"cuda:0"}
            assert all(modules[name]._hf_hook is hook for name, hook in hooks.items())

    def moves_it_to_the_cpu() -> bool:
        load_stock(stock)
        return any(device.startswith("cpu") for device in devices(stock))

    note_stock(record_property, "B11", moves_it_to_the_cpu)


def tied_qwen3() -> Qwen3ForCausalLM:
    """Return a Qwen3 whose output matrix is its embedding matrix, as in the 4B of Flux 2 Klein."""
    return seeded(
        lambda: Qwen3ForCausalLM(Qwen3Config(**text_options(qwen_tokenizer(), 16), tie_word_embeddings=True))
    )


@pytest.mark.parametrize("kind", ["pixart_alpha", "qwen_image", "sana", "flux2_klein", "flux2_klein, tied"])
def test_b12_padded_matrices_never_shrink(kind: str, record_property: Note) -> None:
    def padded() -> tuple[Any, TextPair]:
        pipe = build(kind.split(",")[0])
        if kind.endswith("tied"):
            pipe.text_encoder = tied_qwen3()
        return pipe, only_pair(pipe)

    pipe, pair = padded()
    before, weight = pair.embedding.weight.detach().clone(), pair.embedding.weight
    num_tokens, num_rows = len(pair.tokenizer), len(before)
    num_spare = num_rows - num_tokens
    head = getattr(pair.encoder, "lm_head", None)
    is_tied = head is not None and head.weight is weight
    assert num_spare > 4
    assert is_tied == kind.endswith("tied")
    outputs = None if head is None or is_tied else head.weight.detach().clone()
    for token, num_added, expected_rows in (("<mug>", 4, num_rows), ("<cup>", num_spare, num_rows + 4)):
        load(pipe, num_added, token)
        assert pair.embedding.weight is weight
        assert len(weight) == pair.embedding.num_embeddings == expected_rows
        assert pair.encoder.config.get_text_config().vocab_size == expected_rows
        assert torch.equal(weight[:num_tokens], before[:num_tokens])
        assert not is_tied or (head.weight is weight and head.out_features == expected_rows)
        assert outputs is None or torch.equal(head.weight[:num_rows], outputs)
        if token == "<mug>":
            assert torch.equal(weight[num_tokens + 4 :], before[num_tokens + 4 :])
    pipe.unload_multitoken_inversion()
    assert torch.equal(weight, before)
    assert pair.encoder.config.get_text_config().vocab_size == num_rows

    def shrinks() -> bool:
        stock, stock_pair = padded()
        load_stock(stock)
        return len(stock_pair.embedding.weight) < num_rows

    note_stock(record_property, f"B12 ({kind})", shrinks)


def test_b12_a_pipeline_with_an_output_matrix_can_be_saved_with_a_concept(tmp_path: Path) -> None:
    pipe = build("flux2_klein")
    rows = load(pipe, num_vectors=40)  # the matrix has 21 rows to spare; Mistral's (Flux 2) has none
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    assert torch.equal(only_pair(again).rows("<mug>"), rows)
    again.unload_multitoken_inversion()
    assert again.text_encoder.lm_head.weight.shape == build("flux2_klein").text_encoder.lm_head.weight.shape


@pytest.mark.parametrize("name", ["stable_diffusion_xl", "pixart_alpha", "qwen_image", "sana"])
def test_b13_no_row_is_drawn_and_no_other_row_changes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Note
) -> None:
    resized: list[Any] = []
    pipe = build(name)
    pairs = find_text_pairs(pipe)
    before = [pair.embedding.weight.detach().clone() for pair in pairs]
    num_tokens = [len(pair.tokenizer) for pair in pairs]
    random_state = torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "resize_token_embeddings", lambda *call, **_: resized.append(call))
        load_everywhere(pipe, tmp_path)
        assert resized == []
        assert torch.equal(torch.get_rng_state(), random_state)
        for pair, old, num_old in zip(pairs, before, num_tokens, strict=True):
            assert torch.equal(pair.embedding.weight[:num_old], old[:num_old])
            assert len(pair.row_ids("<mug>")) >= 3
            assert pair.row_ids("<mug>")[0] == num_old
        pipe.unload_multitoken_inversion()
    assert resized == []
    assert torch.equal(torch.get_rng_state(), random_state)

    def draws_rows() -> bool:
        distribution, drawn = torch.distributions.MultivariateNormal, []
        sample = distribution.sample
        with monkeypatch.context() as patch:
            patch.setattr(distribution, "sample", lambda *a, **k: drawn.append(a) or sample(*a, **k))
            load_stock(build(name), num_vectors=60)  # as many as make a padded matrix grow
        return bool(drawn)

    note_stock(record_property, f"B13 ({name})", draws_rows)
