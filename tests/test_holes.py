"""Ids never move: whoever still knows a concept draws it, or draws letters, and never another concept."""

import copy
import pickle
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_same, snapshot_of
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from tiny.every_family import FAMILY, rows_for
from tiny.families import run
from tiny.image_families import scheduler
from tiny.text import clip_text_encoder, clip_tokenizer, t5_encoder, t5_tokenizer

from diffusers_supreme_init import ConceptLoadError, SupremeInitWarning
from diffusers_supreme_init.text import vocabulary
from diffusers_supreme_init.text.text_pairs import TextPair, find_text_pairs
from diffusers_supreme_init.triggers import row_table

FAMILY_NAMES = ["stable_diffusion", "pixart_sigma", "hunyuan_image"]
"""CLIP; T5 with padding; ByT5, whose tokenizer is in Python, beside Qwen."""
pytestmark = pytest.mark.filterwarnings("ignore:.*it when it cleans prompts")
FIXTURES = ROOT / "tests" / "fixtures" / "before_holes"


def load(pipe: Any, token: str, seed: int = 0, num_vectors: int = 3) -> None:
    for pair in find_text_pairs(pipe):
        pipe.load_multitoken_inversion(
            {token: rows_for(pair, num_vectors, seed)}, text_encoder=pair.encoder_name, description=False
        )


def holds(pipe: Any, token: str, seed: int, num_vectors: int = 3) -> bool:
    """Whether every text encoder reads a concept as exactly these rows."""
    return all(torch.equal(pair.rows(token), rows_for(pair, num_vectors, seed)) for pair in find_text_pairs(pipe))


def sizes(pipe: Any) -> list[tuple[int, int]]:
    return [(len(pair.tokenizer), len(pair.embedding.weight)) for pair in find_text_pairs(pipe)]


@torch.no_grad()
def read(pipe: Any, prompt: str) -> torch.Tensor:
    """Return what the text encoder makes of a prompt."""
    return pipe.text_encoder(pipe.tokenizer(prompt, return_tensors="pt").input_ids).last_hidden_state


def unpickled(tokenizer: Any) -> Any:
    return pickle.loads(pickle.dumps(tokenizer))


def saved_and_loaded(tokenizer: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return type(tokenizer).from_pretrained(folder)


COPIES: list[Callable[[Any], Any]] = [copy.deepcopy, unpickled, saved_and_loaded]


def sharing_encoders(pipe: Any, copied: Callable[[Any], Any]) -> Any:
    """Return a pipeline with the same parts and copies of the tokenizers, which no method of ours has seen."""
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    parts |= {name: copied(part) for name, part in parts.items() if name.startswith("tokenizer")}
    options = {"requires_safety_checker": False, "safety_checker": None, "feature_extractor": None}
    other = type(pipe)(**parts, **(options if isinstance(pipe, StableDiffusionPipeline) else {}))
    other.set_progress_bar_config(disable=True)
    return other


def test_no_picture_shows_another_concept_than_the_prompt_names() -> None:
    family = FAMILY["stable_diffusion"]
    pipe = family.build()
    load(pipe, "<mug>")
    load(pipe, "<cat>", 1)
    other = sharing_encoders(pipe, copy.deepcopy)
    drawn = run(family, other, "a <cat>")
    pipe.unload_multitoken_inversion("<mug>")
    assert np.array_equal(run(family, other, "a <cat>"), drawn)
    load(pipe, "<dog>", 2)
    assert np.array_equal(run(family, other, "a <cat>"), drawn)


@pytest.mark.parametrize(
    ("name", "copied"), [("pixart_sigma", copy.deepcopy), *(("stable_diffusion", copied) for copied in COPIES)]
)
@pytest.mark.parametrize(
    "unloaded", ["<mug>", "<cat>", None], ids=["before its rows", "its own rows", "all there are"]
)
def test_a_copied_tokenizer_never_reads_the_rows_of_another_concept(
    name: str, copied: Callable[[Any], Any], unloaded: str | None
) -> None:
    pipe = FAMILY[name].build()
    before = snapshot_of(pipe)
    load(pipe, "<mug>", 0, 20)  # more than the padding
    load(pipe, "<cat>", 1, 20)
    other = sharing_encoders(pipe, copied)
    expected = read(other, "a <cat>")
    pipe.unload_multitoken_inversion(unloaded)
    assert torch.equal(read(other, "a <cat>"), expected)
    for seed, token in enumerate(("<dog>", "<hen>"), 2):
        load(pipe, token, seed, 20)
        assert torch.equal(read(other, "a <cat>"), expected)
        assert holds(pipe, token, seed, 20)
    pipe.unload_multitoken_inversion()
    del other
    load(pipe, "<dog>", 2)
    pipe.unload_multitoken_inversion()
    assert_same(before, snapshot_of(pipe))


def test_a_copied_tokenizer_that_a_loader_has_seen_loses_what_the_original_unloads() -> None:
    family = FAMILY["stable_diffusion"]
    pipe = family.build()
    letters = run(family, pipe, "a <mug>")
    load(pipe, "<mug>")
    load(pipe, "<cat>", 1)
    other = sharing_encoders(pipe, copy.deepcopy)
    load(other, "<dog>", 2)
    pipe.unload_multitoken_inversion("<mug>")
    assert holds(other, "<cat>", 1)
    assert holds(other, "<dog>", 2)
    with pytest.warns(SupremeInitWarning, match="'<mug>' in the prompt is not a loaded concept"):
        assert np.array_equal(run(family, other, "a <mug>"), letters)
    load(pipe, "<hen>", 3)
    assert holds(pipe, "<dog>", 2)  # learned from the encoder on the way
    assert holds(pipe, "<hen>", 3)
    assert holds(other, "<dog>", 2)


def test_a_copy_of_another_pipeline_is_in_nobodys_way() -> None:
    pipe, stranger = FAMILY["stable_diffusion"].build(), FAMILY["pixart_sigma"].build()
    load(stranger, "<mug>")
    copied = copy.deepcopy(stranger)  # knows the same row names, at other ids
    load(pipe, "<mug>")
    pipe.unload_multitoken_inversion()
    assert sizes(pipe) == sizes(FAMILY["stable_diffusion"].build())
    assert holds(copied, "<mug>", 0)


def test_who_learns_of_an_encoder_with_holes_reads_the_same_rows() -> None:
    family = FAMILY["stable_diffusion"]
    pipe, other = family.build(), family.build()
    for seed, token in enumerate(("<mug>", "<cat>", "<dog>")):
        load(pipe, token, seed)
    pipe.unload_multitoken_inversion("<mug>")
    pipe.unload_multitoken_inversion("<cat>")
    other.text_encoder = pipe.text_encoder
    load(other, "<hen>", 3)  # its own tokenizer learns <dog> first, behind two holes
    assert other.tokenizer("<dog>").input_ids == pipe.tokenizer("<dog>").input_ids
    load(pipe, "<fox>", 4)
    load(other, "<fox>", 4)
    for one in (pipe, other):
        assert [holds(one, token, seed) for seed, token in ((2, "<dog>"), (3, "<hen>"), (4, "<fox>"))] == [True] * 3
    first = len(family.build().tokenizer)
    assert other.tokenizer.convert_ids_to_tokens([first, first + 3]) == [f"<hole|{first}>", f"<hole|{first + 3}>"]
    other.unload_multitoken_inversion()
    assert_same(snapshot_of(family.build()), snapshot_of(other))
    assert pipe.tokenizer("<cat>").input_ids == other.tokenizer("<cat>").input_ids


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_concept_that_comes_and_goes_takes_no_more_room(name: str) -> None:
    pipe = FAMILY[name].build()
    for seed, token in enumerate(("<mug>", "<cat>")):
        load(pipe, token, seed)
    ids, room = [pair.row_ids("<mug>") for pair in find_text_pairs(pipe)], sizes(pipe)
    for seed in (2, 3):
        pipe.unload_multitoken_inversion("<mug>")
        load(pipe, "<mug>", seed)
        assert [pair.row_ids("<mug>") for pair in find_text_pairs(pipe)] == ids
        assert sizes(pipe) == room
        assert holds(pipe, "<mug>", seed)
        assert holds(pipe, "<cat>", 1)


def test_a_hole_that_a_copy_reads_is_not_filled() -> None:
    family = FAMILY["stable_diffusion"]
    pipe = family.build()
    load(pipe, "<mug>")
    load(pipe, "<cat>", 1)
    other = sharing_encoders(pipe, copy.deepcopy)
    drawn = run(family, other, "a <mug>")
    pipe.unload_multitoken_inversion("<mug>")
    load(pipe, "<mug>", 5)
    assert holds(pipe, "<mug>", 5)
    assert np.array_equal(run(family, other, "a <mug>"), drawn)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_holes_are_saved_and_close_after_loading(name: str, tmp_path: Path) -> None:
    family = FAMILY[name]
    pipe = family.build()
    for seed, token in enumerate(("<mug>", "<cat>", "<dog>")):
        load(pipe, token, seed)
    pipe.unload_multitoken_inversion("<cat>")
    drawn = run(family, pipe, 'a <mug> <dog>, "<mug> <dog>"')
    pipe.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert np.allclose(run(family, again, 'a <mug> <dog>, "<mug> <dog>"'), drawn, atol=1e-5)
    load(again, "<hen>", 3)
    assert holds(again, "<dog>", 2)
    again.unload_multitoken_inversion(["<mug>", "<dog>", "<hen>"])
    assert sizes(again) == sizes(family.build())
    for old, new in zip(find_text_pairs(family.build()), find_text_pairs(again), strict=True):
        num_tokens = len(old.tokenizer)
        assert torch.equal(old.embedding.weight[:num_tokens], new.embedding.weight[:num_tokens])
        assert not new.embedding.weight[num_tokens : num_tokens + 12].any()  # nothing is left of rows in the padding
        assert not hasattr(new.encoder.config, "multitoken")


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_copies_of_pipelines_with_holes_are_independent(name: str, unchanged: Callable[[Any], None]) -> None:
    family = FAMILY[name]
    pipe = family.build()
    for seed, token in enumerate(("<mug>", "<cat>", "<dog>")):
        load(pipe, token, seed)
    pipe.unload_multitoken_inversion("<cat>")
    unchanged(pipe)
    twin = copy.deepcopy(pipe)
    twin.unload_multitoken_inversion("<mug>")
    load(twin, "<hen>", 3)
    assert holds(twin, "<dog>", 2)
    twin.unload_multitoken_inversion()
    assert_same(snapshot_of(family.build()), snapshot_of(twin))


def test_pipelines_made_of_each_other_share_holes() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    for seed, token in enumerate(("<mug>", "<cat>")):
        load(pipe, token, seed)
    other = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    other.unload_multitoken_inversion("<mug>")
    assert list(row_table(pipe.tokenizer)) == ["<cat>"]
    load(pipe, "<dog>", 2)
    assert holds(other, "<dog>", 2)
    assert holds(other, "<cat>", 1)


def test_a_failed_load_leaves_a_hole_as_it_was(
    monkeypatch: pytest.MonkeyPatch, unchanged: Callable[[Any], None]
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise MemoryError

    pipe = FAMILY["stable_diffusion"].build()
    for seed, token in enumerate(("<mug>", "<cat>")):
        load(pipe, token, seed)
    pipe.unload_multitoken_inversion("<mug>")
    unchanged(pipe)
    monkeypatch.setattr(vocabulary, "_write", out_of_memory)
    for token in ("<mug>", "<dog>"):
        with pytest.raises(MemoryError):
            load(pipe, token, 5)


def test_tokens_of_others_keep_their_ids_behind_a_hole() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    load(pipe, "<mug>")
    pipe.load_textual_inversion({"<stock>": rows_for(find_text_pairs(pipe)[0], 1, 1)})
    token_id = pipe.tokenizer.convert_tokens_to_ids("<stock>")
    pipe.unload_multitoken_inversion("<mug>")
    assert pipe.tokenizer.convert_tokens_to_ids("<stock>") == token_id
    load(pipe, "<cat>", 2)
    assert holds(pipe, "<cat>", 2)
    pipe.unload_multitoken_inversion()
    assert pipe.tokenizer.convert_tokens_to_ids("<stock>") == token_id
    pipe.unload_textual_inversion("<stock>")
    pipe.unload_multitoken_inversion()  # nobody reads the end any more
    assert sizes(pipe) == sizes(FAMILY["stable_diffusion"].build())


def test_rows_that_stock_removed_are_loaded_again() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    load(pipe, "<mug>")
    load(pipe, "<cat>", 1)
    pipe.unload_textual_inversion()  # of all that was added, ours included
    load(pipe, "<cat>", 1)
    assert holds(pipe, "<cat>", 1)
    first = sizes(FAMILY["stable_diffusion"].build())[0][0]  # not behind where they were before
    assert pipe.tokenizer("a <cat>", add_special_tokens=False).input_ids[1:] == [first, first + 1, first + 2]
    pipe.unload_multitoken_inversion()
    assert sizes(pipe) == sizes(FAMILY["stable_diffusion"].build())


def before_holes(name: str) -> Any:
    """Return the text half of a pipeline that was saved while unloading still moved ids."""
    options = {"scheduler": scheduler(), "unet": None, "vae": None, "transformer": None}
    return DiffusionPipeline.from_pretrained(FIXTURES / name, **options)


@pytest.mark.parametrize(
    ("name", "encoder", "tokenizer"), [("clip", clip_text_encoder, clip_tokenizer), ("t5", t5_encoder, t5_tokenizer)]
)
def test_pipelines_that_were_saved_before_there_were_holes(
    name: str, encoder: Callable[[int], Any], tokenizer: Callable[[], Any]
) -> None:
    pipe = before_holes(name)
    (pair,) = find_text_pairs(pipe)
    num_vectors = {"<mug>": 2, "<cat>": 3 if name == "clip" else 40}
    for seed, (token, count) in enumerate(num_vectors.items()):
        assert torch.equal(pair.rows(token), rows_for(pair, count, seed))
    pipe.unload_multitoken_inversion("<mug>")
    assert torch.equal(pair.rows("<cat>"), rows_for(pair, num_vectors["<cat>"], 1))
    pipe.load_multitoken_inversion({"<dog>": rows_for(pair, 4, 2)})
    pipe.unload_multitoken_inversion()
    fresh = TextPair("text_encoder", encoder(8), pair.slots)
    num_tokens = len(tokenizer())
    assert len(pair.tokenizer) == num_tokens
    assert pair.embedding.weight.shape == fresh.embedding.weight.shape
    assert torch.equal(pair.embedding.weight[:num_tokens], fresh.embedding.weight[:num_tokens])
    assert pair.encoder.config.to_diff_dict() == fresh.encoder.config.to_diff_dict() | {
        key: pair.encoder.config.to_diff_dict()[key] for key in ("architectures", "dtype")
    }


def test_rows_that_stock_moved_in_one_of_two_tokenizers_are_refused() -> None:
    family = FAMILY["stable_diffusion"]
    pipe, other = family.build(), family.build()
    load(pipe, "<mug>")
    load(pipe, "<cat>", 1)
    other.text_encoder, other.tokenizer = pipe.text_encoder, copy.deepcopy(pipe.tokenizer)
    other.unload_textual_inversion("<mug|0>")  # moves tokens in its own tokenizer, and rows in the encoder of both
    with pytest.raises(ConceptLoadError, match="`unload_textual_inversion` of another pipeline that shares only one"):
        pipe.unload_multitoken_inversion("<cat>")


def text_half(encoder: Any, tokenizer: Any) -> Any:
    """Return a Stable Diffusion with nothing but its text half."""
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=None,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def relatives(tokenizer: Callable[[], Any]) -> list[Callable[[Any], Any]]:
    """Return how a pipeline may come from another one: whole copies, and every way to share the text encoder."""
    return [
        copy.deepcopy,
        lambda pipe: text_half(pipe.text_encoder, pipe.tokenizer),
        lambda pipe: text_half(pipe.text_encoder, copy.deepcopy(pipe.tokenizer)),
        lambda pipe: text_half(pipe.text_encoder, unpickled(pipe.tokenizer)),
        lambda pipe: text_half(pipe.text_encoder, tokenizer()),
    ]


def concept(pair: TextPair, number: int) -> dict[str, torch.Tensor]:
    return {f"<{number}>": rows_for(pair, 1 + 5 * (number % 3), number)}


def wrong_concepts(pipe: Any) -> list[str]:
    """Return the triggers that a pipeline reads as other rows than their own, by the number in their name."""
    (pair,) = find_text_pairs(pipe)
    weight, wrong = pair.embedding.weight, []
    for trigger in row_table(pair.tokenizer):
        expected = concept(pair, int(trigger.strip("<>")))[trigger]
        ids = pair.tokenizer(f"a {trigger}", add_special_tokens=False).input_ids[1:]
        if max(ids) >= len(weight) or not torch.equal(weight[ids], expected):
            wrong.append(trigger)
    return wrong


@pytest.mark.parametrize(
    "encoder", [(clip_text_encoder, clip_tokenizer), (t5_encoder, t5_tokenizer)], ids=["clip", "t5"]
)
@pytest.mark.parametrize(
    "history", [pytest.param(number, marks=[] if number % 6 == 5 else pytest.mark.slow) for number in range(30)]
)
def test_whatever_happens_to_pipelines_that_share_parts_no_concept_is_taken_for_another(
    history: int, encoder: tuple[Callable[[int], Any], Callable[[], Any]]
) -> None:
    chance, (build_encoder, build_tokenizer) = random.Random(history), encoder
    fresh = text_half(build_encoder(8), build_tokenizer())
    pipes = [copy.deepcopy(fresh)]
    for _ in range(40):
        pipe = chance.choice(pipes)
        known = list(row_table(pipe.tokenizer))
        what = chance.choice(["load", "load", "load", "unload", "unload", "unload all", "share", "share", "drop"])
        if what == "load":
            pipe.load_multitoken_inversion(concept(find_text_pairs(pipe)[0], chance.randrange(8)))
        elif what == "unload" and known:
            pipe.unload_multitoken_inversion(chance.choice(known))
        elif what == "unload all":
            pipe.unload_multitoken_inversion()
        elif what == "share" and len(pipes) < 6:
            pipes.append(chance.choice(relatives(build_tokenizer))(pipe))
        elif what == "drop" and len(pipes) > 1:
            pipes.remove(pipe)
        del pipe
        assert [wrong_concepts(one) for one in pipes] == [[]] * len(pipes), what
    while len(pipes) > 1:
        pipes.pop().unload_multitoken_inversion()
    pipes[0].unload_multitoken_inversion()
    assert sizes(pipes[0]) == sizes(fresh)
    assert_same(fresh.text_encoder.state_dict(), pipes[0].text_encoder.state_dict())
