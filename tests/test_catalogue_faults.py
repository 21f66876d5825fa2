"""The catalogue when models, memory or neighbours fail: only those fail that are to blame, and nobody for ever."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import build_tiny_pipeline
from run_catalogue import draw_catalogue, library_files, read_list, write_list
from tiny.describers import build_blip, build_vit
from training_families import TRAINING_FAMILY
from transformers import BlipForConditionalGeneration

from diffusers_supreme_init import (
    Concept,
    DescriberConfig,
    DescriberError,
    DescriberLoadError,
    OutputError,
    SupremeInitConfig,
    train_catalogue,
)
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.catalogue import dividing
from diffusers_supreme_init.catalogue.ledger import read_ledgers
from diffusers_supreme_init.catalogue.own_process import OwnProcess
from diffusers_supreme_init.describers import Captioner
from diffusers_supreme_init.objective import phases
from diffusers_supreme_init.training.rows import TrainableRows

UNTRAINED = SupremeInitConfig(max_train_steps=0, validation_samples=0)
ONE_STEP = SupremeInitConfig(max_train_steps=1, validation_samples=0)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return draw_catalogue(tmp_path / "toys", range(4))


@pytest.fixture
def undescribed(few: Path) -> Path:
    """A list whose words have to be found."""
    write_list(few, [line | {"initializer": "caption"} for line in read_list(few)])
    return few


def describers_in(folder: Path) -> DescriberConfig:
    return DescriberConfig(captioner=str(build_blip(folder / "blip")), classifier=str(build_vit(folder / "vit")))


def test_a_describer_that_cannot_be_loaded_ends_the_run_and_no_concept_has_failed(
    pipe: Any, undescribed: Path, tmp_path: Path
) -> None:
    library, captioner = tmp_path / "library", tmp_path / "blip"
    config = DescriberConfig(captioner=str(captioner))
    with pytest.raises(DescriberLoadError, match=r"captioner: expected a folder with a model .*, got '.*blip'"):
        train_catalogue(pipe, undescribed, library, config=UNTRAINED, describers=config)
    assert read_ledgers(library) == []
    build_blip(captioner)
    made = train_catalogue(pipe, undescribed, library, config=UNTRAINED, describers=config)
    assert (len(made.trained), made.failed_before) == (4, [])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("CUDA error: 719")])
def test_an_accelerator_that_fails_a_describer_ends_the_run_and_no_concept_has_failed(
    pipe: Any, undescribed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(BlipForConditionalGeneration, "generate", fails)
    with pytest.raises(DescriberError, match="expected an answer, got"):
        train_catalogue(
            pipe, undescribed, tmp_path / "library", config=UNTRAINED, describers=describers_in(tmp_path / "models")
        )
    assert read_ledgers(tmp_path / "library") == []


def test_fewer_are_described_together_when_memory_is_full(
    pipe: Any,
    undescribed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    describe_each, asked = Captioner.describe_each, []

    def describing(self: Captioner, images: Any, **options: Any) -> Any:
        asked.append(len(images))
        if len(images) > 2:
            try:
                raise torch.OutOfMemoryError("full")
            except torch.OutOfMemoryError as error:
                raise DescriberError("captioner: expected an answer, got OutOfMemoryError (full)") from error
        return describe_each(self, images, **options)

    monkeypatch.setattr(Captioner, "describe_each", describing)
    describers = describers_in(tmp_path / "models")
    made = train_catalogue(
        pipe, undescribed, tmp_path / "library", config=UNTRAINED, describers=describers, concepts_per_batch=4
    )
    assert (asked, len(made.trained)) == ([4, 2, 2], 4)
    assert "memory is full; going on with concepts_per_batch=2" in caplog.messages


def test_a_concept_without_gradient_fails_alone(
    pipe: Any, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = TrainableRows.split

    def without_one(self: TrainableRows, gradients: Any) -> Any:
        found = split(self, gradients)
        if "<toy-1>" in found:
            found["<toy-1>"] = {name: torch.zeros_like(one) for name, one in found["<toy-1>"].items()}
        return found

    monkeypatch.setattr(TrainableRows, "split", without_one)
    made = train_catalogue(pipe, few, tmp_path / "library", config=ONE_STEP, concepts_per_batch=4)
    assert set(made.trained) == {"<toy-0>", "<toy-2>", "<toy-3>"}
    (failure,) = made.failed
    assert "<toy-1>: no gradient reaches its rows" in failure.why


def test_the_page_forgets_a_failure_that_is_over(pipe: Any, few: Path, tmp_path: Path) -> None:
    library, picture = tmp_path / "library", few / "0.png"
    train_catalogue(pipe, few, library, config=UNTRAINED)
    before, data = library_files(library), picture.read_bytes()
    picture.unlink()
    assert len(train_catalogue(pipe, few, library, config=UNTRAINED).failed) == 1
    picture.write_bytes(data)
    assert len(train_catalogue(pipe, few, library, config=UNTRAINED).done) == 4
    with open(library / "summary.csv", newline="") as file:
        assert {row["state"] for row in csv.DictReader(file)} == {"saved"}
    num_lines = len(read_ledgers(library))
    train_catalogue(pipe, few, library, config=UNTRAINED)
    assert len(read_ledgers(library)) == num_lines
    assert library_files(library) == before


def test_the_precision_that_accelerate_was_started_with_is_told(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    train_catalogue(build_tiny_pipeline(), few, library, config=ONE_STEP)
    monkeypatch.setattr(OwnProcess, "mixed_precision", property(lambda self: "bf16"))
    with pytest.raises(OutputError, match=r"mixed_precision: None there, bf16 here"):
        train_catalogue(build_tiny_pipeline(), few, library, config=ONE_STEP)
    given = SupremeInitConfig(max_train_steps=1, validation_samples=0, mixed_precision="bf16")
    train_catalogue(build_tiny_pipeline(), few, tmp_path / "launched", config=ONE_STEP)
    monkeypatch.undo()
    train_catalogue(build_tiny_pipeline(), few, tmp_path / "given", config=given)
    assert library_files(tmp_path / "launched") == library_files(tmp_path / "given")


# memory


def test_large_text_encoders_are_not_moved_again_to_draw_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = TRAINING_FAMILY["flux_dev"]
    pipe, moved, on_device = case.build(), [], phases.on_device

    def moving(module: Any, device: torch.device) -> Any:
        moved.append(module)
        return on_device(module, device)

    monkeypatch.setattr(phases, "on_device", moving)
    toys = draw_catalogue(tmp_path / "toys", range(2))
    config = SupremeInitConfig(max_train_steps=0, validation_samples=0, resolution=32)
    made = train_catalogue(pipe, toys, tmp_path / "library", config=config, sample_prompts=["a photo of a {}"])
    assert len(made.trained) == 2
    assert moved.count(pipe.text_encoder_2) == 1


def test_chunks_fit_into_memory(monkeypatch: pytest.MonkeyPatch, few: Path) -> None:
    def tasks(initializer: str) -> Any:
        return [
            SimpleNamespace(
                concept=Concept(images=[few / "0.png"], placeholder_token=f"<toy-{number}>", initializer=initializer)
            )
            for number in range(9)
        ]

    def sizes(found: Any, family: str = "stable_diffusion") -> list[int]:
        backbone = backbone_for(TRAINING_FAMILY[family].build())
        return [len(one) for one in dividing.chunks_of(found, backbone)]

    assert sizes(tasks("a red mug")) == sizes(tasks("caption")) == [9]
    assert sizes(tasks("a red mug"), "flux_dev") == [4, 4, 1]
    with dividing.open_picture(few / "0.png") as picture:
        monkeypatch.setattr(dividing, "_CHUNK_PIXELS", 2 * picture.width * picture.height)
    assert sizes(tasks("a red mug")) == [9]
    assert sizes(tasks("caption")) == [2, 2, 2, 2, 1]
