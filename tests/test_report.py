"""`report.html` and `sheet.png`: what people look at after a run."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_supreme_init import (
    Concept,
    OutputError,
    PublishError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    TrainingError,
    push_to_hub,
)
from diffusers_supreme_init.sharing.report import MAX_DRAWN, ReportedConcept, _round_values, loss_points, report_html
from diffusers_supreme_init.sharing.saved_folder import publishable_files

RECORD: dict[str, Any] = {
    "placeholder_token": "<mug>",
    "description": 'a "red" mug & <b>saucer</b>',
    "status": "finished",
    "steps": 4,
    "seconds": 1.5,
    "device": "cpu",
    "num_vectors": {"text_encoder": 3},
    "num_pictures": 1,
    "settings": {"train_batch_size": 2, "gradient_accumulation_steps": 1, "seed": 7},
    "initializer": None,
    "validation_losses": {"0": [1.0, 3.0, 2.0, 2.0], "4": [0.5, 2.5, 1.7, 1.5]},
}


class Checker(HTMLParser):
    """Collects text and tags, and fails where tags do not match."""

    EMPTY = frozenset({"meta", "img", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.open = "", [], []  # type: ignore[var-annotated]
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(record: dict[str, Any], sheet: Image.Image | None = None) -> Checker:
    concept = ReportedConcept(record=record, folder="out/mug", num_bytes=9_100, sheet=sheet)
    return Checker(report_html([concept], model="toybox"))


def test_intervals_are_of_the_change_and_count_opposite_noises_once() -> None:
    first, last = loss_points(RECORD["validation_losses"])
    assert (first.step, first.mean, first.change, first.error) == (0, 2.0, 0.0, None)
    changes = np.array([-0.5, -0.4])  # of the pairs
    assert (last.step, last.mean) == (4, 1.55)
    assert last.change == pytest.approx(changes.mean())
    assert last.error == pytest.approx(1.96 * changes.std(ddof=1) / 2**0.5)


def test_a_report_says_what_came_out() -> None:
    found = page(RECORD, Image.new("RGB", (20, 10)))
    assert found.text.count('a "red" mug & <b>saucer</b>') == 1
    assert (
        "The loss went from 2.0000 to 1.5500, more than chance would do (-0.4500, 95 % interval -0.5480 to -0.3520)."
        in found.text
    )
    assert "4 steps" in re.sub(r"\s+", " ", found.text)
    assert 'supreme-init generate "a photo of <mug>" --concepts out/mug --model toybox' in found.text
    assert sum(tag == "circle" for tag, _ in found.tags) == 2


@pytest.mark.parametrize(
    "between", [(0.0199, 0.0272), (0.0, 1.0), (-3.0, 4.0), (1e-9, 2e-9), (99.0, 1e6), (0.05, 0.0500001)]
)
def test_the_axis_has_a_few_round_numbers(between: tuple[float, float]) -> None:
    ticks, digits = _round_values(*between)
    assert 3 <= len(ticks) <= 7
    assert between[0] <= ticks[0] < ticks[-1] <= between[1] * (1 + 1e-12)
    assert len({f"{tick:.{digits}f}" for tick in ticks}) == len(ticks)
    assert all(float(f"{tick:.{digits}f}") == pytest.approx(tick) for tick in ticks)


def test_a_report_needs_nothing_from_elsewhere() -> None:
    found = page(RECORD, Image.new("RGB", (20, 10)))
    for tag, attributes in found.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"validation_losses": {}}, "The loss was not measured"),
        ({"validation_losses": {"0": [1.0, 2.0]}, "steps": 0}, "The loss was 1.5000 after 0 steps"),
        ({"validation_losses": {"0": [1.0, 2.0], "4": [0.5, 1.0]}}, "with too few noises for an interval"),
        ({"validation_losses": {"0": [1.0, 1.0] * 2, "4": [0.0, 1.0, 2.0, 1.0]}}, "which could be chance"),
        ({"validation_losses": {"0": [1.0] * 4, "4": [1.0] * 4}}, "from 1.0000 to 1.0000"),
        (
            {"validation_losses": {"0": [1.0, 2.0], "4": [None, None]}, "status": "diverged"},
            "the loss became infinite",
        ),
        ({"status": "stopped"}, "Stopped by hand after 4 steps"),
        ({"description": ""}, "learned from rows without words"),
        (
            {
                "initializer": {
                    "method": "auto",
                    "num_tied": 2,
                    "candidates": [{"text": "a", "source": "class", "loss": None}],
                }
            },
            "The first 2 differ by less than the noise",
        ),
        ({"seconds": None, "settings": {}, "num_vectors": {}, "num_pictures": None}, "0 samples"),
    ],
)
def test_every_run_gets_a_right_report(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in re.sub(r"\s+", " ", page({**RECORD, **changes}).text)


def trained(
    pipe: Any, picture_path: Path, num_concepts: int = 1, **settings: Any
) -> SupremeInitTextualInversionTrainer:
    config = SupremeInitConfig(max_train_steps=1, validation_samples=2, resolution=16, **settings)
    concepts = [
        Concept(images=picture_path, placeholder_token=f"<c{n}>", initializer="a red mug") for n in range(num_concepts)
    ]
    trainer = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=config)
    trainer.train()
    return trainer


def test_a_run_leaves_a_sheet_and_a_page_that_are_not_published(pipe: Any, picture_path: Path, tmp_path: Path) -> None:
    trainer = trained(pipe, picture_path)
    before = {name: part.clone() for name, part in pipe.unet.state_dict().items()}
    trainer.save(tmp_path / "c")
    published = publishable_files(tmp_path / "c")
    path = trainer.write_report(tmp_path / "c", num_inference_steps=1)
    assert path == tmp_path / "c" / "report.html"
    sheet = Image.open(tmp_path / "c" / "sheet.png")
    assert 500 < sheet.width <= 2000
    assert publishable_files(tmp_path / "c") == published
    assert "data:image/png" in path.read_text()
    assert all(torch.equal(part, before[name]) for name, part in pipe.unet.state_dict().items())
    again = path.read_bytes()
    assert trainer.write_report(tmp_path / "c", num_inference_steps=1).read_bytes() == again


def test_a_report_names_the_model_by_its_hub_id(pipe: Any, picture_path: Path, tmp_path: Path) -> None:
    pipe.register_to_config(_name_or_path="user/model")
    trainer = trained(pipe, picture_path)
    trainer.save(tmp_path)
    text = Checker(trainer.write_report(tmp_path, num_inference_steps=1).read_text()).text
    assert 'DiffusionPipeline.from_pretrained("user/model")' in text
    assert "--model user/model" in text


def test_of_many_concepts_the_first_are_drawn_and_the_rest_is_counted(
    pipe: Any, picture_path: Path, tmp_path: Path
) -> None:
    trainer = trained(pipe, picture_path, MAX_DRAWN + 1)
    trainer.save(tmp_path)
    text = trainer.write_report(tmp_path, num_inference_steps=1).read_text()
    assert len(list(tmp_path.glob("*/sheet.png"))) == MAX_DRAWN
    assert f"{MAX_DRAWN + 1} concepts; pictures were drawn of the first {MAX_DRAWN}." in text
    assert text.count("<h1>") == MAX_DRAWN + 1


def test_a_report_belongs_beside_a_saved_result_and_replaces_no_file_of_the_users(
    pipe: Any, picture_path: Path, tmp_path: Path
) -> None:
    trainer = trained(pipe, picture_path)
    with pytest.raises(TrainingError, match=r"expected a saved result in .*; call save\("):
        trainer.write_report(tmp_path)
    trainer.save(tmp_path)
    (tmp_path / "sheet.png").write_text("mine")
    with pytest.raises(OutputError, match=r"cannot replace .*sheet.png': no earlier run wrote it"):
        trainer.write_report(tmp_path)
    assert (tmp_path / "sheet.png").read_text() == "mine"
    assert not (tmp_path / "report.html").exists()


def test_what_the_toybox_made_is_published_only_privately_and_on_request(
    pipe: Any, picture_path: Path, tmp_path: Path
) -> None:
    pipe.text_encoder.config.toybox = True
    trained(pipe, picture_path).save(tmp_path)
    for options in ({}, {"private": True}, {"allow_toybox": True}):
        with pytest.raises(PublishError, match="<c0>: made with the toybox, whose words no other model knows"):
            push_to_hub(tmp_path, "user/mug", **options)
