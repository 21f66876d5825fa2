"""Answers of captioners beside a description: introductions and repetitions go, refusals are no words."""

from typing import Any

import pytest
from conftest import random_picture

from diffusers_supreme_init import DescriberConfig, DescriberError, Describers, propose_initializer
from diffusers_supreme_init.describers.answers import is_refusal
from diffusers_supreme_init.describers.description import Description
from diffusers_supreme_init.describers.wording import clean_caption


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("a bald bald bald bald man", "a bald man"),
        ("a man with a man with a man", "a man"),
        ("mug mug mug mug mug", "mug"),
        ("a red, red, red mug", "a red mug"),
        ("a mug, a mug, a mug", "a mug"),
        ("a man in a suit and a man in a suit and a man in a suit", "a man in a suit"),
        ("a teddy bear with a teddy bear on it", "a teddy bear on it"),
        ("the the the cat", "the cat"),
        ("Caption: a red mug", "a red mug"),
        ("**Caption:** a red mug", "a red mug"),
        ("Image description: a red mug.", "a red mug"),
        ("The caption is: a red mug", "a red mug"),
        ("Answer: 'a red mug'", "a red mug"),
        ("1. a red mug", "a red mug"),
        ("1) a red mug\n2) a cup", "a red mug"),
        ("- a red mug\n- a cup", "a red mug"),
        ("Description: 1. a red mug", "a red mug"),
        ("Sure! Here is a caption:\n\na red mug", "a red mug"),
        ("Here's a short description of the image: a red mug", "a red mug"),
    ],
)
def test_introductions_and_repetitions_are_removed(answer: str, text: str) -> None:
    wording = clean_caption(answer)
    assert wording.text.lower() == text
    assert wording.raw == answer
    assert clean_caption(wording.text).text == wording.text


@pytest.mark.parametrize(
    "caption",
    [
        "a red mug",
        "a cat and a dog",
        "a 1950s car",
        "a 3d render of two mugs",
        "a bora bora beach",
        "salt and pepper shakers",
        "a mug with a cat on a mat",
        "a can of soda in a can holder",
        "a sorry looking dog",
        "an unknown object",
        "a sign that says no smoking",
        "a tom tom drum",
    ],
)
def test_descriptions_keep_their_words(caption: str) -> None:
    assert clean_caption(caption, boilerplate=False).text == caption
    assert not is_refusal(caption)


REFUSALS = [
    "I'm sorry, I can't help with that.",
    "I’m sorry, but I cannot identify people.",
    "Sorry, no.",
    "I cannot describe this image.",
    "I can't see the image.",
    "I don't see any image.",
    "As an AI language model, I am unable to",
    "Unfortunately, the image is missing",
    "Please upload an image.",
    "No image provided",
    "I apologize for the confusion",
    "Caption: I'm sorry, I can't help with that.",
    "unknown",
    "N/A",
    "Caption:",
]


class Says:
    """A captioner that says what it is told to."""

    describes_boxes = False

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def describe(self, image: Any, *, num_captions: int, **options: Any) -> list[Description]:
        return [Description(text, -index) for index, text in enumerate(self.texts)]


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals_are_no_words(answer: str) -> None:
    describers = Describers(DescriberConfig())
    describers.__dict__["captioner"] = Says(answer)
    with pytest.raises(DescriberError, match="expected words that describe the picture, got a refusal"):
        propose_initializer(random_picture(), "caption", describers=describers)
    describers.__dict__["captioner"] = Says(answer, "a red mug")
    proposal = propose_initializer(random_picture(), "caption", describers=describers)
    assert proposal.text == "a red mug"
    assert "got a refusal" in proposal.notes[0]


def test_a_refiner_that_refuses_keeps_the_caption() -> None:
    describers = Describers(DescriberConfig(), refiner=lambda caption: "I'm sorry, I can't help with that.")
    describers.__dict__["captioner"] = Says("a red mug")
    proposal = propose_initializer(random_picture(), "caption", describers=describers)
    assert proposal.text == "a red mug"
    assert "refiner: expected words that describe the picture, got a refusal" in proposal.notes[0]
