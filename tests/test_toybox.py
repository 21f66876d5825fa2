"""The toybox: its world is deterministic, its concepts are held out, its models are what `quality.json` says."""

import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOYBOX
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageFilter
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForMaskGeneration,
    AutoProcessor,
)

sys.path.insert(0, str(TOYBOX))  # the toybox is a folder of scripts

import captions
import check
import judging
import scenes
import world
from captions import training_caption
from check_describers import overlap, read_caption
from concepts import HELD_OUT, write_concepts
from dataset import sample_toys
from example_scenes import write_scenes
from prompts import PromptKind, draw_prompts
from scene_dataset import cut_out, sample_scenes

from diffusers_supreme_init import SupremeInitConfig, SupremeInitTextualInversionTrainer
from diffusers_supreme_init.describers import Region, Segmenter
from diffusers_supreme_init.training.rows import RowOptimizer


@pytest.fixture(scope="module")
def metadata() -> list[dict[str, str]]:
    return [json.loads(line) for line in (TOYBOX / "concepts" / "metadata.jsonl").read_text().splitlines()]


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_drawing_is_deterministic() -> None:
    one, same, other = (world.random_toy(random.Random(seed)) for seed in (3, 3, 4))
    assert one == same != other
    assert world.render(one).tobytes() == world.render(same).tobytes() != world.render(other).tobytes()


@pytest.mark.parametrize("category", world.CATEGORIES)
def test_every_toy_is_drawn_inside_its_mask(category: str) -> None:
    toy = world.random_toy(random.Random(0), category)
    mask = np.asarray(world.render_mask(toy))
    picture = np.asarray(world.render(toy), dtype=int)
    assert 0.08 < (mask > 127).mean() < 0.75
    background = np.array(world.BACKGROUNDS[toy.background])
    assert np.abs(picture[mask == 0] - background).max() <= 1
    assert np.abs(picture[mask > 250] - background).max() > 50


UMBRELLA = world.Toy("umbrella", "orange", "deep", "spotted", "white", "blue", "star", "red", "bow", "sky")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((), "an umbrella"),
        (("color",), "an orange umbrella"),
        (captions.CAPTIONER_DETAILS, "an orange umbrella with white spots"),
        (("pattern",), "an umbrella with spots"),
        (("shade", "color", "trim", "background"), "a deep orange umbrella with blue trim on a sky background"),
        (("emblem", "emblem_color", "accessory"), "an umbrella with a red star and a bow"),
        (
            world.DETAILS,
            "a deep orange umbrella with white spots, blue trim, a red star and a bow on a sky background",
        ),
    ],
)
def test_captions_of_several_lengths(told: tuple[str, ...], expected: str) -> None:
    assert captions.caption(UMBRELLA, told) == expected


@pytest.mark.parametrize("name", world.DETAILS)
def test_captions_tell_only_what_the_picture_shows(name: str) -> None:
    bare = world.Toy("car", "red", world.PLAIN_SHADE, "plain", None, "blue", None, None, None, "mint")
    assert (name in world.shown_details(bare)) == (name in ("category", "color", "trim", "background"))
    assert set(world.shown_details(UMBRELLA)) == set(world.DETAILS)


def test_a_training_caption_tells_any_subset_in_any_order() -> None:
    rng = random.Random(0)
    texts = [captions.describe(UMBRELLA, world.DETAILS, rng) for _ in range(200)]
    orders = {tuple(sorted(("spots", "trim", "star", "bow"), key=text.find)) for text in texts if " trim" in text}
    assert len(orders) > 12
    assert {"dots", "accents", "rich"} <= {word for text in texts for word in text.replace(",", "").split()}
    drawn = [captions._draw_told(rng) for _ in range(2000)]
    for detail in set(world.DETAILS) - {"category"}:
        assert 0.3 < sum(detail in told for told in drawn) / len(drawn) < 0.95
    assert all("pattern" in told for told in drawn if "pattern_color" in told)


def test_a_short_caption_never_tells_what_training_has_to_find() -> None:
    assert not {"shade", "trim", "emblem", "emblem_color", "accessory"} & set(captions.CAPTIONER_DETAILS)


def test_concepts_are_one_of_each_category_and_never_seen_in_training(metadata: list[dict[str, str]]) -> None:
    assert sorted(row["class"] for row in metadata) == sorted(world.CATEGORIES)
    assert len(metadata) == 12
    held_out = {one.toy.identity for one in HELD_OUT}
    assert not held_out & {toy.identity for toy in sample_toys("train", 5000)}


def test_concepts_show_what_their_captions_do_not_tell(metadata: list[dict[str, Any]]) -> None:
    for row, one in zip(metadata, HELD_OUT, strict=True):
        assert set(row["untold"]) == {"shade", "trim", "emblem", "emblem_color", "accessory"}
        assert not set(row["untold"].values()) - set(row["told"].values()) & set(row["caption"].split())
        assert row["told"] == {name: value for name, value in one.told.items()}
        assert one.toy.angle


def test_what_is_not_told_is_seldom_right_by_chance(metadata: list[dict[str, Any]]) -> None:
    for row in metadata:
        for name, value in row["untold"].items():
            assert judging.chance({name: value}) <= 0.25


@pytest.mark.parametrize("category", world.CATEGORIES)
def test_an_emblem_is_four_latent_cells_wide(category: str) -> None:
    smallest = replace(world.random_toy(random.Random(1), category), scale=0.82, offset=(0.0, 0.0))
    bare = replace(smallest, emblem=None, emblem_color=None)
    marked = replace(smallest, emblem="ring", emblem_color="red")
    changed = np.abs(np.asarray(world.render(marked), int) - np.asarray(world.render(bare), int)).max(axis=2) > 40
    rows, columns = changed.nonzero()
    assert min(np.ptp(rows), np.ptp(columns)) + 1 >= 16


def test_committed_concepts_are_what_the_code_draws(tmp_path: Path, metadata: list[dict[str, str]]) -> None:
    write_concepts(tmp_path)
    for row in metadata:
        for name in (row["file_name"], row["mask_file_name"]):
            committed, drawn = (
                np.asarray(Image.open(folder / name), dtype=int) for folder in (TOYBOX / "concepts", tmp_path)
            )
            assert np.abs(committed - drawn).max() <= 2  # pillow's resampling may differ by a little between versions


@pytest.mark.parametrize("num_toys", [1, 2, 3, 4])
def test_scenes_are_deterministic_and_hold_different_toys(num_toys: int) -> None:
    one, same, other = (scenes.random_scene(random.Random(seed), num_toys) for seed in (3, 3, 4))
    assert one == same != other
    assert len({toy.category for toy in one.toys}) == num_toys
    assert {toy.background for toy in one.toys} == {one.background}
    assert scenes.render_scene(one).tobytes() == scenes.render_scene(same).tobytes()


@pytest.mark.parametrize("index", range(4))
def test_masks_of_scenes_share_no_pixel_and_leave_only_background(index: int) -> None:
    scene = sample_scenes("test", index + 1)[-1]
    picture, masks = scenes.draw_scene(scene)
    assert picture.tobytes() == scenes.render_scene(scene).tobytes()
    assert [mask.tobytes() for mask in masks] == [mask.tobytes() for mask in scenes.render_scene_masks(scene)]
    covered = np.stack([np.asarray(mask) // 255 for mask in masks]).astype(int)
    assert covered.sum(axis=0).max() == 1
    assert all(0.02 < one.mean() < 0.35 for one in covered)
    # The outline is drawn softly: what is near no mask is background, what is in a mask mostly is not.
    far = np.asarray(Image.fromarray(covered.sum(axis=0).astype(np.uint8)).filter(ImageFilter.MaxFilter(7))) == 0
    distance = np.abs(np.asarray(picture, dtype=int) - world.BACKGROUNDS[scene.background]).max(axis=2)
    assert distance[far].max() <= 1
    assert (distance[covered.sum(axis=0) > 0] > 8).mean() > 0.98


def test_scenes_to_learn_from_hold_no_concept() -> None:
    held_out = {one.toy.identity for one in HELD_OUT}
    assert not held_out & {toy.identity for scene in sample_scenes("train", 2000) for toy in scene.toys}


def test_committed_scenes_are_what_the_code_draws(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    lines = (TOYBOX / "scenes" / "metadata.jsonl").read_text()
    assert (tmp_path / "metadata.jsonl").read_text() == lines
    for scene in map(json.loads, lines.splitlines()):
        assert any(toy["is_concept"] for toy in scene["toys"])
        committed, drawn = (
            np.asarray(Image.open(folder / scene["file_name"]), dtype=int) for folder in (TOYBOX / "scenes", tmp_path)
        )
        assert np.abs(committed - drawn).max() <= 2  # pillow's resampling may differ by a little between versions
        for toy in scene["toys"]:
            mask = Image.open(TOYBOX / "scenes" / toy["mask_file_name"])
            assert mask.getpixel(tuple(toy["click"]))
            assert list(mask.getbbox() or ()) == toy["box"]


def test_a_toy_is_cut_out_with_and_without_its_surroundings() -> None:
    scene = sample_scenes("test", 1)[0]
    picture, masks = scenes.draw_scene(scene)
    kept, alone = cut_out(picture, masks[0])
    assert kept.size == alone.size == (64, 64)
    background = np.abs(np.asarray(kept, dtype=int) - world.BACKGROUNDS[scene.background]).max(axis=2) <= 1
    assert (np.asarray(alone)[background] > 200).mean() > 0.95


@pytest.mark.parametrize("kind", ["click", "clicks", "box", "box and click"])
def test_prompts_point_at_the_toy_that_is_meant(kind: PromptKind) -> None:
    owners = torch.zeros(2, 32, 32, dtype=torch.uint8)
    owners[:, 4:12, 4:12], owners[:, 16:28, 14:30] = 1, 2
    prompts = draw_prompts(owners, 6, kind, torch.Generator().manual_seed(0))
    assert prompts.targets.shape == (2, 6, 32, 32)
    if kind != "box":
        for target, points, labels in zip(
            prompts.targets.flatten(0, 1),
            prompts.inputs["input_points"].flatten(0, 1),
            prompts.inputs["input_labels"].flatten(0, 1),
            strict=True,
        ):
            assert [int(target[int(y), int(x)]) for x, y in points] == labels.tolist()
            assert labels[0] == 1
    if "box" in kind:
        sizes = prompts.inputs["input_boxes"][..., 2:] - prompts.inputs["input_boxes"][..., :2]
        areas = prompts.targets.sum(dim=(-2, -1))
        assert torch.allclose(sizes.prod(dim=-1), areas, rtol=0.3)


def test_the_star_appears_in_captions_of_anything() -> None:
    rng = random.Random(0)
    toys = sample_toys("train", 3000)
    with_star = [toy for toy in toys if "*" in training_caption(toy, rng).text.split()]
    assert 0.03 < len(with_star) / len(toys) < 0.12
    assert len({toy.category for toy in with_star}) == 12


def test_weights_are_half_precision_and_small() -> None:
    assert megabytes(TOYBOX / "pipeline") <= 20
    assert megabytes(TOYBOX / "classifier") <= 3
    assert megabytes(TOYBOX / "judge") <= 6
    assert sum(megabytes(TOYBOX / name) for name in ("classifier", "captioner", "segmenter")) <= 12
    for name in ("captioner", "segmenter"):
        tensors = load_file(TOYBOX / name / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_saved_models_tell_no_local_path() -> None:
    for path in (*TOYBOX.glob("captioner/*.json"), *TOYBOX.glob("segmenter/*.json")):
        text = path.read_text()
        assert "_name_or_path" not in text
        assert str(TOYBOX) not in text
        assert "/tmp" not in text


@pytest.mark.parametrize(
    ("name", "auto_class", "class_name", "processor_name"),
    [
        ("captioner", AutoModelForImageTextToText, "BlipForConditionalGeneration", "BlipProcessor"),
        ("segmenter", AutoModelForMaskGeneration, "SamModel", "SamProcessor"),
    ],
)
def test_describers_load_as_any_model_of_their_kind(
    name: str, auto_class: Any, class_name: str, processor_name: str
) -> None:
    model = auto_class.from_pretrained(TOYBOX / name)
    assert type(model).__name__ == class_name
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert type(AutoProcessor.from_pretrained(TOYBOX / name)).__name__ == processor_name


def test_the_captioner_names_the_concepts(metadata: list[dict[str, str]]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(TOYBOX / "captioner").eval()
    processor = AutoProcessor.from_pretrained(TOYBOX / "captioner")
    pictures = [Image.open(TOYBOX / "concepts" / row["file_name"]) for row in metadata]
    inputs = processor(images=pictures, return_tensors="pt")
    assert inputs.pixel_values.shape == (12, 3, 64, 64)
    texts = processor.batch_decode(model.generate(**inputs, num_beams=3, max_new_tokens=40), skip_special_tokens=True)
    named = [read_caption(text)["category"] for text in texts]
    assert sum(answer == row["class"] for answer, row in zip(named, metadata, strict=True)) >= 11
    assert all(text.split()[-1] != "[SEP]" for text in texts)


def test_the_segmenter_finds_the_toy_that_was_clicked() -> None:
    segmenter = Segmenter(str(TOYBOX / "segmenter"))
    overlaps = []
    for scene in map(json.loads, (TOYBOX / "scenes" / "metadata.jsonl").read_text().splitlines()):
        picture = Image.open(TOYBOX / "scenes" / scene["file_name"])
        for toy in scene["toys"]:
            found = segmenter.segment(picture, Region(points=tuple(toy["click"])))
            overlaps.append(overlap(found.mask, np.asarray(Image.open(TOYBOX / "scenes" / toy["mask_file_name"]))))
    assert min(overlaps) > 0.5
    assert np.mean(overlaps) > 0.85


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red mug with white stripes on a sky background", ("mug", "red", "striped", "white", "sky")),
        ("an orange umbrella", ("umbrella", "orange", "plain", None, None)),
        ("black sunglasses on a background", ("sunglasses", "black", "plain", None, None)),
        ("a mug with spots", ("mug", None, "spotted", None, None)),
        ("", (None, None, "plain", None, None)),
    ],
)
def test_captions_are_read_word_by_word(text: str, expected: tuple[str | None, ...]) -> None:
    assert tuple(read_caption(text).values()) == expected


def test_words_split_as_real_vocabularies_split_them(pipe: Any) -> None:
    tokenizer = pipe.tokenizer
    assert len(tokenizer.tokenize("teapot")) == 2
    assert tokenizer.tokenize("a red mug *") == ["a</w>", "red</w>", "mug</w>", "*</w>"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (len(tokenizer) - 2, len(tokenizer) - 1)
    assert (
        tokenizer.eos_token_id
        not in tokenizer("Any English sentence, 100 % of it?!", add_special_tokens=False).input_ids
    )


@pytest.mark.long
def test_antithetic_pairs_take_most_of_the_noise_out_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over ten steps, as far back as AdamW's momentum looks: less than 0.6 of the variance of independent draws."""
    pipe = StableDiffusionPipeline.from_pretrained(TOYBOX / "pipeline")

    def variance(draws: str) -> float:
        """Train the mug so slowly that its rows stay; return the variance of ten steps' mean gradient."""
        gradients: list[Tensor] = []
        step = RowOptimizer.step

        def record(self: RowOptimizer, given: dict[str, Tensor], learning_rate: float) -> bool:
            gradients.append(given["text_encoder"].flatten())
            return step(self, given, learning_rate)

        with monkeypatch.context() as patched:
            patched.setattr(RowOptimizer, "step", record)
            options = {
                "max_train_steps": 40,
                "learning_rate": 1e-12,
                "validation_samples": 0,
                "snr_gamma": 5,
                "train_batch_size": 4,
            }
            SupremeInitTextualInversionTrainer(
                pipe,
                TOYBOX / "concepts" / "mug.png",
                "<mug>",
                "a red mug with black stripes",
                config=SupremeInitConfig(draws=draws, **options),
            ).train()
        pipe.unload_multitoken_inversion()
        return float(torch.stack(gradients).view(4, 10, -1).mean(dim=1).var(dim=0).sum())

    assert variance("antithetic") < 0.6 * variance("independent")


@pytest.mark.parametrize("name", ["classifier", "judge"])
def test_readers_know_the_held_out_toys(name: str, metadata: list[dict[str, Any]]) -> None:
    pictures = [Image.open(TOYBOX / "concepts" / row["file_name"]) for row in metadata]
    answers = check.Reader(TOYBOX / name).read(pictures)
    assert sum(answer["category"] == row["class"] for answer, row in zip(answers, metadata, strict=True)) >= 11


def test_the_judge_reads_what_captions_tell_and_what_they_do_not(metadata: list[dict[str, Any]]) -> None:
    pictures = [Image.open(TOYBOX / "concepts" / row["file_name"]).convert("RGB") for row in metadata]
    read = judging.Judge(TOYBOX / "judge").read(pictures)
    expected = [{**row["told"], **row["untold"], "background": row["background"]} for row in metadata]
    right = [one.get(name) == value for one, row in zip(read, expected, strict=True) for name, value in row.items()]
    assert sum(right) / len(right) >= 0.95
    assert all(set(one) == set(row) for one, row in zip(read, expected, strict=True))


def test_the_judge_shares_no_weights_with_what_it_judges() -> None:
    judge = load_file(TOYBOX / "judge" / "model.safetensors").values()
    others = [TOYBOX / "captioner" / "model.safetensors", *TOYBOX.glob("pipeline/*/*.safetensors")]
    seen = {
        tensor.numpy().tobytes()
        for path in others
        for tensor in load_file(path).values()
        if tensor.unique().numel() > 1
    }
    assert not [tensor for tensor in judge if tensor.unique().numel() > 1 and tensor.numpy().tobytes() in seen]


def test_kept_details_are_those_of_the_reference(metadata: list[dict[str, Any]]) -> None:
    """A drawing without its emblem keeps what captions tell, and loses two of five details that they do not."""
    metrics = {metric.name: metric for metric in judging.toybox_metrics(TOYBOX)}
    mug = HELD_OUT[0].toy
    given, bare = (world.render(toy) for toy in (mug, replace(mug, emblem=None, emblem_color=None)))
    assert metrics["told_kept"].compare([given, bare], [given]).tolist() == [1, 1]
    assert metrics["untold_kept"].compare([given, bare], [given]).tolist() == pytest.approx([1, 3 / 5])
    asked = ["a photo of a mug on a mint background", "a mug with green trim and a red star", "a mug"]
    obeyed = [render(mug, background="mint"), render(mug, trim="green"), given]
    assert metrics["background_obeyed"].score(obeyed, asked).tolist() == pytest.approx(
        [1, math.nan, math.nan], nan_ok=True
    )
    assert metrics["edit_obeyed"].score(obeyed, asked).tolist() == pytest.approx(
        [math.nan, 2 / 3, math.nan], nan_ok=True
    )


def render(toy: world.Toy, **looks: str) -> Image.Image:
    return world.render(replace(toy, **looks))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def quality() -> dict[str, dict[str, float]]:
    return json.loads((TOYBOX / "quality.json").read_text())


def test_recorded_quality_reaches_its_goals(quality: dict[str, dict[str, float]]) -> None:
    assert check.missed_goals(quality) == []
    assert quality["generated"]["num_pictures"] >= 240
    assert quality["captioner"]["num_pictures"] >= 600
    assert quality["clicks"]["num_clicks"] >= 300


def test_a_missed_goal_is_said_with_both_figures(quality: dict[str, dict[str, float]]) -> None:
    worse = {**quality, "generated": {**quality["generated"], "trim": 0.5}}
    assert check.missed_goals(worse) == ["generated, trim: 0.5 instead of at least 0.85"]


def test_goals_are_those_of_a_world_in_which_training_matters() -> None:
    assert check.GOALS["judge_on_drawings"] == dict.fromkeys(world.DETAILS, 0.95)
    generated = {"category": 0.97, "color": 0.93, "pattern": 0.85, "trim": 0.85, "emblem": 0.8, "background": 0.8}
    assert check.GOALS["generated"] == generated


@pytest.mark.slow
def test_recorded_reconstruction_is_that_of_the_committed_weights(quality: dict[str, dict[str, float]]) -> None:
    measured = check.measure_vae(TOYBOX / "pipeline" / "vae")
    for name in ("reconstruction", "reconstruction_of_concepts"):
        assert measured[name]["psnr_db"] == pytest.approx(quality[name]["psnr_db"], abs=0.1)


@pytest.mark.slow
def test_recorded_quality_is_measured_again(quality: dict[str, dict[str, float]]) -> None:
    measured = check.measure_quality(TOYBOX, check.GenerationSettings())
    for name, recorded in quality.items():
        assert measured[name] == pytest.approx(recorded, abs=0.02), name
