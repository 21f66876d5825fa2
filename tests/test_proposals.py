"""From pictures to words to a trained concept: proposals, the choice by loss, regions, resuming, bad input."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_pipeline, random_picture
from PIL import Image
from tiny.describers import build_blip, build_clip, build_language_model, build_sam, build_sam3, build_vit
from training_processes import run_forked

from diffusers_supreme_init import (
    Concept,
    ConfigError,
    DescriberConfig,
    DescriberError,
    Describers,
    EndpointRefiner,
    InitializerError,
    InitializerProposal,
    PictureError,
    Region,
    RegionError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    SupremeInitWarning,
    TrainingError,
    load_concepts,
    propose_initializer,
    read_embedding,
)
from diffusers_supreme_init.describers import Description
from diffusers_supreme_init.describers.candidates import Candidate, Candidates, ranked
from diffusers_supreme_init.describers.masks import Segmentation
from diffusers_supreme_init.describers.wording import Wording, tells_surroundings, without_surroundings
from diffusers_supreme_init.text.tokenization import TokenLimit, cut_to_tokens

PICTURE = random_picture((64, 48))
CONFIG = SupremeInitConfig(max_train_steps=2, validation_samples=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny describers."""
    builders = {"captioner": build_blip, "classifier": build_vit, "segmenter": build_sam}
    return {name: str(build(tmp_path_factory.mktemp(name))) for name, build in builders.items()}


def describers_of(models: dict[str, str], refiner: Any = None, **settings: Any) -> Describers:
    defaults = {"max_caption_tokens": 5, "score_samples": 4}
    return Describers(DescriberConfig(**(models | defaults | settings)), refiner=refiner, device="cpu")


@pytest.fixture
def describers(models: dict[str, str]) -> Describers:
    """Tiny describers, not loaded yet."""
    return describers_of(models)


class Says:
    """A describer that says what it is told to; for answers that a real model cannot be made to give."""

    describes_boxes = False

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.seen: list[Image.Image] = []

    def describe(self, image: Any, **options: Any) -> list[Description]:
        self.seen += image if isinstance(image, Sequence) else [image]
        number = options.get("num_captions", options.get("num_labels", 1))
        return [Description(text, -index) for index, text in enumerate(self.texts[:number])]


class Finds:
    """A segmenter that finds the left third of any picture, or another share of it."""

    def __init__(self) -> None:
        self.asked: list[Region] = []
        self.share = 1 / 3

    def segment(self, image: Image.Image, region: Region) -> Segmentation:
        self.asked.append(region)
        mask = np.zeros((image.height, image.width), dtype=bool)
        mask[:, : int(image.width * self.share)] = True
        return Segmentation(mask, 0.9)


def describers_saying(*captions: str, labels: Sequence[str] = ("mug",), refiner: Any = None, **settings: Any) -> Any:
    """Describers that say and find what they are told to; words are compared on whole pictures unless asked for."""
    settings = {"score_samples": 4, "score_object": False} | settings
    describers = Describers(DescriberConfig(**settings), refiner=refiner)
    describers.__dict__.update(captioner=Says(*captions), classifier=Says(*labels), segmenter=Finds())
    return describers


# Proposals


@pytest.mark.parametrize("method", ["class", "caption", "auto"])
def test_a_proposal_tells_everything_and_changes_nothing(
    method: str, pipe: Any, describers: Describers, unchanged: Callable[[Any], None]
) -> None:
    unchanged(pipe)
    before = PICTURE.tobytes()
    proposal = propose_initializer(PICTURE, method, pipe=pipe, describers=describers)
    assert isinstance(proposal, InitializerProposal)
    assert proposal.text == proposal.candidates[0].text != ""
    assert proposal.tokens == tuple(pipe.tokenizer.tokenize(proposal.text))
    assert list(proposal.token_ids) == pipe.tokenizer(proposal.text, add_special_tokens=False)["input_ids"]
    assert proposal.mask is None
    assert proposal.crop.tobytes() == before == PICTURE.tobytes()
    sources = {candidate.source for candidate in proposal.candidates}
    assert sources == ({"class", "caption"} if method == "auto" else {method})


def test_a_proposal_without_a_pipeline(describers: Describers) -> None:
    proposal = propose_initializer([PICTURE, random_picture()], "class", describers=describers)
    assert proposal.text
    assert proposal.tokens == ()
    assert propose_initializer(PICTURE, "caption", describers=describers).text
    with pytest.raises(
        ConfigError, match="pipe: expected the pipeline by whose loss the candidates of 'auto' are compared, got None"
    ):
        propose_initializer(PICTURE, "auto", describers=describers)
    with pytest.raises(ConfigError, match="by whose loss captions of several pictures are compared, got None"):
        propose_initializer([PICTURE, PICTURE], "caption", describers=describers)
    with pytest.raises(ConfigError, match="method: expected one of .*, got 'a red mug'"):
        propose_initializer(PICTURE, "a red mug", describers=describers)


def test_the_best_words_have_the_lowest_loss_of_all(pipe: Any) -> None:
    describers = describers_saying("a red mug", "a blue teapot", "a green bird", num_captions=3)
    proposal = propose_initializer(
        PICTURE, "auto", pipe=pipe, describers=describers, candidates=["an orange umbrella", "a red mug"]
    )
    losses = {candidate.text: candidate.loss for candidate in proposal.candidates}
    assert set(losses) == {"a red mug", "a blue teapot", "a green bird", "an orange umbrella", "mug"}
    assert min(losses.values()) in list(losses.values())[: proposal.num_tied]
    assert list(losses.values())[proposal.num_tied :] == sorted(list(losses.values())[proposal.num_tied :])
    assert len(set(losses.values())) == len(losses)
    assert {candidate.text: candidate.source for candidate in proposal.candidates}["a red mug"] == "text"
    assert proposal.table().splitlines()[1].endswith(f"  {proposal.text}")
    assert len(proposal.table().splitlines()) == 6


def candidates_of(*texts: str) -> Candidates:
    return Candidates(usable=tuple(Candidate(text=text, source="caption", raw=text) for text in texts))


@pytest.mark.parametrize(
    ("losses", "first", "num_tied"),
    [
        ({"a mug": [3, 4, 5], "a red mug": [1, 2, 3]}, "a red mug", 1),
        ({"a mug": [1, 2.2, 3], "a red mug": [1.1, 2, 3]}, "a mug", 2),  # other noises could turn them around
        ({"a mug on a table": [1, 2, 3], "a mug": [1.1, 2, 3]}, "a mug", 2),
        ({"a mug on a table": [1, 2, 3], "a mug": [2, 3, 4]}, "a mug on a table", 1),
        ({"a mug": [math.nan, 1, 1], "a red mug": [5, 5, 5]}, "a red mug", 1),
        ({"a mug": [2], "a red mug": [1]}, "a mug", 2),  # one pair of noises tells nothing
    ],
)
def test_ties_keep_their_order_and_surroundings_lose_them(
    losses: dict[str, list[float]], first: str, num_tied: int
) -> None:
    """Losses are means of pairs of opposite noises, each of which counts once."""
    pairs = [[loss + half for loss in of_text for half in (-0.5, 0.5)] for of_text in losses.values()]
    found = ranked(candidates_of(*losses), pairs)
    assert (found.usable[0].text, found.num_tied) == (first, num_tied)
    assert sorted(one.text for one in found.usable) == sorted(losses)


@pytest.mark.parametrize(
    ("losses", "first", "num_tied"),
    [
        ({"a mug on a table": [1, 2, 3], "a mug": [2, 3, 4]}, "a mug", 1),
        ({"a mug on a table": [1, 2, 3], "a mug": [2, 3.2, 4], "a cup": [2.1, 3, 4]}, "a mug", 2),
        ({"a mug on a table": [1, 2, 3], "a mug": [math.nan, 3, 4]}, "a mug on a table", 1),
        ({"a mug on a table": [2, 3, 4], "a mug on the floor": [1, 2, 3]}, "a mug on the floor", 1),
    ],
)
def test_words_of_an_object_tell_its_surroundings_only_if_all_do(
    losses: dict[str, list[float]], first: str, num_tied: int
) -> None:
    pairs = [[loss + half for loss in of_text for half in (-0.5, 0.5)] for of_text in losses.values()]
    found = ranked(candidates_of(*losses), pairs, object_alone=True)
    assert (found.usable[0].text, found.num_tied) == (first, num_tied)
    assert sorted(one.text for one in found.usable) == sorted(losses)


@pytest.mark.parametrize(
    ("text", "alone", "removed"),
    [
        ("a red mug on a sky background", "a red mug", ("on a sky background",)),
        (
            "a dog that is laying down on top of a green couch",
            "a dog",
            ("that is laying down on top of a green couch",),
        ),
        ("a red mug on a table, in a kitchen", "a red mug", ("on a table", "in a kitchen")),
        ("a cat sitting in the grass with a bow", "a cat with a bow", ("sitting in the grass",)),
        ("a cat on a window sill", "a cat", ("on a window sill",)),
        ("a mug with a star with a blue background", "a mug with a star", ("with a blue background",)),
        ("a dog with a black and white background", "a dog", ("with a black and white background",)),
        ("a house with a window", "a house with a window", ()),
        ("in a kitchen", "", ("in a kitchen",)),
        ("a woman in a red dress", "a woman in a red dress", ()),
    ],
)
def test_words_without_surroundings(text: str, alone: str, removed: tuple[str, ...]) -> None:
    assert without_surroundings(Wording(text, "raw")) == Wording(alone, "raw", removed)


def test_auto_offers_the_object_without_its_surroundings_and_takes_no_surroundings(pipe: Any) -> None:
    """A caption that is all surroundings adds nothing; on whole pictures, words stay as they were found."""
    captions = ("a red mug on a table", "in a kitchen", "a teapot standing on the floor")

    def found(**settings: Any) -> InitializerProposal:
        describers = describers_saying(*captions, labels=(), num_labels=0, **settings)
        return propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers, candidates=["a cup by the sea"])

    proposal = found(score_object=True)
    alone = {"a red mug": ("on a table",), "a teapot": ("standing on the floor",), "a cup": ("by the sea",)}
    assert {one.text for one in proposal.candidates} == {*captions, *alone, "a cup by the sea"}
    assert {one.text: one.removed for one in proposal.candidates if one.text in alone} == alone
    assert proposal.text in alone
    assert {one.text for one in found(score_object=False).candidates} == {*captions, "a cup by the sea"}
    plain = propose_initializer(PICTURE, "caption", describers=describers_saying(*captions, score_object=True))
    assert plain.text == captions[0]


def test_captions_win_ties_with_labels(pipe: Any) -> None:
    describers = describers_saying("a red mug", labels=["mug"], score_samples=2)  # one pair tells nothing
    proposal = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers)
    assert [one.text for one in proposal.candidates] == ["a red mug", "mug"]


@pytest.mark.parametrize(
    ("ahead_by", "first"), [(0.5, "a red mug"), (1.8, "a red mug"), (2.5, "mug"), (-1.0, "a red mug")]
)
def test_a_label_has_to_be_ahead_by_two_standard_errors(ahead_by: float, first: str) -> None:
    caption, label = (
        Candidate(text=text, source=source, raw=text) for text, source in (("a red mug", "caption"), ("mug", "class"))
    )
    differences = np.array([-1.0, 0.0, 1.0])
    differences += ahead_by * differences.std(ddof=1) / 3**0.5
    losses = [np.repeat(10 + differences, 2).tolist(), [10.0] * 6]
    assert ranked(Candidates(usable=(caption, label)), losses).usable[0].text == first
    assert ranked(Candidates(usable=(label,)), losses[1:]).usable[0].text == "mug"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red mug on a sky background", True),
        ("a dog laying on top of a green couch", True),
        ("a clock in front of a white wall", True),
        ("a cat sitting in the grass", True),
        ("a red mug with white stripes", False),
        ("a woman in a red dress", False),
        ("a teddy bear with a bow", False),
        ("a table", False),
    ],
)
def test_words_about_surroundings_are_known(text: str, expected: bool) -> None:
    assert tells_surroundings(text) == expected


LEFT_THIRD = Image.fromarray(np.pad(np.full((48, 21), 255, np.uint8), ((0, 0), (0, 43))))


@pytest.mark.parametrize("known_by", ["segmenter", "region", "mask"])
def test_words_are_compared_where_the_object_is(known_by: str, pipe: Any) -> None:
    """What is compared is the loss that a training with the object's mask begins with."""
    config = replace(CONFIG, center_crop=False)
    describers = describers_saying("a red mug", "a blue bird", num_captions=2, score_object=True)
    segmenter = describers.segmenter  # released before the first step
    concept = Concept(
        images=PICTURE,
        placeholder_token="<thing>",
        initializer="auto",
        mask=LEFT_THIRD if known_by == "mask" else None,
        region=Region(mask=LEFT_THIRD) if known_by == "region" else None,
        train_on="image" if known_by == "region" else "crop",
    )
    (result,) = train_quietly(pipe, [concept], config, describers)
    record = result.initializer_record
    assert record is not None
    assert bool(segmenter.asked) == (known_by == "segmenter")
    assert (result.latents.mask is not None) == (known_by == "region")  # comparing is not training
    for candidate in record["candidates"]:
        masked = replace(concept, initializer=candidate["text"], mask=LEFT_THIRD, region=None, train_on="crop")
        (begun,) = train_quietly(pipe, [masked], replace(config, masked_loss=True), describers)
        assert begun.mean_validation_losses()[0] == pytest.approx(candidate["loss"], rel=1e-5)
        (whole,) = train_quietly(pipe, [replace(masked, mask=None)], config, describers)
        assert whole.mean_validation_losses()[0] != pytest.approx(candidate["loss"], rel=1e-3)


def train_quietly(pipe: Any, concepts: list[Concept], config: SupremeInitConfig, describers: Any) -> Any:
    """Train one step and leave the pipeline as it was."""
    config = replace(config, max_train_steps=1, validation_steps=["0"])
    results = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=config, describers=describers).train()
    pipe.unload_multitoken_inversion()
    return results


def test_the_object_in_the_middle_is_asked_for_with_a_box_around_it(pipe: Any) -> None:
    describers = describers_saying("a red mug", score_object=True)
    propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers)
    (region,) = describers.segmenter.asked
    assert region.box == pytest.approx((0.06 * 64, 0.06 * 48, 0.94 * 64, 0.94 * 48))


def test_an_object_that_is_not_found_is_told(pipe: Any) -> None:
    describers = describers_saying("a red mug", score_object=True)
    describers.segmenter.share = 0
    proposal = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers)
    whole = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers_saying("a red mug"))
    assert [one.losses for one in proposal.candidates] == [one.losses for one in whole.candidates]
    assert "no object was found in the trained part of the picture" in "; ".join(proposal.notes)
    assert whole.notes == ()


@pytest.mark.parametrize(
    ("method", "settings", "learnable_property"),
    [
        ("caption", {}, "object"),
        ("class", {}, "object"),
        ("auto", {"score_object": False}, "object"),
        ("auto", {}, "style"),
    ],
)
def test_no_segmenter_is_loaded_that_nobody_needs(
    method: str, settings: dict[str, Any], learnable_property: str, pipe: Any
) -> None:
    describers = describers_saying("a red mug", **{"score_object": True, **settings})
    config = replace(CONFIG, learnable_property=learnable_property)
    propose_initializer([PICTURE, PICTURE], method, pipe=pipe, describers=describers, config=config)
    assert not describers.segmenter.asked


def test_a_segmenter_that_is_not_there_says_how_to_do_without(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    describers = describers_saying("a red mug", score_object=True, segmenter="/nowhere/sam")
    del describers.__dict__["segmenter"]
    with pytest.raises(
        DescriberError, match="'/nowhere/sam'.*compare words on the whole picture, set score_object=False"
    ):
        propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers)


def test_the_measured_loss_is_that_of_step_0(pipe: Any, other_pipe: Any) -> None:
    """The score of words, measured before any concept exists, is the loss of the rows that start from them."""
    config = replace(CONFIG, max_train_steps=0)
    describers = describers_saying("a red mug", "an orange umbrella", score_samples=4)
    proposal = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers, config=config)
    assert len(proposal.candidates) == 3
    concepts = [
        Concept(images=PICTURE, placeholder_token=f"<c{index}>", initializer=candidate.text)
        for index, candidate in enumerate(proposal.candidates)
    ]
    results = SupremeInitTextualInversionTrainer(other_pipe, concepts=concepts, config=config).train()
    for candidate, result in zip(proposal.candidates, results, strict=True):
        assert candidate.losses == pytest.approx(result.validation_losses[0], rel=1e-5)


def test_captions_of_several_pictures_are_compared_over_all_of_them(pipe: Any) -> None:
    class SaysInTurn(Says):
        def describe(self, image: Any, **options: Any) -> list[Description]:
            self.seen.append(image)
            return [Description(self.texts[len(self.seen) - 1], 0)]

    describers = describers_saying("unused", score_samples=1)
    describers.__dict__["captioner"] = SaysInTurn("a red mug", "a blue teapot", "a red mug")
    pictures = [random_picture(seed=seed) for seed in range(3)]
    proposal = propose_initializer(pictures, "caption", pipe=pipe, describers=describers)
    assert {candidate.text for candidate in proposal.candidates} == {"a red mug", "a blue teapot"}
    # Never fewer pairs of noises than pictures, or some of them would have no say.
    assert [len(candidate.losses) for candidate in proposal.candidates] == [6, 6]
    assert proposal.candidates[0].loss < proposal.candidates[1].loss


def test_a_label_is_found_over_all_pictures(pipe: Any) -> None:
    describers = describers_saying(labels=["tabby, tabby cat", "lynx"])
    pictures = [random_picture(seed=seed) for seed in range(3)]
    proposal = propose_initializer(pictures, "class", pipe=pipe, describers=describers)
    assert (proposal.text, proposal.raw, proposal.removed) == ("tabby", "tabby, tabby cat", ("tabby cat",))
    assert len(describers.classifier.seen) == 3
    assert (
        propose_initializer(
            PICTURE, "class", describers=describers_saying(labels=["tabby, tabby cat"], label_synonym="last")
        ).text
        == "tabby cat"
    )


def test_scores_follow_the_seed(pipe: Any) -> None:
    def losses(seed: int) -> list[float]:
        describers = describers_saying("a red mug", "a teapot")
        config = SupremeInitConfig(seed=seed)
        found = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers, config=config).candidates
        return sorted(candidate.loss or 0 for candidate in found)

    assert losses(0) == losses(0) != losses(1)


# What describers say


def test_long_words_are_cut_between_words(pipe: Any) -> None:
    tokenizer = pipe.tokenizer
    text = "a red mug with white stripes"
    assert cut_to_tokens(text, [TokenLimit(tokenizer, 6)]) == (text, 0)
    assert cut_to_tokens(text, [TokenLimit(tokenizer, 5)]) == ("a red mug with white", 1)
    assert cut_to_tokens(text, [TokenLimit(tokenizer, 4)]) == ("a red mug", 3)
    assert cut_to_tokens("teapot", [TokenLimit(tokenizer, 1)]) == ("teapot", 0)  # a word is never cut into pieces


COLOURS = ("red", "blue", "green", "yellow", "orange")
THINGS = ("mug", "car", "bird", "clock")
TRIMS = ("white", *COLOURS[1:])
TOYS = [f"{one} {toy} with {trim} stripes" for trim in TRIMS for toy in THINGS for one in COLOURS]
LONG_CAPTION = " ".join(TOYS)
"""500 words that repeat no phrase at once; a captioner that stammers is cut down to one phrase instead."""


@pytest.mark.parametrize("method", ["caption", "auto"])
def test_500_words_are_cut_to_what_fits(method: str, pipe: Any) -> None:
    words = LONG_CAPTION
    assert len(words.split()) == 500
    describers = describers_saying(words, words)
    proposal = propose_initializer(PICTURE, method, pipe=pipe, describers=describers)
    (candidate,) = [each for each in proposal.candidates if each.source == "caption"]
    total = len(pipe.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"])
    kept = len(pipe.tokenizer.tokenize(candidate.text))
    assert candidate.num_cut == total - kept
    assert f"{candidate.text} ({candidate.num_cut} tokens cut)" in proposal.table()
    assert 60 < kept <= 75
    trainer = SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", "caption", describers=describers_saying(words), config=CONFIG
    )
    (result,) = trainer.train()
    assert len(result.rows["text_encoder"]) == kept
    short = describers_saying(words, max_initializer_tokens=5)
    assert propose_initializer(PICTURE, "caption", pipe=pipe, describers=short).text == "red mug with white stripes"


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("", "no usable words were found: caption: expected words, got nothing. Pass the words yourself"),
        (" \n", "caption: expected words, got nothing"),
        ("a close up of", "expected words that describe the picture, got only boilerplate ('a close up of')"),
        (
            "一个红色的杯子",
            "expected English, which the text encoder knows, got another script ('一个红色的杯子'); ask for",
        ),
    ],
)
def test_captions_that_say_nothing(
    caption: str, message: str, pipe: Any, unchanged: Callable[[Any], None], tmp_path: Path
) -> None:
    unchanged(pipe)
    describers = describers_saying(caption)
    config = replace(CONFIG, output_dir=str(tmp_path / "out"))
    trainer = SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", "caption", describers=describers, config=config
    )
    with pytest.raises(DescriberError) as error:
        trainer.train()
    assert message in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []
    # "auto" goes on with what others say, and tells.
    proposal = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers)
    assert proposal.text == "mug"
    assert len(proposal.notes) == 1


def test_classifiers_that_know_no_names(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    with pytest.raises(DescriberError, match="initializer='class': .* expected class names, got 'LABEL_3'"):
        propose_initializer(PICTURE, "class", pipe=pipe, describers=describers_saying(labels=["LABEL_3"]))
    proposal = propose_initializer(
        PICTURE, "auto", pipe=pipe, describers=describers_saying("a mug", labels=["LABEL_3"])
    )
    assert proposal.text == "a mug"


def test_nobody_was_asked(pipe: Any) -> None:
    describers = Describers(DescriberConfig(num_labels=0, num_captions=0, score_object=False))
    with pytest.raises(DescriberError, match=r"nothing was asked \(num_labels=0, num_captions=0\)"):
        propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers)
    own = ["a mug", "a teapot"]
    proposal = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers, candidates=own)
    assert {candidate.text for candidate in proposal.candidates} == set(own)


def test_words_have_as_many_rows_as_they_are_allowed(pipe: Any) -> None:
    def train(num_vectors: int) -> Any:
        trainer = SupremeInitTextualInversionTrainer(
            build_tiny_pipeline(),
            PICTURE,
            "<mug>",
            "auto",
            num_vectors=num_vectors,
            describers=describers_saying("a red mug with white stripes", "a mug", num_captions=2),
            config=replace(CONFIG, max_train_steps=0),
        )
        return trainer.train()[0]

    few = train(3)
    assert len(few.rows["text_encoder"]) == 3
    texts = [entry["text"] for entry in few.initializer_record["candidates"]]
    assert set(texts) == {"a red mug", "a mug", "mug"}
    assert few.description == texts[0]
    assert next(e for e in few.initializer_record["candidates"] if e["text"] == "a red mug")["num_cut"] == 3
    many = train(9)
    assert len(many.rows["text_encoder"]) == 9
    assert many.initializer["text_encoder"].num_repeated > 0


def test_words_that_cannot_be_cut_short_enough_are_refused(pipe: Any) -> None:
    describers = describers_saying("teapot", labels=["mug"], max_initializer_tokens=1)
    proposal = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers)
    assert proposal.text == "mug"
    assert proposal.notes == ("caption: expected at most 1 tokens, got 2 in 'teapot'",)


def test_labels_of_your_own_are_taken_as_they_are(pipe: Any, models: dict[str, str], tmp_path: Path) -> None:
    labels = ["red mug, white handle", "a teapot"]
    describers = Describers(DescriberConfig(classifier=str(build_clip(tmp_path)), candidate_labels=labels))
    assert propose_initializer(PICTURE, "class", pipe=pipe, describers=describers).text in labels
    with pytest.raises(DescriberError, match="use as a zero-shot classifier"):
        propose_initializer(PICTURE, "class", describers=describers_of(models, candidate_labels=labels))


def test_phrases_about_the_medium_stay_in_words_for_a_style(pipe: Any) -> None:
    config = SupremeInitConfig(learnable_property="style")
    describers = describers_saying("a painting of a harbor")
    assert propose_initializer(PICTURE, "caption", pipe=pipe, describers=describers).text == "a harbor"
    found = propose_initializer(PICTURE, "caption", pipe=pipe, describers=describers, config=config)
    assert found.text == "a painting of a harbor"


@pytest.mark.parametrize("candidates", ["a cup", [1], [b"a cup"]])
def test_candidates_that_are_no_list_of_texts(candidates: Any, pipe: Any) -> None:
    with pytest.raises(ConfigError, match="candidates: expected a list of texts, got "):
        propose_initializer(PICTURE, "auto", pipe=pipe, candidates=candidates)
    with pytest.raises(ConfigError, match="candidate_labels: expected a list of texts, got 'mug'"):
        DescriberConfig(candidate_labels="mug")  # type: ignore[arg-type]


def test_candidates_of_your_own_are_never_dropped_in_silence(pipe: Any) -> None:
    describers = describers_saying("a mug")
    own = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers, candidates=["красная\n кружка"])
    assert "красная кружка" in {candidate.text for candidate in own.candidates}  # they know their text encoder
    with pytest.raises(InitializerError, match="expected ordinary words, got '<|endoftext|>'"):
        propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers, candidates=["<|endoftext|>"])


def test_a_model_that_gives_nan_for_all_words(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    with torch.no_grad():
        pipe.unet.conv_in.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="expected finite losses, got NaN or infinity for every candidate"):
        propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers_saying("a mug", "a cup"))


@pytest.mark.parametrize("text", ["captoin", "Caption", " auto"])
def test_misspelled_methods_are_told(text: str, pipe: Any) -> None:
    with pytest.warns(SupremeInitWarning, match="is taken as the words to start from; did you mean '(caption|auto)'?"):
        SupremeInitTextualInversionTrainer(pipe, PICTURE, "<mug>", text, config=CONFIG)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_words_are_compared_in_any_precision(dtype: torch.dtype, pipe: Any) -> None:
    pipe.to(dtype)
    proposal = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers_saying("a red mug", "a teapot"))
    assert all(candidate.loss is not None and candidate.loss > 0 for candidate in proposal.candidates)
    assert {module.dtype for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {dtype}


# Refiners


def test_a_refined_caption_takes_the_place_of_the_caption(pipe: Any) -> None:
    describers = describers_saying("there is a mug", refiner=lambda caption: f'"A red {caption[2:]}."')
    proposal = propose_initializer(PICTURE, "caption", pipe=pipe, describers=describers)
    assert (proposal.text, proposal.raw) == ("a red mug", '"A red mug."')
    assert [candidate.source for candidate in proposal.candidates] == ["refined caption"]
    both = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers)
    assert {candidate.source for candidate in both.candidates} == {"class", "caption", "refined caption"}


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ("一个红色的杯子", "refiner: expected English, which .*; kept the caption"),
        ("a photo of", "refiner: expected words that describe the picture, got only boilerplate"),
        (LONG_CAPTION, r"refiner: expected at most \d\d tokens, got \d+ more"),
    ],
)
def test_unusable_refinements_fall_back_to_the_caption(answer: str, note: str, pipe: Any) -> None:
    describers = describers_saying("a mug", refiner=lambda caption: answer)
    proposal = propose_initializer(PICTURE, "caption", pipe=pipe, describers=describers)
    assert proposal.text == "a mug"
    assert re.search(note, proposal.notes[0])


def test_a_refiner_that_fails_is_not_asked_again(pipe: Any) -> None:
    asked = []

    def broken(caption: str) -> str:
        asked.append(caption)
        raise ValueError("no")

    describers = describers_saying("a mug", "a red mug", "a cup", refiner=broken)
    with pytest.warns(SupremeInitWarning, match="ValueError: no"):
        proposal = propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers)
    assert len(asked) == 1
    assert len(proposal.candidates) == 4


def test_a_refiner_that_fails_is_told_and_its_key_is_nowhere(pipe: Any, tmp_path: Path) -> None:
    key = "sk-very-secret-0123456789"
    refiner = EndpointRefiner("http://127.0.0.1:9/v1", "some-model", api_key=key, timeout=5)
    describers = describers_saying("a mug", refiner=refiner)
    config = replace(CONFIG, output_dir=str(tmp_path))
    with pytest.warns(SupremeInitWarning, match="refiner"):
        proposal = propose_initializer(PICTURE, "caption", pipe=pipe, describers=describers)
    assert proposal.text == "a mug"
    assert "kept the caption" in proposal.notes[0]
    trainer = SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", "caption", describers=describers, config=config
    )
    with pytest.warns(SupremeInitWarning, match="refiner"):
        trainer.train()
    trainer.save(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        assert key.encode() not in path.read_bytes()
        assert b"127.0.0.1" not in path.read_bytes()  # an address inside a company is nobody else's business
    assert key not in repr(proposal)


# Training


@pytest.mark.parametrize("method", ["class", "caption", "auto"])
def test_training_starts_from_the_words_that_are_proposed(
    method: str, pipe: Any, other_pipe: Any, describers: Describers, models: dict[str, str], tmp_path: Path
) -> None:
    proposal = propose_initializer(PICTURE, method, pipe=other_pipe, describers=describers, config=CONFIG)
    trainer = SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", method, describers=describers_of(models), config=CONFIG
    )
    (result,) = trainer.train()
    assert result.description == proposal.text
    assert result.initializer is not None
    assert result.initializer["text_encoder"].token_ids == proposal.token_ids
    (file,) = trainer.save(tmp_path)
    plain = SupremeInitTextualInversionTrainer(other_pipe, PICTURE, "<mug>", proposal.text, config=CONFIG)
    assert torch.equal(plain.train()[0].rows["text_encoder"], result.rows["text_encoder"])
    record = read_embedding(file).training["initializer"]
    assert record["method"] == method
    assert [entry["text"] for entry in record["candidates"]] == [each.text for each in proposal.candidates]
    card = (tmp_path / "README.md").read_text()
    assert "## Where the words come from" in card
    assert proposal.text in card
    for path in tmp_path.iterdir():  # folders of describers are nobody else's business
        assert not any(folder.encode() in path.read_bytes() for folder in models.values())


def test_a_concept_starts_from_a_proposal_and_its_files_tell_what_it_was_compared_with(
    pipe: Any, other_pipe: Any, describers: Describers, models: dict[str, str], tmp_path: Path
) -> None:
    nobody = Describers(DescriberConfig(captioner="nobody/nothing", classifier="nobody/nothing"))
    proposal = propose_initializer(PICTURE, "auto", pipe=other_pipe, describers=describers, config=CONFIG)

    def trained(pipe: Any, initializer: Any, folder: str) -> tuple[Any, dict[str, Any], str]:
        trainer = SupremeInitTextualInversionTrainer(
            pipe, PICTURE, "<mug>", initializer, describers=nobody, config=CONFIG
        )
        (result,) = trainer.train()
        trainer.save(tmp_path / folder)
        trainer.write_report(tmp_path / folder, prompts=["a photo of a {}"], num_inference_steps=1)
        record = json.loads((tmp_path / folder / "training.json").read_text())["initializer"]
        assert read_embedding(tmp_path / folder / "learned_embeds.safetensors").training["initializer"] == record
        return result, record, (tmp_path / folder / "report.html").read_text()

    result, record, _ = trained(build_tiny_pipeline(), proposal, "first")
    found = SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", "auto", describers=describers_of(models), config=CONFIG
    )
    (as_found,) = found.train()
    assert record == as_found.initializer_record
    assert "best one was taken" in (tmp_path / "first" / "README.md").read_text()
    assert torch.equal(result.rows["text_encoder"], as_found.rows["text_encoder"])

    own, texts = "a mug of my own", [one.text for one in proposal.candidates]
    assert proposal.choose(texts[0]) is proposal
    assert [one.text for one in proposal.choose(texts[-1]).candidates] == [texts[-1], *texts[:-1]]
    assert proposal.choose(texts[-1]).candidates[0].losses
    assert [one.text for one in proposal.choose(own).candidates] == [own, *texts]
    result, by_hand, report = trained(build_tiny_pipeline(), proposal.choose(own), "own")
    assert result.description == own
    assert by_hand == {**record, "chosen": own}
    assert f"`{own}` was chosen by hand" in (tmp_path / "own" / "README.md").read_text()
    assert f"Chosen by hand: {own}." in report


def test_words_of_a_proposal_are_words_whatever_they_are_called(
    describers: Describers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposal = propose_initializer(PICTURE, "class", describers=describers)
    monkeypatch.chdir(tmp_path)
    Path("a mug").mkdir()
    for words in ("auto", "a mug"):
        concept = Concept(images=PICTURE, placeholder_token="<mug>", initializer=proposal.choose(words))
        assert (concept.initializer, concept.method) == (words, None)
        assert replace(concept, num_vectors=3).initializer_record == {**proposal.record, "chosen": words}
        trainer = SupremeInitTextualInversionTrainer(build_tiny_pipeline(), concepts=[concept], config=CONFIG)
        assert trainer.train()[0].description == words


def test_nothing_is_loaded_before_training(pipe: Any, tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    describers = Describers(DescriberConfig(captioner=str(tmp_path / "nowhere")))
    trainer = SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", "caption", describers=describers, config=CONFIG
    )
    with pytest.raises(DescriberError, match="captioner: expected a folder with a model .*nowhere"):
        trainer.train()


def test_a_resumed_run_asks_nobody_again(models: dict[str, str], tmp_path: Path) -> None:
    def run(folder: str, steps: int, describers: Describers, **settings: Any) -> Any:
        config = SupremeInitConfig(
            max_train_steps=steps,
            validation_samples=4,
            validation_steps=["0", "every:2"],
            checkpointing_steps=2,
            output_dir=str(tmp_path / folder),
            **settings,
        )
        concepts = [
            Concept(images=PICTURE, placeholder_token="<a>", initializer="auto"),
            Concept(images=PICTURE, placeholder_token="<b>", initializer="caption"),
            Concept(images=PICTURE, placeholder_token="<c>", initializer="a mug"),
        ]
        trainer = SupremeInitTextualInversionTrainer(
            build_tiny_pipeline(), concepts=concepts, describers=describers, config=config
        )
        trainer.train()
        return trainer

    silent = Describers(DescriberConfig(captioner="nobody/nothing", classifier="nobody/nothing"))
    whole = run("whole", 4, describers_of(models))
    run("halves", 2, describers_of(models))
    resumed = run("halves", 4, silent, resume_from_checkpoint="latest")
    saved = [trainer.save(tmp_path / name) for name, trainer in (("1", whole), ("2", resumed))]
    for one, other in zip(*saved, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert resumed.results[0].initializer_record["method"] == "auto"
    assert resumed.results[2].initializer_record is None
    # A checkpoint answers the question it was asked only.
    (tmp_path / "halves" / "checkpoint.safetensors").rename(tmp_path / "checkpoint.safetensors")
    with pytest.raises(DescriberError, match="nobody/nothing"):
        SupremeInitTextualInversionTrainer(
            build_tiny_pipeline(),
            PICTURE,
            "<a>",
            "class",
            describers=silent,
            config=SupremeInitConfig(
                max_train_steps=4, output_dir=str(tmp_path), resume_from_checkpoint="latest", validation_samples=4
            ),
        ).train()


@pytest.mark.long
def test_two_processes_start_from_the_same_words(models: dict[str, str], tmp_path: Path) -> None:
    settings = {"max_train_steps": 2, "validation_samples": 2}
    options = ("--describers", json.dumps(models), "--float64")
    for name, number in (("one", 1), ("two", 2)):
        run = run_forked(tmp_path / name, settings, *options, num_processes=number)
        assert run.returncode == 0, run.stderr[-2000:]
    one, two = (torch.load(tmp_path / name / "exact_rows.pt", weights_only=True) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    for token, rows in one["rows"].items():
        torch.testing.assert_close(two["rows"][token], rows, rtol=0, atol=1e-8)


def test_describers_leave_their_memory_to_the_model(pipe: Any, describers: Describers) -> None:
    SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", "auto", region=Region(points=(30, 20)), describers=describers, config=CONFIG
    ).train()
    assert not {"captioner", "classifier", "segmenter"} & set(vars(describers))


# Regions


def object_mask(size: tuple[int, int] = (64, 48), box: tuple[int, int, int, int] = (20, 10, 44, 34)) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def test_a_region_trains_on_its_crop(pipe: Any, other_pipe: Any) -> None:
    region = Region(mask=object_mask())
    plain = SupremeInitConfig(max_train_steps=1, validation_samples=2)
    describers = Describers(DescriberConfig(region_margin=0.25))
    (result,) = SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", "a mug", region=region, describers=describers, config=plain
    ).train()
    crop = PICTURE.crop((14, 4, 50, 40))
    (cropped,) = SupremeInitTextualInversionTrainer(other_pipe, crop, "<mug>", "a mug", config=plain).train()
    assert torch.equal(result.latents.mean, cropped.latents.mean)
    assert torch.equal(result.rows["text_encoder"], cropped.rows["text_encoder"])
    assert result.latents.mask is None


def test_a_region_can_train_on_the_whole_picture_without_learning_its_surroundings(pipe: Any) -> None:
    config = SupremeInitConfig(max_train_steps=1, validation_samples=2, center_crop=False)
    (result,) = SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", "a mug", region=Region(mask=object_mask()), train_on="image", config=config
    ).train()
    mask = result.latents.mask
    assert mask is not None
    assert mask.shape == (1, 2, 1, 8, 8)
    expected = np.asarray(object_mask().resize((8, 8), Image.Resampling.BOX)) / 255
    np.testing.assert_allclose(mask[0, 0, 0].numpy(), expected, atol=0.05)
    torch.testing.assert_close(mask[0, 1], mask[0, 0].flip(-1))


def test_an_object_that_the_central_square_cuts_off(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    region = Region(mask=object_mask(size=(200, 48), box=(2, 2, 30, 30)))
    with pytest.raises(PictureError, match="got a black one .* in its central square; pass center_crop=False"):
        SupremeInitTextualInversionTrainer(
            pipe, random_picture((200, 48)), "<mug>", "a mug", region=region, train_on="image", config=CONFIG
        ).train()


def test_what_the_mask_excludes_weighs_nothing(pipe: Any) -> None:
    """The error of pixels outside the mask has no part in the loss."""
    from diffusers_supreme_init.backbones import backbone_for
    from diffusers_supreme_init.objective.draws import DenoisingSample
    from diffusers_supreme_init.objective.losses import denoising_losses

    backbone = backbone_for(pipe)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 4, 8, 8, generator=generator).unbind()
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1

    def losses(*masks: torch.Tensor | None) -> list[float]:
        samples = [DenoisingSample(latents, noise, 500, "a mug", mask, torch.zeros(6)) for mask in masks]
        with torch.no_grad():
            return denoising_losses(backbone, samples, torch.device("cpu")).tolist()

    (whole,), (left_half,), (right_half,) = losses(None), losses(left), losses(1 - left)
    assert (left_half + right_half) / 2 == pytest.approx(whole, rel=1e-5)
    assert left_half != pytest.approx(whole, rel=1e-3)
    # Concepts with and without masks share a batch, and each keeps its own loss.
    assert losses(None, left) == pytest.approx([whole, left_half], rel=1e-5)


def test_masked_and_plain_concepts_train_together_as_if_alone() -> None:
    def concepts() -> list[Concept]:
        return [
            Concept(
                images=PICTURE,
                placeholder_token="<a>",
                initializer="a mug",
                region=Region(mask=object_mask()),
                train_on="image",
            ),
            Concept(images=random_picture(seed=1), placeholder_token="<b>", initializer="a teapot"),
        ]

    config = SupremeInitConfig(max_train_steps=3, validation_samples=2)
    together = SupremeInitTextualInversionTrainer(
        build_tiny_pipeline().to(torch.float64), concepts=concepts(), config=config
    ).train()
    for index, result in enumerate(together):
        (alone,) = SupremeInitTextualInversionTrainer(
            build_tiny_pipeline().to(torch.float64), concepts=[concepts()[index]], config=config
        ).train()
        torch.testing.assert_close(result.rows["text_encoder"], alone.rows["text_encoder"], rtol=0, atol=1e-8)


def test_a_click_is_segmented_described_and_trained(
    pipe: Any, other_pipe: Any, describers: Describers, models: dict[str, str], tmp_path: Path
) -> None:
    region = Region(points=(30, 20))
    proposal = propose_initializer(PICTURE, "caption", pipe=other_pipe, region=region, describers=describers)
    assert proposal.mask is not None
    assert proposal.mask.shape == (48, 64)
    (picture,) = proposal.pictures
    left, top, right, bottom = picture.box or (0, 0, 0, 0)
    assert proposal.crop.width >= right - left
    assert proposal.crop.height >= bottom - top
    trainer = SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", "caption", region=region, describers=describers_of(models), config=CONFIG
    )
    (result,) = trainer.train()
    assert result.description == proposal.text
    trainer.save(tmp_path)
    record = json.loads((tmp_path / "training.json").read_text())["region"]
    selected = {"points": [[30, 20]], "negative_points": [], "box": None, "words": None, "mask": False}
    assert record == {"train_on": "crop", "regions": [selected]}


def test_words_say_what_is_meant_in_every_picture(pipe: Any, models: dict[str, str], tmp_path: Path) -> None:
    describers = Describers(
        DescriberConfig(classifier=models["classifier"], segmenter=str(build_sam3(tmp_path / "sam3")))
    )
    region = Region(words="the mug")
    proposal = propose_initializer([PICTURE, PICTURE], "class", region=region, describers=describers)
    assert [picture.mask is not None for picture in proposal.pictures] == [True, True]
    trainer = SupremeInitTextualInversionTrainer(
        pipe, [PICTURE, PICTURE], "<mug>", "class", region=region, describers=describers, config=CONFIG
    )
    (result,) = trainer.train()
    assert result.description == proposal.text
    trainer.save(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "training.json").read_text())["region"]
    said = {"points": [], "negative_points": [], "box": None, "words": "the mug", "mask": False}
    assert record == {"train_on": "crop", "regions": [said, said]}


def test_a_region_that_lies_outside_is_found_before_a_model_is_loaded(pipe: Any) -> None:
    describers = Describers(DescriberConfig(segmenter="nobody/nothing"))
    with pytest.raises(RegionError, match="<mug>: region: expected points inside the picture"):
        SupremeInitTextualInversionTrainer(
            pipe, PICTURE, "<mug>", "a mug", region=Region(points=(640, 1)), describers=describers, config=CONFIG
        ).train()


def test_a_captioner_that_takes_boxes_sees_the_region_in_its_surroundings(models: dict[str, str]) -> None:
    class SaysOfBoxes(Says):
        describes_boxes = True

        def describe(self, image: Any, **options: Any) -> list[Description]:
            self.box = options["box"]
            return super().describe(image, **options)

    region = Region(mask=object_mask())
    for background, box, size in (("keep", (20, 10, 44, 34), (64, 48)), ("remove", None, (30, 30))):
        describers = describers_saying("unused", region_background=background)
        captioner = describers.__dict__["captioner"] = SaysOfBoxes("a mug")
        propose_initializer(PICTURE, "caption", region=region, describers=describers)
        assert captioner.box == box
        assert captioner.seen[0].size == size


def test_clicks_count_in_the_upright_picture(tmp_path: Path) -> None:
    upright = Image.new("RGB", (64, 48))
    upright.paste("red", (20, 10, 44, 34))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees when shown
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "rotated.png", exif=exif)
    proposal = propose_initializer(
        tmp_path / "rotated.png",
        "caption",
        region=Region(mask=object_mask()),
        describers=describers_saying("a mug", region_margin=0.0),
    )
    assert np.asarray(proposal.crop)[2:-2, 2:-2].reshape(-1, 3).min(axis=0).tolist() == [255, 0, 0]


def test_regions_are_one_for_each_picture(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    region = Region(points=(30, 20))
    for arguments, error, message in (
        ({"region": [region, region]}, RegionError, "<mug>: expected one region for each of 1 pictures, got 2"),
        ({"region": region, "mask": object_mask()}, RegionError, "expected either mask= or region=, got both"),
        ({"train_on": "image"}, ConfigError, "expected a region for train_on='image', got none"),
        ({"region": region, "train_on": "sky"}, ConfigError, "train_on: expected one of .*, got 'sky'"),
        ({"region": (30, 20)}, RegionError, "expected a Region for each picture, got .*; pass Region"),
        ({"candidates": ["a cup"]}, ConfigError, "candidates only with initializer='auto', got them with 'a mug'"),
    ):
        with pytest.raises(error, match=message):
            SupremeInitTextualInversionTrainer(pipe, PICTURE, "<mug>", "a mug", config=CONFIG, **arguments)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region(points=(64, 1)), "points inside the picture of 64 x 48 pixels"),
        (Region(box=(0, 0, 64, 49)), "a box inside the picture"),
        (Region(mask=Image.new("L", (64, 48))), "mask: expected light pixels"),
        (Region(mask=object_mask(box=(1, 1, 4, 4))), "an object of at least 8 x 8 pixels, got 3 x 3"),
    ],
)
def test_regions_that_cannot_be_trained_on(
    region: Region, message: str, pipe: Any, describers: Describers, tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    unchanged(pipe)
    config = replace(CONFIG, output_dir=str(tmp_path / "out"))
    trainer = SupremeInitTextualInversionTrainer(
        pipe, PICTURE, "<mug>", "a mug", region=region, describers=describers, config=config
    )
    with pytest.raises(RegionError, match=message):
        trainer.train()
    assert list((tmp_path / "out").iterdir()) == []


def test_lists_of_concepts_with_regions(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"file_name": "a.png", "placeholder_token": "<a>", "points": [[40, 22]], "negative_points": [[1, 2]]},
        {"file_name": "b.png", "placeholder_token": "<b>", "box": [1, 2, 30, 40]},
        {"file_name": "c.png", "placeholder_token": "<c>"},
        {"file_name": "d.png", "placeholder_token": "<d>", "region_words": "the mug"},
    ]
    path = tmp_path / "metadata.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    first, second, third, fourth = load_concepts(path, initializer="auto")
    assert first.region == [Region(points=(40, 22), negative_points=(1, 2))]
    assert second.region == [Region(box=(1, 2, 30, 40))]
    assert third.region is None
    assert fourth.region == [Region(words="the mug")]
    assert {concept.initializer for concept in (first, second, third)} == {"auto"}
    path.write_text(json.dumps(rows[0] | {"points": None}))
    with pytest.raises(RegionError, match="<a>, a.png: region: expected a point, a box, a mask or words, got none"):
        load_concepts(path, initializer="auto")
    path.write_text(json.dumps(rows[0] | {"train_on": "image", "negative_points": None}))
    assert load_concepts(path, initializer="auto")[0].train_on == "image"
    path.write_text("\n".join(json.dumps(row | {"placeholder_token": "<a>"}) for row in rows))
    with pytest.raises(
        ConfigError, match="<a>: expected points, a box or region_words for all of its 4 pictures .*, got 3"
    ):
        load_concepts(path, initializer="auto")


# Pictures


def test_odd_pictures_are_described(pipe: Any, describers: Describers, tmp_path: Path) -> None:
    PICTURE.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 256).save(tmp_path / "16bit.png")
    PICTURE.save(tmp_path / "animated.gif", save_all=True, append_images=[random_picture((64, 48), seed=1)])
    for path in sorted(tmp_path.iterdir()):
        proposal = propose_initializer(path, "auto", pipe=pipe, region=Region(points=(30, 20)), describers=describers)
        assert proposal.text
        assert proposal.crop.mode == "RGB"
        assert proposal.mask is not None
        assert proposal.mask.shape == (48, 64)


def test_a_picture_of_one_pixel(pipe: Any, describers: Describers, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    with pytest.raises(PictureError, match="expected at least 8 pixels a side, got 1 x 1"):
        propose_initializer(Image.new("RGB", (1, 1)), "auto", pipe=pipe, describers=describers)


# Settings


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("num_labels", -1, "at least 0"),
        ("num_captions", -1, "at least 0"),
        ("max_caption_tokens", 0, "at least 1"),
        ("max_initializer_tokens", 0, "at least 1, or None"),
        ("score_samples", 0, "at least 1"),
        ("region_margin", -0.1, "at least 0"),
        ("region_background", "blur", "one of"),
        ("label_synonym", "best", "one of"),
        ("describer_dtype", "int8", "one of"),
    ],
)
def test_settings_of_describers_out_of_range(setting: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting}: expected {expected}.*, got "):
        DescriberConfig(**{setting: value})


def test_settings_of_describers_act(pipe: Any, models: dict[str, str]) -> None:
    def candidates(**settings: Any) -> list[Any]:
        describers = describers_of(models, **settings)
        return list(propose_initializer(PICTURE, "auto", pipe=pipe, describers=describers).candidates)

    few = candidates(num_labels=2, num_captions=1)
    assert sorted(candidate.source for candidate in few) == ["caption", "class", "class"]
    assert len(candidates(num_labels=0, num_captions=3)) > len(candidates(num_labels=0, num_captions=1))
    assert {len(candidate.losses) for candidate in candidates(score_samples=3)} == {3}
    longest = max(len(candidate.text.split()) for candidate in candidates(max_caption_tokens=2, num_labels=0))
    assert longest <= 2
    prompted = candidates(caption_prompt="a red", num_labels=0)
    assert [c.text for c in prompted] != [c.text for c in candidates(num_labels=0)]
    raw = describers_saying("a photo of a mug", clean_captions=False)
    assert propose_initializer(PICTURE, "caption", describers=raw).text == "a photo of a mug"
    white = describers_saying("a mug", region_background="remove", region_margin=0.5)
    crop = propose_initializer(PICTURE, "caption", region=Region(mask=object_mask()), describers=white).crop
    assert np.asarray(crop)[0, 0].tolist() == [255, 255, 255]
    assert crop.size == (48, 46)


@pytest.mark.long
def test_nothing_touches_the_network_unless_it_is_named(models: dict[str, str], tmp_path: Path) -> None:
    language_model = build_language_model(tmp_path / "language_model")
    code = f"""
import socket
opened = []
def refuse(*args, **kwargs):
    opened.append(args)
    raise OSError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import os, sys, warnings; sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import build_tiny_pipeline, random_picture
from diffusers_supreme_init import *
import huggingface_hub.constants
assert not huggingface_hub.constants.HF_HUB_OFFLINE
models = {models!r}
describers = Describers(DescriberConfig(**models, max_caption_tokens=5, score_samples=2),
                        refiner=LocalRefiner({str(language_model)!r}))
warnings.simplefilter("ignore")
config = SupremeInitConfig(max_train_steps=1, validation_samples=1)
trainer = SupremeInitTextualInversionTrainer(build_tiny_pipeline(), random_picture((64, 48)), "<mug>", "auto",
    region=Region(points=(30, 20)), describers=describers, config=config)
trainer.train()
trainer.save({str(tmp_path / "out")!r})
assert not opened, opened
EndpointRefiner("http://127.0.0.1:9/v1", "model", api_key="key")
assert not opened, opened
describers.refiner = EndpointRefiner("http://127.0.0.1:9/v1", "model", timeout=5)
propose_initializer(random_picture((64, 48)), "caption", describers=describers)
assert opened
"""
    # Offline mode would hide a contact with the Hub.
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=environment)
