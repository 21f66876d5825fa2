"""What happens to a concept while a pipeline lives: copied, saved, shared, offloaded, compiled, adapted, unloaded."""

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from conftest import assert_same, snapshot_of
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image, DiffusionPipeline
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from peft import LoraConfig
from PIL import Image
from tiny.every_family import FAMILY, concept_for, load_everywhere, rows_for
from tiny.families import Family, RecordIds, run
from transformers import AutoTokenizer

from diffusers_supreme_init import ConceptLoadError, SupremeInitWarning, write_embedding
from diffusers_supreme_init.text import vocabulary
from diffusers_supreme_init.text.text_pairs import find_text_pairs
from diffusers_supreme_init.text.vocabulary import ConceptVocabulary

VARIETY = ["stable_diffusion_xl", "flux", "qwen_image_edit", "sana", "hunyuan_image", "kolors", "hunyuan_dit"]
"""CLIP twice, T5, a tokenizer in a processor, Gemma, ByT5 and ChatGLM (tokenizers in Python), BERT."""
pytestmark = pytest.mark.filterwarnings("ignore:.*(it when it cleans prompts|rewrite prompts)")  # not in these calls
PLAIN, WITH_CONCEPT = "a red mug", 'a <mug>, "<mug>"'


def in_variety(names: list[str] = VARIETY) -> Any:
    return pytest.mark.parametrize("family", [FAMILY[name] for name in names], ids=lambda family: family.name)


def load(pipe: Any, token: str, seed: int = 0, num_vectors: int = 3) -> None:
    """Load random rows into every text encoder."""
    for pair in find_text_pairs(pipe):
        pipe.load_multitoken_inversion(
            {token: rows_for(pair, num_vectors, seed)}, text_encoder=pair.encoder_name, description=False
        )


@in_variety()
@pytest.mark.filterwarnings("ignore:'<b>' in the prompt is not a loaded concept")
def test_unloading_the_middle_one_moves_no_other(family: Family) -> None:
    pipe, other = family.build(), family.build()
    for seed, token in enumerate(("<a>", "<b>", "<c>")):
        load(pipe, token, seed, num_vectors=2 + seed)
        if token != "<b>":
            load(other, token, seed, num_vectors=2 + seed)
    ids = [pair.row_ids("<c>") for pair in find_text_pairs(pipe)]
    pipe.unload_multitoken_inversion("<b>")
    for prompt in ('a <b>, "<b>"', 'a <a> and <c>, "<a> <c>"'):
        assert np.array_equal(run(family, pipe, prompt), run(family, other, prompt))
    assert [pair.row_ids("<c>") for pair in find_text_pairs(pipe)] == ids
    load(pipe, "<b>", seed=7)
    for pair in find_text_pairs(pipe):
        assert torch.equal(pair.rows("<b>"), rows_for(pair, seed=7).to(pair.embedding.weight.dtype))
        assert torch.equal(pair.rows("<c>"), rows_for(pair, 4, seed=2).to(pair.embedding.weight.dtype))


@in_variety()
def test_a_hole_closes_when_what_lies_behind_it_is_gone(family: Family) -> None:
    pipe, other = family.build(), family.build()
    for seed, token in enumerate(("<a>", "<b>", "<c>")):
        load(pipe, token, seed)
    load(other, "<a>")
    pipe.unload_multitoken_inversion("<b>")
    pipe.unload_multitoken_inversion("<c>")
    assert_same(snapshot_of(other), snapshot_of(pipe))
    pipe.unload_multitoken_inversion("<a>")
    assert_same(snapshot_of(family.build()), snapshot_of(pipe))


@in_variety()
def test_loading_again_changes_nothing(family: Family, tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    pipe = family.build()
    load_everywhere(pipe, tmp_path)
    unchanged(pipe)
    load_everywhere(pipe, tmp_path)


@in_variety(["stable_diffusion_xl", "flux", "flux2", "sana", "hunyuan_image", "kolors", "hunyuan_dit"])
def test_a_saved_pipeline_comes_back_with_its_concepts_and_loses_them_again(family: Family, tmp_path: Path) -> None:
    pipe = family.build()
    before = run(family, pipe, PLAIN)
    load_everywhere(pipe, tmp_path / "concepts")
    with_concept = run(family, pipe, WITH_CONCEPT)
    pipe.save_pretrained(tmp_path / "saved")
    again = DiffusionPipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert np.allclose(run(family, again, WITH_CONCEPT), with_concept, atol=1e-5)  # weights lie elsewhere in memory
    again.save_pretrained(tmp_path / "second")
    again = DiffusionPipeline.from_pretrained(tmp_path / "second")
    again.set_progress_bar_config(disable=True)
    assert np.allclose(run(family, again, WITH_CONCEPT), with_concept, atol=1e-5)  # weights lie elsewhere in memory
    again.unload_multitoken_inversion()
    assert np.allclose(run(family, again, PLAIN), before, atol=1e-5)
    for old, new in zip(find_text_pairs(family.build()), find_text_pairs(again), strict=True):
        assert len(old.tokenizer) == len(new.tokenizer)
        assert old.embedding.weight.shape == new.embedding.weight.shape
        assert old.encoder.config.get_text_config().vocab_size == new.encoder.config.get_text_config().vocab_size
    again.save_pretrained(tmp_path / "third")
    assert "multitoken" not in (tmp_path / "third" / "model_index.json").read_text()


def test_a_tokenizer_that_was_loaded_alone_works_once_a_pipeline_sees_it(tmp_path: Path) -> None:
    family = FAMILY["stable_diffusion"]
    pipe = family.build()
    load(pipe, "<mug>")
    ids = pipe.tokenizer("a <mug>").input_ids
    pipe.tokenizer.save_pretrained(tmp_path)
    pipe.tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    load(pipe, "<mug>")
    assert pipe.tokenizer("a <MUG>").input_ids == ids


def test_auto_pipelines_and_from_pipe_keep_the_concept(tmp_path: Path) -> None:
    family = FAMILY["stable_diffusion"]
    pipe = family.build()
    load(pipe, "<mug>")
    pipe.save_pretrained(tmp_path)
    auto = AutoPipelineForText2Image.from_pretrained(tmp_path)
    auto.set_progress_bar_config(disable=True)
    assert np.array_equal(run(family, auto, WITH_CONCEPT), run(family, pipe, WITH_CONCEPT))
    image_to_image = AutoPipelineForImage2Image.from_pipe(pipe)
    image_to_image.set_progress_bar_config(disable=True)
    with RecordIds(image_to_image) as record:
        picture = Image.new("RGB", (16, 16), "red")
        image_to_image("a <mug>", image=picture, strength=1.0, num_inference_steps=1)
    row_ids = find_text_pairs(pipe)[0].row_ids("<mug>")
    assert set(row_ids) <= set(record.ids["text_encoder"][0].flatten().tolist())
    image_to_image.unload_multitoken_inversion("<mug>")  # the parts are shared, so it is gone from both
    with pytest.raises(ConceptLoadError, match="there are none"):
        pipe.unload_multitoken_inversion("<mug>")


@in_variety()
def test_copies_are_independent(family: Family, unchanged: Callable[[Any], None]) -> None:
    pipe = family.build()
    load(pipe, "<mug>")
    load(pipe, "<cat>", seed=1)
    unchanged(pipe)
    twin = copy.deepcopy(pipe)
    assert np.array_equal(run(family, twin, WITH_CONCEPT), run(family, copy.deepcopy(pipe), WITH_CONCEPT))
    twin.unload_multitoken_inversion("<mug>")
    assert all(torch.equal(pair.rows("<cat>"), rows_for(pair, seed=1)) for pair in find_text_pairs(twin))


@in_variety(["stable_diffusion_xl", "qwen_image_edit", "hunyuan_image"])
def test_tokenizers_and_processors_pickle(family: Family) -> None:
    pipe = family.build()
    load(pipe, "<mug>")
    for pair in find_text_pairs(pipe):
        for slot in pair.slots:
            again = pickle.loads(pickle.dumps(slot.processor or slot.tokenizer))
            tokenizer = getattr(again, "tokenizer", again)
            assert tokenizer.tokenize("a <MUG>") == slot.tokenizer.tokenize("a <MUG>")


def test_pipelines_that_share_only_a_tokenizer() -> None:
    family = FAMILY["stable_diffusion"]
    pipe, other = family.build(), family.build()
    other.tokenizer = pipe.tokenizer
    pair, other_pair = find_text_pairs(pipe)[0], find_text_pairs(other)[0]
    plain = run(family, other, PLAIN)
    load(pipe, "<mug>")
    load(pipe, "<cat>", seed=1)
    assert np.array_equal(run(family, other, PLAIN), plain)
    with pytest.raises(ConceptLoadError, match="another concept of that name"):
        other.load_multitoken_inversion({"<cat>": rows_for(other_pair, 5)})
    other.load_multitoken_inversion({"<cat>": rows_for(other_pair, seed=2)})  # its own rows for the same word
    assert torch.equal(other_pair.rows("<cat>"), rows_for(other_pair, seed=2))
    assert torch.equal(pair.rows("<cat>"), rows_for(pair, seed=1))
    pipe.unload_multitoken_inversion("<mug>")
    assert torch.equal(other_pair.rows("<cat>"), rows_for(other_pair, seed=2))
    assert torch.equal(pair.rows("<cat>"), rows_for(pair, seed=1))
    other.unload_multitoken_inversion()
    assert len(pair.tokenizer) == len(pair.embedding.weight) == len(other_pair.embedding.weight)
    assert np.array_equal(run(family, other, PLAIN), plain)


def test_pipelines_that_share_only_a_padded_encoder_or_tokenizer() -> None:
    family = FAMILY["pixart_sigma"]
    for shared in ("tokenizer", "text_encoder"):
        pipe, other = family.build(), family.build()
        setattr(other, shared, getattr(pipe, shared))
        before = snapshot_of(other)
        pair, other_pair = find_text_pairs(pipe)[0], find_text_pairs(other)[0]
        load(pipe, "<a>", seed=1, num_vectors=40)  # more than the padding
        load(pipe, "<b>", seed=2)
        load(other, "<b>", seed=2)
        pipe.unload_multitoken_inversion("<a>")
        for one in (pair, other_pair):
            assert torch.equal(one.rows("<b>"), rows_for(one, seed=2))
        other.unload_multitoken_inversion("<b>")
        assert_same(before, snapshot_of(other))


def test_pipelines_that_share_only_an_encoder(unchanged: Callable[[Any], None]) -> None:
    family = FAMILY["stable_diffusion"]
    pipe, other = family.build(), family.build()
    other.text_encoder = pipe.text_encoder
    unchanged(other)
    pair = find_text_pairs(pipe)[0]
    load(pipe, "<mug>")
    load(other, "<cat>", seed=1)  # its tokenizer learns <mug> first: the ids of the shared rows have to agree
    assert np.array_equal(run(family, other, WITH_CONCEPT), run(family, pipe, WITH_CONCEPT))
    load(pipe, "<cat>", seed=1)
    pipe.unload_multitoken_inversion("<mug>")
    assert torch.equal(find_text_pairs(other)[0].rows("<cat>"), rows_for(pair, seed=1))
    other.unload_multitoken_inversion("<cat>")
    assert pipe.tokenizer.tokenize("<cat>") == family.build().tokenizer.tokenize("<cat>")


def test_an_encoder_whose_concepts_the_tokenizer_cannot_learn_is_refused(unchanged: Callable[[Any], None]) -> None:
    family = FAMILY["stable_diffusion"]
    pipe, other = family.build(), family.build()
    other.text_encoder = pipe.text_encoder
    load(pipe, "<mug>")
    other.tokenizer.add_tokens(["something-else"])
    unchanged(other)
    with pytest.raises(
        ConceptLoadError, match="it holds <mug>, which tokenizer does not know; give this pipeline the"
    ):
        load(other, "<cat>")


OFFLOADING: dict[str, Callable[[Any], None]] = {
    "model": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    # What `enable_sequential_cpu_offload` does, which refuses the device "cpu".
    "sequential": lambda pipe: [
        cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
    ],
    "group, leaves": lambda pipe: [
        apply_group_offloading(pair.encoder, torch.device("cpu"), offload_type="leaf_level")
        for pair in find_text_pairs(pipe)
    ],
    "group, blocks": lambda pipe: [
        apply_group_offloading(pair.encoder, torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)
        for pair in find_text_pairs(pipe)
    ],
}


@pytest.mark.parametrize("kind", OFFLOADING)
@in_variety(["stable_diffusion_xl", "flux", "sana"])
def test_loading_and_unloading_under_offloading(family: Family, kind: str) -> None:
    plain_pipe, pipe = family.build(), family.build()
    before = run(family, plain_pipe, PLAIN)
    load(plain_pipe, "<mug>")
    OFFLOADING[kind](pipe)
    hooks = hooks_of(pipe)
    assert hooks
    assert np.array_equal(run(family, pipe, PLAIN), before)
    load(pipe, "<mug>")
    load(pipe, "<mug>")
    assert hooks_of(pipe) == hooks
    assert np.array_equal(run(family, pipe, WITH_CONCEPT), run(family, plain_pipe, WITH_CONCEPT))
    assert np.array_equal(run(family, pipe, PLAIN), before)
    pipe.unload_multitoken_inversion()
    assert np.array_equal(run(family, pipe, PLAIN), before)


def hooks_of(pipe: Any) -> dict[str, str]:
    """Return the hooks of a pipeline's text encoders by module."""
    found = {}
    for pair in find_text_pairs(pipe):
        for name, part in pair.encoder.named_modules():
            hooks = [re.sub(" at 0x.*", "", repr(getattr(part, "_hf_hook", ""))), *diffusers_hooks(part)]
            if any(hooks):
                found[f"{pair.encoder_name}.{name}"] = " ".join(hooks)
    return found


def diffusers_hooks(part: torch.nn.Module) -> list[str]:
    return list(part._diffusers_hook.hooks) if hasattr(part, "_diffusers_hook") else []


def test_weights_on_disk_are_refused(tmp_path: Path) -> None:
    family = FAMILY["stable_diffusion"]
    pipe = family.build()
    disk_offload(pipe.text_encoder, tmp_path / "one", execution_device=torch.device("cpu"))
    with pytest.raises(ConceptLoadError, match="its weights are offloaded to disk; load concepts first"):
        load(pipe, "<mug>")
    pipe = family.build()
    apply_group_offloading(
        pipe.text_encoder, torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path / "two")
    )
    with pytest.raises(ConceptLoadError, match="its weights are offloaded to disk"):
        load(pipe, "<mug>")


@pytest.mark.long
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_encoders(how: str) -> None:
    family = FAMILY["stable_diffusion"]
    pipe, eager = family.build(), family.build()
    if how == "wrapped":
        pipe.text_encoder = torch.compile(pipe.text_encoder, backend="aot_eager")
    else:
        pipe.text_encoder.compile(backend="aot_eager")
    before = run(family, pipe, PLAIN)
    load(pipe, "<mug>")
    load(eager, "<mug>")
    assert np.allclose(run(family, pipe, WITH_CONCEPT), run(family, eager, WITH_CONCEPT), atol=1e-5)
    assert np.array_equal(run(family, pipe, PLAIN), before)
    pipe.unload_multitoken_inversion()
    assert np.array_equal(run(family, pipe, PLAIN), before)


@pytest.mark.parametrize("order", ["adapter first", "concept first"])
def test_adapters_of_the_encoder_before_and_after(order: str) -> None:
    family = FAMILY["stable_diffusion"]
    pipe, twin = family.build(), family.build()
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)

    def add_adapter(one: Any) -> None:
        torch.manual_seed(0)
        one.text_encoder.add_adapter(adapter)

    add_adapter(twin)
    with_adapter = run(family, twin, PLAIN)
    for act in [add_adapter, lambda one: load(one, "<mug>")][:: 1 if order == "adapter first" else -1]:
        act(pipe)
    load(twin, "<mug>")
    assert np.array_equal(run(family, pipe, PLAIN), with_adapter)
    assert np.array_equal(run(family, pipe, WITH_CONCEPT), run(family, twin, WITH_CONCEPT))
    pipe.unload_multitoken_inversion()
    assert np.array_equal(run(family, pipe, PLAIN), with_adapter)


def test_encoders_stored_in_fp8_are_refused_unless_their_embeddings_are_left_out(
    unchanged: Callable[[Any], None],
) -> None:
    def fp8_pipeline(**options: Any) -> Any:
        pipe = FAMILY["stable_diffusion"].build()
        apply_layerwise_casting(pipe.text_encoder, torch.float8_e4m3fn, torch.float32, **options)
        return pipe

    def read(prompt: str) -> torch.Tensor:
        return pipe.text_encoder(pipe.tokenizer(prompt, return_tensors="pt").input_ids).last_hidden_state

    pipe = fp8_pipeline()
    unchanged(pipe)
    with pytest.raises(ConceptLoadError, match="got torch.float8_e4m3fn; load this encoder without quantisation, or"):
        load(pipe, "<mug>")
    pipe = fp8_pipeline(skip_modules_pattern=["embedding"])
    before = read(PLAIN)
    load(pipe, "<mug>")
    assert torch.equal(read(PLAIN), before)
    assert torch.equal(find_text_pairs(pipe)[0].rows("<mug>"), rows_for(find_text_pairs(pipe)[0]))
    assert read("a <mug>").shape[1] == read("a").shape[1] + 3


def test_embeddings_of_another_kind_of_tensor_are_refused() -> None:
    class Quantized(torch.Tensor):
        pass

    pipe = FAMILY["stable_diffusion"].build()
    embedding = pipe.text_encoder.get_input_embeddings()
    embedding.weight = torch.nn.Parameter(embedding.weight.detach().as_subclass(Quantized), requires_grad=False)
    with pytest.raises(ConceptLoadError, match="got a Quantized; load this encoder without quantisation"):
        pipe.load_multitoken_inversion({"<mug>": torch.ones(2, embedding.embedding_dim)})


@in_variety(["stable_diffusion_xl", "stable_diffusion_3", "flux"])
def test_second_prompts_negative_prompts_and_batches(family: Family) -> None:
    pipe = family.build()
    load(pipe, "<mug>")
    load(pipe, "<cat>", seed=1)
    options: dict[str, Any] = {"prompt_2": ["<cat>", "a <cat> <mug>"]}
    if family.name != "flux":
        options |= {"negative_prompt": ["<cat> <cat>"] * 2, "guidance_scale": 5.0}
    with RecordIds(pipe) as record:
        run(family, pipe, ["a <mug>", "two words"], **options)
    for number, pair in enumerate(find_text_pairs(pipe)):
        mug, cat = pair.row_ids("<mug>"), pair.row_ids("<cat>")
        counts = [
            [sum(row.count(i) for i in ids) // 3 for ids in (mug, cat)]
            for row in record.ids[pair.encoder_name][0].tolist()
        ]
        reads_second = (family.name != "stable_diffusion_3" and number == 1) or (
            family.name == "stable_diffusion_3" and number == 1
        )
        assert counts == ([[0, 1], [1, 1]] if reads_second else [[1, 0], [0, 0]])
        if family.name != "flux":
            negative = record.ids[pair.encoder_name][1].tolist()
            assert all(sum(row.count(i) for i in cat) == 6 for row in negative)


def test_memory_errors_in_the_second_encoder_leave_the_first_untouched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    for number, pair in enumerate(find_text_pairs(pipe)):
        name = "learned_embeds.safetensors" if number == 0 else "learned_embeds_2.safetensors"
        write_embedding(tmp_path / name, concept_for(pair))
    unchanged(pipe)
    add = ConceptVocabulary.add

    def out_of_memory(self: ConceptVocabulary, concepts: Any) -> None:
        if self.pair.encoder_name == "text_encoder_2":
            raise MemoryError
        add(self, concepts)

    monkeypatch.setattr(ConceptVocabulary, "add", out_of_memory)
    with pytest.raises(MemoryError):
        pipe.load_multitoken_inversion(tmp_path)


def test_memory_errors_while_the_first_concept_grows_a_padded_matrix_leave_no_trace(
    monkeypatch: pytest.MonkeyPatch, unchanged: Callable[[Any], None]
) -> None:
    pipe = FAMILY["flux"].build()
    pipe.load_multitoken_inversion({"<cat>": rows_for(find_text_pairs(pipe)[0])}, description="a cat")
    unchanged(pipe)

    def out_of_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(vocabulary, "_write", out_of_memory)
    for token in ("<mug>", "<cat>"):  # the second replaces a description
        with pytest.raises(MemoryError):
            pipe.load_multitoken_inversion({token: rows_for(find_text_pairs(pipe)[1])}, description="a mug")


def test_different_rows_for_a_concept_of_a_shared_encoder_are_refused() -> None:
    family = FAMILY["stable_diffusion"]
    pipe, other = family.build(), family.build()
    other.text_encoder = pipe.text_encoder
    load(pipe, "<mug>")
    with pytest.raises(ConceptLoadError, match="another concept of that name is loaded"):
        load(other, "<mug>", seed=1)
    load(other, "<mug>")
    assert np.array_equal(run(family, other, WITH_CONCEPT), run(family, pipe, WITH_CONCEPT))


def test_a_copy_whose_encoders_share_a_tokenizer_unloads_from_both(tmp_path: Path) -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    pipe.tokenizer_2 = pipe.tokenizer
    before = snapshot_of(copy.deepcopy(pipe))
    for number, pair in enumerate(find_text_pairs(pipe)):
        name = "learned_embeds.safetensors" if number == 0 else "learned_embeds_2.safetensors"
        write_embedding(tmp_path / name, concept_for(pair))
    pipe.load_multitoken_inversion(tmp_path)
    twin = copy.deepcopy(pipe)
    twin.unload_multitoken_inversion("<mug>")
    assert_same(before, snapshot_of(twin))


def test_a_description_can_be_unloaded_from_an_encoder_that_cannot_take_rows() -> None:
    pipe = FAMILY["flux"].build()
    clip, t5 = find_text_pairs(pipe)
    pipe.load_multitoken_inversion({"<mug>": rows_for(clip)}, description="a mug")
    t5.embedding.to(torch.float8_e4m3fn)
    pipe.unload_multitoken_inversion("<mug>")
    assert pipe.tokenizer_2.tokenize("<mug>") == FAMILY["flux"].build().tokenizer_2.tokenize("<mug>")


def test_a_failed_load_leaves_the_concepts_of_a_pipeline_that_shares_the_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = FAMILY["stable_diffusion"]
    pipe, other = family.build(), family.build()
    other.text_encoder = pipe.text_encoder
    load(pipe, "<cat>")
    with_cat = run(family, pipe, "a <cat>")

    def out_of_memory(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(vocabulary, "_write", out_of_memory)
        with pytest.raises(MemoryError):
            load(other, "<mug>")
    assert np.array_equal(run(family, pipe, "a <cat>"), with_cat)
    load(other, "<mug>")
    assert np.array_equal(run(family, other, "a <cat>"), with_cat)


def test_a_copied_tokenizer_reads_the_same_rows_whatever_the_original_unloads() -> None:
    family = FAMILY["stable_diffusion"]
    pipe, other = family.build(), family.build()
    for seed, token in enumerate(("<mug>", "<cat>", "<dog>")):
        load(pipe, token, seed)
    other.text_encoder, other.tokenizer = pipe.text_encoder, copy.deepcopy(pipe.tokenizer)
    pipe.unload_multitoken_inversion("<mug>")
    for one in (pipe, other):
        (pair,) = find_text_pairs(one)
        assert torch.equal(pair.rows("<cat>"), rows_for(pair, seed=1))
        assert torch.equal(pair.rows("<dog>"), rows_for(pair, seed=2))
    other.unload_multitoken_inversion()  # both are known to share rows now: it is gone from both
    assert_same(snapshot_of(family.build()), snapshot_of(other))
    assert pipe.tokenizer("<cat>").input_ids == other.tokenizer("<cat>").input_ids


def test_a_row_that_stock_removed_does_not_move_the_others() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    for seed, token in enumerate(("<mug>", "<cat>")):
        load(pipe, token, seed)
    pipe.unload_textual_inversion("<mug|0>")
    pipe.unload_multitoken_inversion("<mug>")
    pair = find_text_pairs(pipe)[0]
    assert torch.equal(pair.rows("<cat>"), rows_for(pair, seed=1))


def test_loading_again_after_a_while_in_half_precision_changes_nothing() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    load(pipe, "<mug>")
    pipe.text_encoder.half().float()
    load(pipe, "<mug>")
    with pytest.raises(ConceptLoadError, match="another concept of that name"):
        load(pipe, "<mug>", seed=1)


def test_warnings_that_are_errors_come_before_any_change(unchanged: Callable[[Any], None]) -> None:
    pipe = FAMILY["flux"].build()
    unchanged(pipe)
    with pytest.raises(SupremeInitWarning, match="will read it as letters"):
        pipe.load_multitoken_inversion({"<mug>": rows_for(find_text_pairs(pipe)[0])})
