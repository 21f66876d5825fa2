"""The paper's experiment: its statistics on curves whose answers are known, and its ordering on the toybox."""

import importlib
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from diffusers_supreme_init import InitializerProposal
from diffusers_supreme_init.describers.candidates import Candidate
from diffusers_supreme_init.metrics import mean_interval, steps_to_reach

sys.path.insert(0, str(ROOT / "examples"))  # the examples are a folder of scripts

initializers = importlib.import_module("compare_initializers")
reproduce_paper = importlib.import_module("reproduce_paper")
learning = importlib.import_module("experiment.learning")
runs = importlib.import_module("experiment.runs")
report = importlib.import_module("experiment.report")
settings = importlib.import_module("experiment.settings")
statistics = importlib.import_module("experiment.statistics")

STEPS = (0, 10, 20, 40)


def curves(**values: list[float]) -> Any:
    return statistics.Curves(STEPS, {name: np.array(curve)[None, None] for name, curve in values.items()})


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        ([5, 4, 3, 1], 20.0),
        ([5, 4, 2, 1], 15.0),
        ([3, 4, 5, 6], 0.0),
        ([5, 5, 5, 4], float("inf")),
        ([5, 3, 9, 9], 10.0),  # the first time counts
    ],
)
def test_steps_to_reach_a_loss_of_three(losses: list[float], steps: float) -> None:
    assert steps_to_reach(STEPS, np.array(losses, dtype=float), 3.0) == steps


def test_speedup_is_the_ratio_of_steps_and_never_flatters() -> None:
    made = curves(
        star=[5.0, 4.5, 4.0, 3.0], caption=[4.0, 3.0, 2.0, 1.0], better=[2.0, 2.0, 2.0, 2.0], worse=[9.0] * 4
    )
    assert statistics.speedup(made, "star", "caption", "star").value == 4.0
    assert statistics.speedup(made, "star", "better", "star").value == 40.0  # begins there: counted with one step
    assert statistics.speedup(made, "worse", "caption", "star").value == float("inf")
    assert statistics.speedup(made, "star", "worse", "star").value == 0.0
    assert statistics.speedup(made, "star", "star", "star").value == 1.0


def test_intervals_hold_the_mean_and_shrink_with_concepts() -> None:
    generator = np.random.default_rng(0)
    few, many = (mean_interval(generator.normal(1.0, 1.0, (number, 3))) for number in (4, 400))
    for one in (few, many):
        assert one.low < one.value < one.high
    assert many.high - many.low < (few.high - few.low) / 3
    assert many.low < 1.0 < many.high


def test_a_difference_common_to_all_concepts_is_certain() -> None:
    base = np.random.default_rng(0).normal(0.0, 100.0, (12, 3))
    assert mean_interval((base + 0.01) - base).excludes_zero
    assert not mean_interval(base - base.mean()).excludes_zero


@pytest.mark.long
def test_a_small_experiment_runs_resumes_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce_paper, "seconds_per_step", partial(runs.seconds_per_step, num_steps=2))
    options = ["--num_concepts", "1", "--max_train_steps", "2", "--steps_beyond", "1", "--paper_only"]
    options += ["--validation_samples", "2", "--num_inference_steps", "2", "--output_dir", str(tmp_path)]
    options += ["--score_samples", "4"]
    text = reproduce_paper.main(options).read_text()
    assert "caption against" in text
    for number in (3, 4, 5, 6, 7, 8):
        (path,) = tmp_path.glob(f"figure_{number}_*.png")
        assert Image.open(path).size == (1200, 540)
        assert path.name in text
    rows = (tmp_path / "results.csv").read_text()
    stamp = (tmp_path / "runs" / "seed-0" / "paper" / "measurements.json").stat().st_mtime_ns
    monkeypatch.setattr(report, "plot_curves", lambda *_: None)  # of the same results
    reproduce_paper.main(options)
    assert (tmp_path / "results.csv").read_text() == rows
    assert (tmp_path / "runs" / "seed-0" / "paper" / "measurements.json").stat().st_mtime_ns == stamp
    with pytest.raises(SystemExit, match="expected results of the same options .* got others of max_train_steps"):
        reproduce_paper.main([*options[:3], "3", *options[4:]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0", "0"], "seeds: expected different numbers"),
        (["--max_train_steps", "0"], "max_train_steps: expected at least 1, got 0"),
        (["--num_concepts", "-1"], "num_concepts: expected at least 1, got -1"),
        (["--images", "nowhere"], "concepts: expected a metadata.jsonl"),
        (["--lpips", "nowhere.pth"], "expected a file, got 'nowhere.pth'"),
    ],
)
def test_what_cannot_be_set_up_is_one_line_and_does_not_stand_in_the_way(
    options: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=message):
        reproduce_paper.main([*options, "--output_dir", str(tmp_path)])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_metric_that_some_concepts_lack_is_left_out() -> None:
    def one(concept: str, metric: str) -> Any:
        names = {"setting": "caption", "concept": concept, "words": "a mug", "num_vectors": 2, "metric": metric}
        return runs.Measurement(seed=0, group="paper", step=0, value=1.0, **names)

    measured = [one("<a>", "loss"), one("<b>", "loss"), one("<a>", "background")]
    assert report._values(measured, "paper", "caption", "loss", 0).shape == (2, 1)
    assert report._values(measured, "paper", "caption", "background", 0) is None


def test_what_training_adds_is_compared_with_the_untrained_caption() -> None:
    def one(group: Any, step: int, concept: str, seed: int, value: float) -> Any:
        metric = "reconstruction/untold"
        names = {"setting": "caption", "concept": concept, "words": "a mug", "num_vectors": 2, "metric": metric}
        return runs.Measurement(seed=seed, group=group.name, step=step, value=value, **names)

    def two(group: Any, step: int, gain: float) -> list[Any]:
        return [one(group, step, concept, 0, start + gain) for concept, start in (("<a>", 0.1), ("<b>", 0.3))]

    paper, default, masked = settings.FOLLOWED
    measured = [*two(paper, 0, 0.0), *two(paper, 100, 0.25), *two(paper, 150, 0.3)]
    measured += [*two(default, 0, 0.0), *two(default, 25, 0.5), *two(masked, 100, 0.6)]
    facts = report.Facts(
        command="",
        model="",
        pictures="",
        options={},
        labels={"untold": "what nobody said"},
        seconds={},
        steps_beyond=100,
    )
    rows = [line for line in report._training(measured, facts, Path()).splitlines() if line.startswith("| the ")]
    assert rows == [
        "| the paper's settings | 100 | reconstruction/untold | 0.200 | 0.450 | **+0.25 [+0.25, +0.25]** |",
        "| the default settings | 25 | reconstruction/untold | 0.200 | 0.700 | **+0.5 [+0.5, +0.5]** |",
        "| the paper's, on the object | 100 | reconstruction/untold | 0.200 | 0.800 | **+0.6 [+0.6, +0.6]** |",
    ]


@pytest.mark.long
def test_starts_are_chosen_trained_measured_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(initializers, "SCORE_SAMPLES", (2,))
    monkeypatch.setattr(initializers, "STEPS", 1)
    monkeypatch.setattr(initializers, "DRAWN", {"num_image_seeds": 1, "num_inference_steps": 1})
    monkeypatch.setattr(learning, "HELD_OUT_SAMPLES", 8)
    options = ["--num_concepts", "2", "--output_dir", str(tmp_path)]
    initializers.main(options)
    told = capsys.readouterr().out
    assert re.findall(
        r"^\| (object|whole picture) \| 2 \| [012] of 2 \| [012] of 2 \| [012] of 2 \|$", told, re.MULTILINE
    )
    rows = [line.split(" | ")[:4] for line in (tmp_path / "worth.md").read_text().splitlines()[2:]]
    assert [(name.removeprefix("| "), step) for name, step, *_ in rows] == [
        ("caption", "0"),
        ("caption", "1"),
        ("class", "1"),
        ("auto", "1"),
        ("auto, whole picture", "1"),
        ("caption, masked loss", "1"),
    ]
    others = [other for *_, other in rows]
    assert others[:3] + others[-1:] == ["0 of 2", "0 of 2", "2 of 2", "0 of 2"]
    results = (tmp_path / "results.json").read_text()
    monkeypatch.setattr(learning, "measure", None)  # everything was measured
    initializers.main(options)
    assert (tmp_path / "results.json").read_text() == results


def test_what_auto_should_not_take_is_counted() -> None:
    def took(text: str) -> Any:
        candidate = Candidate(text=text, source="caption", raw=text)
        proposal = InitializerProposal(
            method="auto",
            candidates=(candidate,),
            notes=(),
            num_tied=1,
            tokens=(),
            token_ids=(),
            pictures=(),
            record={},
        )
        return initializers.outcome(proposal, "mug")

    texts = ("a red mug", "a red mug on a sky background", "a red clock", "mug")
    chosen = {("object", 32): [[took(text) for text in texts]] * 2}
    assert initializers.choices_table(chosen).splitlines()[-1] == "| object | 32 | 1, 1 of 4 | 1, 1 of 4 | 1, 1 of 4 |"


def test_candidates_that_auto_should_not_take_are_those_of_the_toys() -> None:
    held_out = initializers.HELD_OUT[0]
    expected = ["a red mug with black stripes on a cream background", "a red clock with black stripes", "clock"]
    assert initializers.tempting_candidates(held_out, 0) == expected
    others = {initializers.tempting_candidates(held_out, seed)[-1] for seed in range(11)}
    assert len(others) == 11
    assert "mug" not in others


@pytest.mark.slow
def test_a_caption_is_ahead_of_a_class_label_and_that_of_a_star_after_30_steps(tmp_path: Path) -> None:
    arguments = reproduce_paper.ReproduceArguments(max_train_steps=30, steps_beyond=30, num_inference_steps=1)
    experiment = reproduce_paper.set_up(arguments)
    folders = {name: str(reproduce_paper.TOYBOX / name) for name in ("captioner", "classifier", "segmenter")}
    describers = runs.Describers(reproduce_paper.DescriberConfig(**folders))
    words = runs.find_words(experiment, describers, 0, tmp_path / "words.json")
    group = settings.Group(
        name="paper", label="", settings=(settings.STAR, settings.CLASS, settings.CAPTION), is_paper=True
    )
    measured = runs.run_group(experiment, group, words, 0, tmp_path / "paper")
    after = statistics.curves_of(measured, "paper", "validation_loss")
    mean = {name: values[..., after.steps.index(30)].mean() for name, values in after.values.items()}
    assert after.values["star"].shape[0] == 12
    assert mean["caption"] < mean["class"] < mean["star"]


@pytest.mark.slow
def test_auto_takes_no_background_and_no_other_class_of_any_toy(tmp_path: Path) -> None:
    experiment = reproduce_paper.set_up(reproduce_paper.ReproduceArguments())
    describers = initializers.describers_of("object", score_samples=32)
    chosen = initializers.choose(experiment, describers, 0, tmp_path / "choices.json")
    assert len(chosen) == 12
    assert all(any("background" in candidate["text"] for candidate in one["candidates"]) for one in chosen)
    assert [one["text"] for one in chosen if one["background"] or one["other_class"]] == []
