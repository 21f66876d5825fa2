"""`evaluate`: what is drawn, what is read, what is written, what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_same, build_tiny_pipeline, random_picture, snapshot_of
from PIL import ImageStat

from diffusers_supreme_init import (
    ConfigError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    SupremeInitWarning,
    UnsupportedPipelineError,
    backbones,
    evaluate,
)
from diffusers_supreme_init.backbones import StableDiffusionBackbone
from diffusers_supreme_init.metrics import denoising_mse
from diffusers_supreme_init.sharing.saved_folder import publishable_files

CAPTION = "a red mug with white stripes"
SAMPLING = {"num_inference_steps": 2, "guidance_scale": 2.0}


class Brightness:
    """Distance of mean brightness: a metric that needs no weights."""

    name, label, higher_is_better = "brightness", "difference of brightness", False

    def compare(self, pictures: Any, references: Any) -> torch.Tensor:
        def mean(picture: Any) -> float:
            return ImageStat.Stat(picture.convert("L")).mean[0]

        self.sizes = {picture.size for picture in [*pictures, *references]}
        return torch.tensor(
            [[abs(mean(a) - mean(b)) for b in references] for a in pictures], dtype=torch.float64
        ).mean(1)


class WordCount:
    """Remembers the texts it is asked about."""

    name, label, higher_is_better = "words", "words", True

    def __init__(self) -> None:
        self.texts: list[str] = []

    def score(self, pictures: Any, texts: Any) -> torch.Tensor:
        assert len(pictures) == len(texts)
        self.texts += texts
        return torch.tensor([len(text.split()) for text in texts], dtype=torch.float64)


@pytest.fixture
def trained(pipe: Any) -> Any:
    config = SupremeInitConfig(max_train_steps=2, validation_samples=8, validation_steps=["0"])
    trainer = SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", CAPTION, config=config)
    trainer.train()
    pipe.set_progress_bar_config(disable=True)
    return trainer


def measure(pipe: Any, **options: Any) -> Any:
    given = {"metrics": [Brightness()], "denoising_samples": 0, "description": CAPTION, "seeds": (0, 1), **SAMPLING}
    return evaluate(pipe, "<mug>", random_picture(), **given | options)


def test_pictures_and_scores_have_a_place_for_each_prompt_and_seed(trained: Any) -> None:
    result = measure(trained.pipe, editing_prompts=["a {} in the snow"])
    # By the article rule two of the paper's prompts are the same; they are still drawn from noises of their own.
    assert result.prompts == ("A photo of <mug>", "A photo of <mug>", "A good photo of <mug>")
    assert [len(of_prompt) for of_prompt in result.pictures] == [2, 2, 2, 2]
    assert result.pictures[0][0].tobytes() != result.pictures[1][0].tobytes()
    score = result.reconstruction["brightness"]
    assert len(score.values) == 3
    assert all(len(of_prompt) == 2 for of_prompt in score.values)
    assert len(result.editing["brightness"].values) == 1
    assert score.mean == pytest.approx(sum(map(sum, score.values)) / 6)


def test_equal_seeds_give_equal_pictures_whatever_the_batch_and_others_do_not(trained: Any) -> None:
    def pixels(**options: Any) -> np.ndarray:
        drawn = measure(trained.pipe, editing_prompts=(), **options).pictures
        return np.array([[np.asarray(picture, dtype=int) for picture in of_prompt] for of_prompt in drawn])

    one_by_one = pixels(batch_size=1)
    assert np.abs(one_by_one - pixels(batch_size=4)).max() <= 1
    assert np.abs(one_by_one - pixels(seeds=(2, 3))).max() > 20


def test_metrics_read_the_description_in_place_of_the_token(trained: Any) -> None:
    words = WordCount()
    measure(trained.pipe, metrics=[words], prompts=["a photo of a {} in the snow"], editing_prompts=())
    assert words.texts == [f"a photo of {CAPTION} in the snow"] * 2


def test_references_are_the_squares_that_training_saw(trained: Any) -> None:
    metric = Brightness()
    wide = random_picture().resize((96, 48))
    evaluate(
        trained.pipe, "<mug>", wide, metrics=[metric], denoising_samples=0, editing_prompts=(), seeds=[0], **SAMPLING
    )
    assert len(metric.sizes) == 1


def test_the_loss_is_that_of_training(trained: Any) -> None:
    (result,) = trained.results
    measured = denoising_mse(trained.pipe, random_picture(), result.validation_prompt, num_samples=8)
    assert measured.tolist() == pytest.approx(result.validation_losses[2], rel=1e-5)
    inside = measure(trained.pipe, metrics=[], denoising_samples=8, editing_prompts=(), seeds=[0])
    assert inside.denoising_mse == pytest.approx(measured.tolist(), rel=1e-6)


def test_measuring_leaves_the_pipeline_as_it_was(trained: Any) -> None:
    before = snapshot_of(trained.pipe)
    measure(trained.pipe, denoising_samples=4, editing_prompts=())
    assert_same(before, snapshot_of(trained.pipe))


def test_the_file_holds_every_figure_and_null_where_there_is_none(trained: Any, tmp_path: Path) -> None:
    class Unasked(WordCount):
        def score(self, pictures: Any, texts: Any) -> torch.Tensor:
            return torch.full((len(pictures),), float("nan"), dtype=torch.float64)

    result = measure(trained.pipe, metrics=[Brightness(), Unasked()], editing_prompts=())
    values = json.loads(result.write(tmp_path).read_text())
    assert values["reconstruction"]["brightness"]["mean"] == result.reconstruction["brightness"].mean
    assert values["reconstruction"]["words"]["mean"] is None
    assert values["sampling"] == SAMPLING
    assert values["seeds"] == [0, 1]
    assert "pictures" not in values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ()}, "seeds: expected at least one"),
        ({"seeds": (1, 1)}, "seeds: expected at least one and all different"),
        ({"seeds": 3}, r"seeds: expected whole numbers such as range\(4\), got 3"),
        ({"seeds": "01"}, "seeds: expected whole numbers .*, got '01'"),
        ({"seeds": [0.5]}, r"seeds: expected whole numbers .*, got \[0.5\]"),
        ({"seeds": None}, "seeds: expected whole numbers .*, got None"),
        ({"batch_size": 0}, "batch_size: expected a whole number, at least 1, got 0"),
        ({"batch_size": None}, "batch_size: expected a whole number, at least 1, got None"),
        ({"prompts": 5}, "prompts: expected at least one text with '{}', got 5"),
        ({"editing_prompts": [5]}, r"editing_prompts: expected at least one text with '{}', got \[5\]"),
        ({"metrics": ["lpips"]}, "metrics: expected metrics such as LPIPS.*, got 'lpips'"),
        ({"prompts": ["a photo"]}, "templates: expected exactly one"),
        ({"metrics": [WordCount()], "description": ""}, "description: expected the words that <mug> stands for"),
        ({"num_images_per_prompt": 2}, "sampling: expected arguments .* got num_images_per_prompt"),
        (
            {"num_inference_step": 2},
            "sampling: expected arguments of StableDiffusionPipeline, .* mean num_inference_steps",
        ),
        ({"foo": 1}, r"sampling: expected arguments of StableDiffusionPipeline, got foo\Z"),
        (
            {"num_inference_steps": "2"},
            "sampling: StableDiffusionPipeline refuses its arguments .*num_inference_steps='2'",
        ),
        (
            {"num_inference_steps": 0},
            "sampling: StableDiffusionPipeline refuses its arguments .*num_inference_steps=0",
        ),
        ({"negative_prompt": 5}, "sampling: StableDiffusionPipeline refuses its arguments .*negative_prompt=5"),
        (
            {"negative_prompt": ["a", "b", "c"]},
            "sampling: StableDiffusionPipeline refuses its arguments .*batch size 3",
        ),
        ({"guidance_scale": "x"}, "sampling: StableDiffusionPipeline refuses its arguments .*guidance_scale='x'"),
        ({"denoising_samples": -1}, "denoising_samples: expected a whole number, at least 0, got -1"),
    ],
)
def test_what_cannot_be_measured_is_refused(trained: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure(trained.pipe, **options)


@pytest.mark.parametrize("options", [{"negative_prompt": "blurry"}, {"negative_prompt": ["blurry"] * 4}])
def test_a_negative_prompt_counts_for_every_picture(trained: Any, options: dict[str, Any]) -> None:
    def pixels(**options: Any) -> np.ndarray:
        given = {"prompts": "a photo of a {}", "editing_prompts": (), "seeds": range(4), "batch_size": 4}
        result = measure(trained.pipe, **{**given, **options})
        return np.stack([np.asarray(one) for of_prompt in result.pictures for one in of_prompt])

    drawn = pixels(**options)
    assert len(drawn) == 4
    assert np.abs(drawn.astype(int) - pixels()).max() > 2
    if isinstance(options["negative_prompt"], str):
        assert (drawn == pixels(**options, batch_size=3)).all()  # the last batch is smaller


def test_pictures_that_the_safety_checker_blackens_are_counted(trained: Any, tmp_path: Path) -> None:
    trained.pipe.run_safety_checker = lambda image, *_: (image, [True] * len(image))
    with pytest.warns(SupremeInitWarning, match="pictures to measure: 2 of 2 pictures are black: the pipeline's"):
        measure(trained.pipe, prompts=["a {}"], editing_prompts=())
    with pytest.warns(SupremeInitWarning, match="samples of <mug>: 1 of 1 pictures are black") as told:
        trained.save(tmp_path / "mug", sample_prompts=["a {}"])
    assert len(told) == 1
    pipe = build_tiny_pipeline()
    pipe.run_safety_checker = lambda image, *_: (image, [index == 0 for index in range(len(image))])
    options = {"validation_prompt": "a {}", "num_validation_images": 2, "output_dir": str(tmp_path / "run")}
    config = SupremeInitConfig(max_train_steps=0, validation_samples=2, **options)
    trainer = SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", CAPTION, config=config)
    with pytest.warns(SupremeInitWarning, match="previews of step 0: 1 of 2 pictures are black"):
        trainer.train()


def test_a_concept_that_is_not_loaded_is_refused(pipe: Any) -> None:
    with pytest.raises(ConfigError, match="expected a concept that is loaded, got '<mug>'"):
        measure(pipe)


def test_a_pipeline_that_cannot_be_trained_on_says_what_to_leave_out(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [one for one in backbones.BACKBONES if one is not StableDiffusionBackbone]
    monkeypatch.setattr(backbones, "BACKBONES", others)
    with pytest.raises(UnsupportedPipelineError, match="can be trained on .* pass denoising_samples=0"):
        measure(trained.pipe, denoising_samples=4)
    assert measure(trained.pipe, denoising_samples=0).denoising_mse is None


def test_the_file_tells_the_type_of_arguments_that_json_cannot_hold(trained: Any, tmp_path: Path) -> None:
    latents = torch.zeros(1, 4, 8, 8)
    result = dataclasses.replace(measure(trained.pipe, editing_prompts=()), sampling={"latents": latents, "eta": 0.5})
    assert json.loads(result.write(tmp_path).read_text())["sampling"] == {"latents": "Tensor", "eta": 0.5}


# With the concept, to its folder and card


def test_an_evaluation_is_saved_shown_on_the_card_and_published(trained: Any, tmp_path: Path) -> None:
    result = measure(trained.pipe, editing_prompts=["a photo of a {} in the snow"], denoising_samples=4)
    trained.save(tmp_path, evaluations=[result])
    assert (tmp_path / "evaluation.json").read_bytes() == result.write(tmp_path / "alone").read_bytes()
    assert "evaluation.json" in publishable_files(tmp_path)
    assert "evaluation.json" in json.loads((tmp_path / "training.json").read_text())["files"]
    card = (tmp_path / "README.md").read_text()
    shown, edited = (group["brightness"] for group in (result.reconstruction, result.editing))
    cells = " | ".join(f"{score.mean:.3f} ± {score.std:.3f}" for score in (shown, edited))
    assert f"| difference of brightness | lower | {cells} |" in card
    assert "In new sentences: `a photo of <mug> in the snow`." in card
    assert f"| denoising error (MSE) | lower | {sum(result.denoising_mse) / 4:.4f} |  |" in card
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    trained.save(tmp_path, evaluations=[result])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_an_evaluation_of_rows_that_are_replaced_goes_with_them(trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path, evaluations=[measure(trained.pipe, editing_prompts=())])
    trained.save(tmp_path)
    assert not (tmp_path / "evaluation.json").exists()
    assert "## Evaluation" not in (tmp_path / "README.md").read_text()


def test_one_that_no_save_wrote_is_not_published_and_stays(trained: Any, tmp_path: Path) -> None:
    """It may be that of rows which are gone."""
    trained.save(tmp_path)
    result = measure(trained.pipe, editing_prompts=())
    path = result.write(tmp_path)
    assert "evaluation.json" not in publishable_files(tmp_path)
    trained.save(tmp_path)
    assert path.exists()
    trained.save(tmp_path, evaluations=[result])
    assert "evaluation.json" in publishable_files(tmp_path)


def test_the_card_tells_of_no_pictures_where_none_were_measured(trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path, evaluations=[measure(trained.pipe, metrics=[], denoising_samples=4)])
    card = (tmp_path / "README.md").read_text()
    assert "| denoising error (MSE) | lower |" in card
    assert "Each prompt was drawn" not in card
    assert "Showing it:" not in card


def test_evaluations_of_other_concepts_are_refused_before_anything_is_written(trained: Any, tmp_path: Path) -> None:
    result = measure(trained.pipe, editing_prompts=())
    for wrong in ([dataclasses.replace(result, placeholder_token="<cat>")], [result, result]):
        with pytest.raises(ConfigError, match=r"evaluations: expected at most one of each of <mug>, got <"):
            trained.save(tmp_path / "out", evaluations=wrong)
    assert not (tmp_path / "out").exists()
