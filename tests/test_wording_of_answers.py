"""Words of classifiers and captioners: their case is kept, equal ones are one, and each is one name."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import random_picture
from PIL import Image
from tiny.every_family import FAMILY, pair_of

from diffusers_supreme_init import DescriberConfig, Describers, propose_initializer
from diffusers_supreme_init.describers.classifier import LabelModel
from diffusers_supreme_init.describers.description import Description
from diffusers_supreme_init.describers.wording import clean_caption, clean_label
from diffusers_supreme_init.text.initialization import initialize


class Guesses(LabelModel):
    """A classifier with given labels and probabilities."""

    name = "guesses"

    def __init__(self, probabilities: dict[int, float], labels: Sequence[str]) -> None:
        self.labels = labels
        self.probabilities = [probabilities.get(index, 0.0) for index in range(len(labels))]

    def _probabilities(self, images: list[Image.Image]) -> torch.Tensor:
        return torch.tensor([self.probabilities] * len(images))


class Says:
    """A captioner that says what it is told to."""

    describes_boxes = False

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def describe(self, image: Any, *, num_captions: int, **options: Any) -> list[Description]:
        return [Description(text, -index) for index, text in enumerate(self.texts[:num_captions])]


def describers_of(classifier: Any = None, captioner: Any = None, **settings: Any) -> Describers:
    describers = Describers(DescriberConfig(score_object=False, score_samples=4, **settings))
    describers.__dict__.update(classifier=classifier, captioner=captioner)
    return describers


# ------------------------------------------------------------------------------------------------------- case


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A Pembroke Welsh Corgi.", "a Pembroke Welsh Corgi"),
        ("an egyptian Mau", "an egyptian Mau"),
        ("There is a LEGO figure of Darth Vader", "a LEGO figure of Darth Vader"),
        ("The image shows a Coca-Cola can on a white background.", "a Coca-Cola can"),
        ("A close up of Mount Fuji", "Mount Fuji"),
        ("Two NASA astronauts", "two NASA astronauts"),
        ("Egyptian Mau", "Egyptian Mau"),
        ("ARAFED red Volkswagen", "red Volkswagen"),
        ("**A Red Mug**", "a Red Mug"),
        ("a red mug", "a red mug"),
    ],
)
def test_captions_keep_their_case(caption: str, text: str) -> None:
    assert clean_caption(caption).text == text


@pytest.mark.parametrize(("caption", "text"), [("There is a VW", "there is a VW"), ("It is a VW", "it is a VW")])
def test_words_that_begin_a_sentence_get_small(caption: str, text: str) -> None:
    assert clean_caption(caption, boilerplate=False).text == text


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("n02124075 Egyptian cat", "Egyptian cat"),
        ("Pembroke, Pembroke Welsh corgi", "Pembroke"),
        ("CD_player", "CD player"),
        ("St. Bernard", "St. Bernard"),
    ],
)
def test_labels_keep_their_case(label: str, text: str) -> None:
    assert clean_label(label).text == text


def test_t5_gets_the_words_as_they_were_said_and_clip_the_same_rows_as_ever() -> None:
    pipe = FAMILY["flux"].build()
    clip, t5 = pair_of(pipe, "text_encoder"), pair_of(pipe, "text_encoder_2")
    text = clean_caption("A Red Mug").text
    assert torch.equal(initialize(clip, text).rows, initialize(clip, text.lower()).rows)
    assert t5.tokenizer(text).input_ids == t5.tokenizer("a Red Mug").input_ids


@pytest.mark.parametrize("method", ["class", "caption"])
def test_words_keep_their_case_up_to_the_proposal(method: str) -> None:
    describers = describers_of(Guesses({0: 1.0}, ["Egyptian Mau", "tabby"]), Says("A photo of an Egyptian Mau."))
    proposal = propose_initializer(random_picture(), method, describers=describers)
    assert proposal.text.endswith("Egyptian Mau")


def test_answers_that_differ_in_case_alone_are_one(pipe: Any) -> None:
    describers = describers_of(
        Guesses({0: 0.6, 1: 0.4}, ["Red Mug", "cup"]), Says("red mug", "RED MUG", "a Cup"), num_captions=3
    )
    proposal = propose_initializer(
        random_picture(), "auto", pipe=pipe, describers=describers, candidates=["Red mug", "red mug"]
    )
    assert sorted(one.text for one in proposal.candidates) == ["Red mug", "a Cup", "cup", "red mug"]


# ------------------------------------------------------------------------------------------- equal labels, one name

LABELS = ["sunglasses", "missile", "crane", "sunglasses", "maillot", "maillot, tank suit", "crane", "missile"]


def test_equal_labels_are_merged_before_the_best_are_taken() -> None:
    model = Guesses({0: 0.25, 3: 0.2, 2: 0.3, 1: 0.15, 7: 0.05, 4: 0.05}, LABELS)
    best = model.describe([random_picture()], num_labels=3)
    assert [one.text for one in best] == ["sunglasses", "crane", "missile"]
    assert [one.score for one in best] == pytest.approx([0.45, 0.3, 0.2])
    assert len(model.describe([random_picture()], num_labels=99)) == 5


@pytest.mark.parametrize(
    ("probabilities", "labels", "words"),
    [
        ({0: 0.25, 3: 0.2, 2: 0.3}, LABELS, ["sunglasses", "crane", "missile"]),
        ({4: 0.2, 5: 0.2, 2: 0.35, 0: 0.25}, LABELS, ["maillot", "crane", "sunglasses"]),  # one name after cleaning
        ({0: 0.2, 1: 0.2, 2: 0.3, 3: 0.1}, ["Mug", "mug", "cup", "n01234567 pot"], ["Mug", "cup", "pot"]),
        (
            {0: 0.2, 1: 0.2, 2: 0.3, 3: 0.1},
            ["gas mask", "gas mask or respirator", "cup", "pot"],
            ["gas mask", "cup", "pot"],
        ),
        ({0: 0.2, 1: 0.2, 2: 0.3, 3: 0.1}, ["kite (toy)", "kite (bird)", "cup", "pot"], ["kite", "cup", "pot"]),
    ],
)
def test_auto_compares_as_many_different_words_as_it_is_asked_for(
    pipe: Any, probabilities: dict[int, float], labels: list[str], words: list[str]
) -> None:
    describers = describers_of(Guesses(probabilities, labels), num_labels=3, num_captions=0)
    proposal = propose_initializer(random_picture(), "auto", pipe=pipe, describers=describers)
    assert sorted(one.text for one in proposal.candidates) == sorted(words)
    scores = {one.text: one.score for one in proposal.candidates}
    assert scores[words[0]] == pytest.approx(max(scores.values()))


def test_own_labels_are_merged_as_they_are(pipe: Any) -> None:
    model = Guesses({0: 0.3, 1: 0.3, 2: 0.4}, ["a red or blue mug", "a red or blue mug ", "a cup, with a handle"])
    describers = describers_of(model, candidate_labels=["a red or blue mug", "a cup, with a handle"])
    proposal = propose_initializer(random_picture(), "class", describers=describers)
    assert proposal.text == "a red or blue mug"


@pytest.mark.parametrize(
    ("label", "first", "last", "removed"),
    [
        ("gas mask or respirator", "gas mask", "respirator", ("respirator",)),
        ("red wolf or maned wolf", "red wolf", "maned wolf", ("maned wolf",)),
        ("spiral or coil", "spiral", "coil", ("coil",)),
        ("vaulted or arched ceiling", "arched ceiling", "arched ceiling", ("vaulted",)),
        ("traffic or street sign", "street sign", "street sign", ("traffic",)),
        ("baluster / handrail", "baluster", "handrail", ("handrail",)),
        ("cup; mug", "cup", "mug", ("mug",)),
        ("kite (bird of prey)", "kite", "kite", ("bird of prey",)),
        ("military hat (bearskin or shako)", "military hat", "military hat", ("bearskin or shako",)),
        ("tench, Tinca tinca", "tench", "Tinca tinca", ("Tinca tinca",)),
        ("orange", "orange", "orange", ()),
        ("corridor", "corridor", "corridor", ()),
        ("AC/DC converter", "AC/DC converter", "AC/DC converter", ()),
    ],
)
def test_a_label_gives_one_name(label: str, first: str, last: str, removed: tuple[str, ...]) -> None:
    wording = clean_label(label)
    assert (wording.text, wording.removed, wording.raw) == (first, removed, label)
    assert clean_label(label, synonym="last").text == last
    assert " or " not in clean_label(label, synonym="all").text
