"""Classifiers, captioners and segmenters: every family through the same code, on tiny models built from configs."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_picture
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny.chat_describers import CHAT_CAPTIONERS, build_lfm2_vl, build_qwen3_vl
from tiny.describers import (
    CAPTIONERS,
    SEGMENTERS,
    WORD_SEGMENTERS,
    build_blip,
    build_clip,
    build_sam,
    build_sam3,
    build_sam3_video,
    build_vit,
)
from transformers import SamModel, SamProcessor

from diffusers_supreme_init import DescriberConfig, DescriberError, Describers, Region, RegionError
from diffusers_supreme_init.describers import (
    Captioner,
    Classifier,
    Segmenter,
    WordSegmenter,
    ZeroShotClassifier,
    clean_caption,
    clean_label,
    crop_region,
    find_mask,
    grow_box,
    is_latin,
    mask_to_box,
    without_specks,
)

IMAGE = random_picture((64, 48))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], Path]], str]:
    """Return the folder of a tiny checkpoint, built once."""
    built: dict[str, str] = {}

    def build(builder: Callable[[Path], Path]) -> str:
        if builder.__name__ not in built:
            built[builder.__name__] = str(builder(tmp_path_factory.mktemp(builder.__name__)))
        return built[builder.__name__]

    return build


# Captioners


EVERY_CAPTIONER = {**CAPTIONERS, **CHAT_CAPTIONERS}


@pytest.mark.parametrize("family", EVERY_CAPTIONER)
@pytest.mark.parametrize("prompt", [None, "a red"])
def test_every_captioner_gives_several_captions(family: str, prompt: str | None, checkpoint: Any) -> None:
    captioner = Captioner(checkpoint(EVERY_CAPTIONER[family]), prompt=prompt)
    captions = captioner.describe(IMAGE, num_captions=3, max_new_tokens=6)
    assert 1 <= len(captions) <= 3
    assert [caption.score for caption in captions] == sorted((caption.score for caption in captions), reverse=True)
    for caption in captions:
        assert caption.text == " ".join(caption.text.split()) != ""
        assert "<" not in caption.text
        # Where a prompt is the beginning of the caption it stays, where it is a question it goes.
        continues = prompt is not None and family in ("blip", "git")
        assert caption.text.startswith("a red ") == continues
        assert len(caption.text.split()) <= 6 + 2 * continues
    assert captioner.describe(IMAGE, num_captions=3, max_new_tokens=6) == captions
    assert captioner.describe(IMAGE, max_new_tokens=6)[0].text


@pytest.mark.parametrize("family", EVERY_CAPTIONER)
def test_pictures_that_are_captioned_together_keep_their_captions(family: str, checkpoint: Any) -> None:
    captioner = Captioner(checkpoint(EVERY_CAPTIONER[family]), prompt="a red" if family == "git" else None)
    pictures = [random_picture(size, seed=seed) for seed, size in enumerate([(64, 48), (32, 80), (50, 50)])]
    boxes = [(4, 4, 40, 40), None, (0, 10, 30, 40)] if captioner.describes_boxes else []
    together = captioner.describe_each(pictures, num_captions=2, max_new_tokens=5, boxes=boxes)
    assert len(together) == 3
    for picture, box, found in zip(pictures, boxes or [None] * 3, together, strict=True):
        alone = captioner.describe(picture, num_captions=2, max_new_tokens=5, box=box)
        assert [one.text for one in found] == [one.text for one in alone]
        assert [one.score for one in found] == pytest.approx([one.score for one in alone], abs=1e-3)


@pytest.mark.parametrize("family", ["blip", *CHAT_CAPTIONERS])
def test_captions_depend_on_the_picture(family: str, checkpoint: Any) -> None:
    captioner = Captioner(checkpoint(EVERY_CAPTIONER[family]))
    scores = {captioner.describe(random_picture((64, 48), seed=seed), max_new_tokens=6)[0].score for seed in range(3)}
    assert len(scores) == 3


def test_florence_is_asked_about_a_part_of_the_whole_picture(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = Captioner(checkpoint(CAPTIONERS["florence2"]))
    asked: list[str] = []
    original = captioner.processor.tokenizer.__class__.__call__
    monkeypatch.setattr(
        captioner.processor.tokenizer.__class__,
        "__call__",
        lambda self, text=None, *args, **options: (asked.append(str(text)), original(self, text, *args, **options))[1],
    )
    assert captioner.describes_boxes
    assert captioner.describe(IMAGE, box=(16, 12, 32, 24), max_new_tokens=6)
    # In thousandths of the picture, rounded down: from a quarter to the half.
    bins = [int(value) for value in re.findall(r"<loc_(\d+)>", asked[-1])]
    assert bins == pytest.approx([250, 250, 500, 500], abs=1)


def test_a_prompt_leaves_florence_no_room_for_a_box(checkpoint: Any) -> None:
    captioner = Captioner(checkpoint(CAPTIONERS["florence2"]), prompt="<DETAILED_CAPTION>")
    assert not captioner.describes_boxes
    assert captioner.describe(IMAGE, max_new_tokens=6)


def test_failures_while_looking_at_a_picture_are_explained(checkpoint: Any) -> None:
    with pytest.raises(DescriberError, match="captioner .*: expected an answer, got IndexError"):
        Captioner(checkpoint(build_blip)).describe(IMAGE, max_new_tokens=2000)


def test_models_that_can_think_are_asked_not_to(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = Captioner(checkpoint(build_qwen3_vl))

    def asked() -> str:
        return str(captioner.processor.tokenizer.decode(captioner._chat_inputs([IMAGE], [None])["input_ids"][0]))

    assert asked().endswith("assistant\n")
    thinks = "{% if enable_thinking is defined and not enable_thinking %}no thoughts{% else %}thoughts{% endif %}"
    monkeypatch.setattr(captioner.processor, "chat_template", captioner.processor.chat_template + thinks)
    assert asked().endswith("no thoughts")


def test_a_model_saved_with_settings_for_sampling_does_not_sample(
    checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Captioner(checkpoint(build_qwen3_vl))
    expected = captioner.describe(IMAGE, max_new_tokens=6)
    for name, value in {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}.items():
        monkeypatch.setattr(captioner.model.generation_config, name, value)
    assert captioner.describe(IMAGE, max_new_tokens=6) == expected


def test_other_captioners_refuse_boxes(checkpoint: Any) -> None:
    captioner = Captioner(checkpoint(build_blip))
    assert not captioner.describes_boxes
    with pytest.raises(DescriberError, match="captioner .*: expected no box, got one; crop the picture instead"):
        captioner.describe(IMAGE, box=(0, 0, 10, 10))


# Classifiers


def test_a_classifier_averages_the_probabilities_of_all_pictures(checkpoint: Any) -> None:
    classifier = Classifier(checkpoint(build_vit))
    pictures = [random_picture((40, 40), seed=seed) for seed in range(3)]

    def probabilities(*images: Image.Image) -> dict[str, float]:
        return {description.text: description.score for description in classifier.describe(images, num_labels=100)}

    alone = [probabilities(picture) for picture in pictures]
    together = probabilities(*pictures)
    assert sum(together.values()) == pytest.approx(1)
    for label, probability in together.items():
        assert probability == pytest.approx(np.mean([each[label] for each in alone]), abs=1e-6)
    best = classifier.describe(pictures, num_labels=2)
    assert [b.score for b in best] == sorted(together.values(), reverse=True)[:2]


def test_more_pictures_than_one_batch(checkpoint: Any) -> None:
    classifier = Classifier(checkpoint(build_vit))
    (once,) = classifier.describe([IMAGE], num_labels=1)
    (often,) = classifier.describe([IMAGE] * 17, num_labels=1)
    assert often.text == once.text
    assert often.score == pytest.approx(once.score, abs=1e-5)


def test_things_that_are_classified_together_keep_their_labels(checkpoint: Any) -> None:
    classifier = Classifier(checkpoint(build_vit))
    things = [
        [random_picture((48, 48), seed=10 * thing + k) for k in range(number)]
        for thing, number in enumerate((1, 7, 12))
    ]
    for found, pictures in zip(classifier.describe_each(things), things, strict=True):
        alone = classifier.describe(pictures)
        assert [one.text for one in found] == [one.text for one in alone]
        assert [one.score for one in found] == pytest.approx([one.score for one in alone], abs=1e-5)


def test_labels_of_your_own(checkpoint: Any) -> None:
    classifier = ZeroShotClassifier(checkpoint(build_clip), ["a mug", "a teapot", " a mug "])
    answers = classifier.describe([IMAGE, random_picture(seed=1)])
    assert {answer.text for answer in answers} == {"a mug", "a teapot"}
    assert sum(answer.score for answer in answers) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("labels", [[], ["a mug"], ["a mug", ""]])
def test_labels_of_your_own_that_cannot_be_compared(labels: list[str], checkpoint: Any) -> None:
    with pytest.raises(DescriberError, match="candidate_labels: expected at least two different labels, got "):
        ZeroShotClassifier(checkpoint(build_clip), labels)


# Segmenters

PROMPTS = {
    "a click": Region(points=(20, 10)),
    "several clicks": Region(points=[(20, 10), (30, 20)], negative_points=(2, 2)),
    "a box": Region(box=(3, 4, 40, 30)),
    "a click and a box": Region(points=(20, 10), box=(3, 4, 40, 30)),
}


@pytest.mark.parametrize("family", SEGMENTERS)
def test_every_segmenter_takes_clicks_and_boxes(family: str, checkpoint: Any) -> None:
    segmenter = Segmenter(checkpoint(SEGMENTERS[family]))
    found = {name: segmenter.segment(IMAGE, region) for name, region in PROMPTS.items()}
    for segmentation in found.values():
        assert segmentation.mask.shape == (48, 64)
        assert segmentation.mask.dtype == np.bool_
        assert np.isfinite(segmentation.score)
    assert len({segmentation.score for segmentation in found.values()}) == len(PROMPTS)
    tall = segmenter.segment(IMAGE.transpose(Image.Transpose.ROTATE_90), Region(points=(10, 20)))
    assert tall.mask.shape == (64, 48)


def test_masks_agree_with_the_processor_of_transformers(checkpoint: Any) -> None:
    folder = checkpoint(build_sam)
    processor, model = SamProcessor.from_pretrained(folder), SamModel.from_pretrained(folder).eval()
    inputs = processor(images=IMAGE, input_points=[[[20.0, 10.0]]], return_tensors="pt")
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    with torch.no_grad():
        inputs["input_points"] = inputs["input_points"].float()  # the processor gives float64
        output = model(**inputs)
    masks = processor.post_process_masks(output.pred_masks, *sizes)[0]
    best = int(output.iou_scores[0, 0].argmax())
    found = Segmenter(folder).segment(IMAGE, Region(points=(20, 10)))
    assert found.score == pytest.approx(float(output.iou_scores[0, 0, best]), abs=1e-3)
    assert np.mean(found.mask == without_specks(masks[0, best].numpy(), (20, 10))) > 0.99


def test_very_long_pictures_are_segmented(checkpoint: Any) -> None:
    found = Segmenter(checkpoint(build_sam)).segment(random_picture((8, 4000)), Region(points=(4, 2000)))
    assert found.mask.shape == (4000, 8)


@pytest.mark.parametrize("region", [Region(points=(20, 48)), Region(box=(10, 10, 65, 40))], ids=["point", "box"])
def test_a_segmenter_refuses_what_lies_outside_of_its_picture(region: Region, checkpoint: Any) -> None:
    with pytest.raises(RegionError, match="inside the picture of 64 x 48 pixels"):
        Segmenter(checkpoint(build_sam)).segment(IMAGE, region)


def test_segments_are_without_specks(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Segmenter(checkpoint(build_sam))
    logits = torch.full((48, 64), -1.0)
    logits[10:30, 10:30] = logits[44:46, 60:62] = 1
    monkeypatch.setattr(segmenter, "_to_picture", lambda *arguments: logits)
    mask = segmenter.segment(IMAGE, Region(points=(20, 20))).mask
    assert mask_to_box(mask) == (10, 10, 30, 30)


def test_a_second_click_does_not_look_at_the_picture_again(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Segmenter(checkpoint(build_sam))
    looks: list[int] = []
    original = segmenter.model.get_image_embeddings
    monkeypatch.setattr(segmenter.model, "get_image_embeddings", lambda pixels: (looks.append(1), original(pixels))[1])
    first = segmenter.segment(IMAGE, Region(points=(20, 10)))
    segmenter.segment(IMAGE, Region(points=(40, 30)))
    assert len(looks) == 1
    segmenter.segment(random_picture((64, 48), seed=1), Region(points=(20, 10)))
    assert len(looks) == 2
    assert np.array_equal(segmenter.segment(IMAGE, Region(points=(20, 10))).mask, first.mask)


# Words


@pytest.mark.parametrize("family", WORD_SEGMENTERS)
def test_words_find_the_object_that_the_model_rates_highest(family: str, checkpoint: Any) -> None:
    segmenter = WordSegmenter(checkpoint(WORD_SEGMENTERS[family]))
    found = segmenter.segment(IMAGE, Region(words="the mug"))
    square = np.asarray(IMAGE.resize((64, 64), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
    tokens = segmenter.tokenizer(["the mug"], padding="max_length", max_length=32, return_tensors="pt")
    with torch.no_grad():
        output = segmenter.model(torch.from_numpy(square).permute(2, 0, 1)[None], **tokens)
    scores = output.pred_logits.sigmoid() * output.presence_logits.sigmoid()
    assert found.score == pytest.approx(float(scores.max()), abs=1e-5)
    assert found.num_found == int((scores > 0.5).sum()) >= 1
    likelihood = output.pred_masks[0, scores.argmax()].sigmoid()
    mask = torch.nn.functional.interpolate(likelihood[None, None], (48, 64), mode="bilinear")[0, 0] > 0.5
    assert np.mean(found.mask == without_specks(mask.numpy())) > 0.99


def test_other_words_find_something_else(checkpoint: Any) -> None:
    segmenter = WordSegmenter(checkpoint(build_sam3))
    scores = {segmenter.segment(IMAGE, Region(words=words)).score for words in ("the mug", "a red car", "cat")}
    assert len(scores) == 3


def test_one_checkpoint_takes_clicks_and_words(checkpoint: Any) -> None:
    describers = Describers(DescriberConfig(segmenter=checkpoint(build_sam3_video)))
    for region in (Region(points=(20, 10)), Region(words="the mug")):
        assert describers.segmenter_of(region).segment(IMAGE, region).mask.any()
    assert describers.segmenter is not describers.word_segmenter
    with describers.set_aside():
        pass
    describers.release()
    assert "word_segmenter" not in vars(describers)


def test_several_objects_are_counted_and_said(checkpoint: Any, caplog: pytest.LogCaptureFixture) -> None:
    segmenter = WordSegmenter(checkpoint(build_sam3))
    found = find_mask(IMAGE, Region(words="a red car"), lambda: segmenter)
    assert found.num_found == 4
    message = (
        r"region: 4 objects are 'a red car'; took the likeliest \(score 0\.64\), in .* = \(\d+, \d+, \d+, \d+\); for"
    )
    assert re.search(message, caplog.text)
    caplog.clear()
    assert find_mask(IMAGE, Region(words="the mug"), lambda: segmenter).num_found == 1
    assert not caplog.text


def test_words_that_name_nothing_in_the_picture(checkpoint: Any) -> None:
    segmenter = WordSegmenter(checkpoint(WORD_SEGMENTERS["sam3_lite_text"]))
    with pytest.raises(
        RegionError, match=r"something that is 'cat', found nothing \(highest score 0\.\d+, 0\.5 is needed"
    ):
        segmenter.segment(IMAGE, Region(words="cat"))


def test_words_that_are_too_many(checkpoint: Any) -> None:
    with pytest.raises(RegionError, match="words: expected at most 32 tokens, got 122 in 'cat cat "):
        WordSegmenter(checkpoint(build_sam3)).segment(IMAGE, Region(words="cat " * 40))


def test_a_segmenter_that_takes_no_words(checkpoint: Any) -> None:
    for model in (checkpoint(build_sam), checkpoint(build_vit)):
        describers = Describers(DescriberConfig(segmenter=model))
        with pytest.raises(
            DescriberError, match=r"takes words \(SAM 3\), got '.*', which is '(sam|vit)'; choose facebook/sam3"
        ):
            describers.check(["word_segmenter"])
        with pytest.raises(DescriberError, match="expected a model that takes words"):
            _ = describers.word_segmenter
    Describers(DescriberConfig(segmenter=checkpoint(build_sam3))).check(["word_segmenter"])


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    folder = build_sam3(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_encoder")}
    save_file(others, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        DescriberError, match=r"all weights of Sam3Model, got none for \d+ of its tensors \(text_encoder"
    ):
        WordSegmenter(str(folder))


# Regions


def no_segmenter() -> Any:
    raise AssertionError("a segmenter was asked for")


def disk(size: tuple[int, int], center: tuple[int, int], radius: int) -> np.ndarray:
    y, x = np.ogrid[: size[1], : size[0]]
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


def test_points_can_be_one_or_many() -> None:
    assert Region(points=(40, 22)) == Region(points=[(40, 22)]) == Region(points=[[40.0, 22.0]])
    assert Region(points=[(1, 2), (3, 4)]).points == ((1, 2), (3, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "region: expected a point, a box, a mask or words, got none"),
        ({"negative_points": (1, 2)}, "region: expected a point, a box, a mask or words, got none"),
        ({"words": " "}, "words: expected a text such as 'the mug', got ' '"),
        ({"words": 5}, "words: expected a text such as 'the mug', got 5"),
        ({"words": "the mug", "box": (1, 2, 3, 4)}, "or words, got points or a box and words; pass one of them"),
        ({"words": "the mug", "mask": "mask.png"}, "or words, got a mask and words"),
        ({"points": (1, 2, 3)}, r"points: expected \(x, y\) or a sequence of them, got \(1, 2, 3\)"),
        ({"points": [(1, float("nan"))]}, "points: expected finite numbers"),
        ({"box": (1, 2, 3)}, r"box: expected \(left, top, right, bottom\), got \(1, 2, 3\)"),
        ({"box": (5, 5, 5, 9)}, r"box: expected left < right and top < bottom, got \(5, 5, 5, 9\) without area"),
        ({"box": (9, 5, 5, 9)}, r"box: expected left < right"),
        (
            {"points": (1, 2), "mask": "mask.png"},
            "or a mask, or words, got points or a box and a mask",
        ),
    ],
)
def test_regions_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RegionError, match=message):
        Region(**arguments)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region(points=(64, 10)), r"points inside the picture of 64 x 48 pixels, got \(64, 10\)"),
        (Region(points=[(1, 1), (-1, 10)]), r"got \(-1, 10\); count from the upper left corner"),
        (Region(points=(1, 1), negative_points=(1, 48)), r"got \(1, 48\)"),
        (
            Region(box=(0, 0, 65, 10)),
            r"a box inside the picture of 64 x 48 pixels, got \(0, 0, 65, 10\); the order is",
        ),
        (Region(mask=Image.new("L", (48, 64))), "mask: expected the size of its picture, 64 x 48, got 48 x 64"),
        (
            Region(mask=Image.new("L", (64, 48), 1)),
            "mask: expected light pixels .* the object is, got at most 1; invert",
        ),
        (
            Region(mask=Image.fromarray(disk((64, 48), (20, 20), 2).astype(np.uint8) * 255)),
            "expected an object of at least 8 x 8 pixels, got 5 x 5; move the point",
        ),
    ],
)
def test_regions_that_select_nothing_usable(region: Region, message: str) -> None:
    before = IMAGE.tobytes()
    with pytest.raises(RegionError, match=message):
        find_mask(IMAGE, region, no_segmenter)
    assert IMAGE.tobytes() == before


def test_a_click_that_hits_nothing() -> None:
    class Blind:
        def segment(self, image: Image.Image, region: Region) -> Any:
            from diffusers_supreme_init.describers import Segmentation

            return Segmentation(np.zeros((image.height, image.width), bool), 0.1)

    with pytest.raises(RegionError, match="got an empty one; move the point or the box"):
        find_mask(IMAGE, Region(points=(1, 1)), Blind)


def test_the_box_of_a_mask_is_half_open() -> None:
    mask = np.zeros((48, 64), bool)
    mask[10:20, 30:45] = True
    assert mask_to_box(mask) == (30, 10, 45, 20)
    assert crop_region(IMAGE, mask, margin=0).tobytes() == IMAGE.crop((30, 10, 45, 20)).tobytes()


def test_specks_are_no_part_of_an_object() -> None:
    whole, part = disk((64, 48), (20, 20), 10), disk((64, 48), (45, 20), 6)
    assert np.array_equal(without_specks(whole), whole)
    assert np.array_equal(without_specks(whole | part), whole | part)
    speck = np.zeros_like(whole)
    speck[40:42, 60:62] = True
    assert np.array_equal(without_specks(whole | speck), whole)
    corner = np.zeros_like(whole)
    corner[[10, 11, 12], [10, 11, 12]] = True  # touching at corners is connected
    assert np.array_equal(without_specks(corner), corner)
    assert not without_specks(np.zeros_like(whole)).any()
    assert np.array_equal(without_specks(whole | speck, (61.5, 40)), whole | speck)  # it was clicked


def test_masks_that_were_saved_with_an_opaque_alpha_channel() -> None:
    mask = Image.fromarray(disk((64, 48), (20, 20), 10)).convert("L")
    for source in (
        mask,
        mask.convert("RGB"),
        mask.convert("RGBA"),
        Image.merge("LA", (Image.new("L", (64, 48)), mask)),
    ):
        assert np.array_equal(find_mask(IMAGE, Region(mask=source), no_segmenter).mask, disk((64, 48), (20, 20), 10))


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.1, 5.0])
@pytest.mark.parametrize("box", [(0, 0, 8, 8), (30, 10, 45, 20), (0, 20, 64, 30), (60, 40, 64, 48), (0, 0, 64, 48)])
def test_grown_boxes_stay_inside_and_cut_nothing_off(box: Any, margin: float, square: bool) -> None:
    left, top, right, bottom = grow_box(box, (64, 48), margin=margin, square=square)
    assert 0 <= left <= box[0] < box[2] <= right <= 64
    assert 0 <= top <= box[1] < box[3] <= bottom <= 48
    if square and max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * margin) <= 48:
        assert right - left == bottom - top


def test_a_background_that_is_removed_is_white() -> None:
    mask = disk((64, 48), (30, 24), 10)
    crop = np.asarray(crop_region(IMAGE, mask, margin=0, background="remove"))
    inside = mask[14:35, 20:41]
    assert (crop[~inside] == 255).all()
    assert np.array_equal(crop[inside], np.asarray(IMAGE)[14:35, 20:41][inside])


# Words


@pytest.mark.parametrize(
    ("label", "synonym", "text", "removed"),
    [
        ("tabby, tabby cat", "first", "tabby", ("tabby cat",)),
        ("n02123045 tabby, tabby cat", "first", "tabby", ("tabby cat",)),
        ("tench, Tinca tinca", "last", "Tinca tinca", ("tench",)),
        ("notebook, notebook computer", "all", "notebook notebook computer", ()),
        ("poll_parrot", "first", "poll parrot", ()),
        ("jack-o'-lantern", "first", "jack-o'-lantern", ()),
    ],
)
def test_labels_become_names(label: str, synonym: str, text: str, removed: tuple[str, ...]) -> None:
    wording = clean_label(label, synonym=synonym)
    assert (wording.text, wording.removed, wording.raw) == (text, removed, label)


@pytest.mark.parametrize("label", ["LABEL_3", "label 12", "7", "n02123045", "", " , "])
def test_labels_that_say_nothing(label: str) -> None:
    with pytest.raises(DescriberError, match="classifier: expected class names, got "):
        clean_label(label)


@pytest.mark.parametrize(
    ("caption", "text", "removed"),
    [
        ("a red mug", "a red mug", ()),
        ("There is a red mug on a white background.", "a red mug", ("there is", "on a white background")),
        ("a close up of a mug", "a mug", ("a close up of",)),
        ("arafed mug with stripes", "mug with stripes", ("arafed",)),
        ("The image shows a close-up of an Old Clock!", "an Old Clock", ("the image shows", "a close-up of")),
        ('"a mug"', "a mug", ()),
        ("<think>it may be a mug\n\nor a cup</think>\n**A blue cup**", "a blue cup", ()),
        ("thinking aloud</think>a cup", "a cup", ()),
        ("a mug\nwith a second line", "a mug", ()),
        ("a mug on a wooden table", "a mug on a wooden table", ()),
        ("a photo of", "", ("a photo of",)),
        ("", "", ()),
        ("...", "", ()),
        ("photography book", "photography book", ()),
        ("a shot of whiskey", "a shot of whiskey", ()),
        ("this is a picture of a cat", "a cat", ("this is", "a picture of")),
    ],
)
def test_captions_lose_their_boilerplate(caption: str, text: str, removed: tuple[str, ...]) -> None:
    wording = clean_caption(caption)
    assert (wording.text, wording.removed, wording.raw) == (text, removed, caption)
    assert clean_caption(wording.text).text == wording.text


def test_boilerplate_can_stay() -> None:
    assert clean_caption("A photo of a mug.", boilerplate=False).text == "a photo of a mug"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a mug", True), ("ein Krüglein", True), ("一个红色的杯子", False), ("кружка", False), ("3", True)],
)
def test_scripts(text: str, expected: bool) -> None:
    assert is_latin(text) is expected


# Loading


@pytest.mark.parametrize(
    ("describer", "builder", "message"),
    [
        (Captioner, build_vit, "expected a model that transformers can use as a captioner, got '.*vit.*'"),
        (Segmenter, build_blip, "expected a model that transformers can use as a segmenter, got "),
        (Classifier, build_blip, "expected a model that transformers can use as a classifier, got "),
        (
            Captioner,
            build_lfm2_vl,
            r"works without torchvision.* extra diffusers-supreme-init\[vlm\] from the same index as your torch",
        ),
    ],
)
def test_models_of_another_kind(describer: Any, builder: Any, message: str, checkpoint: Any) -> None:
    with pytest.raises(DescriberError, match=message):
        describer(checkpoint(builder))


@pytest.mark.parametrize("describer", [Captioner, Classifier, Segmenter])
def test_models_that_do_not_exist(describer: Any, tmp_path: Path) -> None:
    with pytest.raises(DescriberError, match="expected a folder with a model or an id on the Hub, got '.*nowhere'"):
        describer(str(tmp_path / "nowhere"))
    with pytest.raises(DescriberError, match="got 'nobody/nothing@v1', which cannot be loaded"):
        describer("nobody/nothing@v1")


def test_damaged_weights(checkpoint: Any, tmp_path: Path) -> None:
    folder = build_vit(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DescriberError, match="classifier"):
        Classifier(str(folder))


def test_a_model_is_loaded_when_it_is_asked_and_only_once(checkpoint: Any) -> None:
    describers = Describers(DescriberConfig(captioner="nobody/nothing", classifier=checkpoint(build_vit)))
    assert describers.classifier is describers.classifier
    first = describers.classifier
    describers.release()
    assert describers.classifier is not first
    with pytest.raises(DescriberError, match="nobody/nothing"):
        _ = describers.captioner


def test_precision_of_describers(checkpoint: Any) -> None:
    config = DescriberConfig(
        classifier=checkpoint(build_vit),
        captioner=checkpoint(build_blip),
        segmenter=checkpoint(build_sam),
        describer_dtype="bfloat16",
    )
    describers = Describers(config, device="cpu")
    assert describers.captioner.model.dtype == torch.bfloat16
    assert describers.captioner.describe(IMAGE, max_new_tokens=4)
    assert describers.classifier.describe([IMAGE])
    assert describers.segmenter.segment(IMAGE, Region(points=(20, 10))).mask.shape == (48, 64)


@pytest.mark.long
def test_importing_all_public_names_loads_no_describer() -> None:
    code = """
import gc, sys
gc.disable()  # imports a fifth faster
from diffusers_supreme_init import *
heavy = [name for name in sys.modules if name.startswith("transformers.models.") and name.split(".")[2] in
         {"blip", "blip_2", "git", "florence2", "idefics3", "llava", "vit",
          "sam", "sam2", "sam2_video", "sam3", "sam3_lite_text", "sam3_tracker", "sam_hq"}
         and ".modeling_" in name]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
