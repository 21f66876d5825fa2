"""Settings, concept lists, pipelines and folders that cannot work: one clear error, nothing changed."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.hooks import ModelHook, add_hook_to_module
from conftest import build_tiny_pipeline, random_picture
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model

from diffusers_supreme_init import (
    Concept,
    ConfigError,
    OutputError,
    PictureError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    TrainingError,
    UnsupportedPipelineError,
    load_concepts,
)


def make_trainer(pipe: Any, **settings: Any) -> SupremeInitTextualInversionTrainer:
    config = SupremeInitConfig(**({"max_train_steps": 4, "validation_samples": 0} | settings))
    return SupremeInitTextualInversionTrainer(
        pipe, images=random_picture(), placeholder_token="<mug>", initializer="a mug", config=config
    )


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("max_train_steps", -1, "at least 0"),
        ("learning_rate", 0, "above 0"),
        ("learning_rate", math.nan, "above 0"),
        ("train_batch_size", 0, "at least 1"),
        ("gradient_accumulation_steps", 0, "at least 1"),
        ("max_forward_batch_size", 0, "at least 1, or None"),
        ("lr_scheduler", "zigzag", "one of"),
        ("lr_warmup_steps", -1, "at least 0"),
        ("adam_beta1", 1.0, r"in \[0, 1\)"),
        ("adam_beta2", -0.1, r"in \[0, 1\)"),
        ("adam_epsilon", 0, "above 0"),
        ("max_grad_norm", 0, "above 0, or None"),
        ("snr_gamma", -5, "above 0, or None"),
        ("learnable_property", "person", "one of"),
        ("resolution", 0, "at least 1, or None"),
        ("flip_probability", 1.5, r"in \[0, 1\]"),
        ("unmasked_weight", -0.1, r"in \[0, 1\]"),
        ("unmasked_weight", math.nan, r"in \[0, 1\]"),
        ("mixed_precision", "fp8", "one of"),
        ("seed", -1, "at least 0"),
        ("validation_steps", ["10", "often"], '"10" or "every:25"'),
        ("snapshot_steps", ["every:0"], '"10" or "every:25"'),
        ("validation_samples", -1, "at least 0"),
        ("early_stopping_patience", -1, "at least 0"),
        ("num_validation_images", 0, "at least 1"),
        ("checkpointing_steps", -1, "at least 0"),
    ],
)
def test_settings_out_of_range(setting: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting}: expected {expected}.*, got "):
        SupremeInitConfig(**{setting: value})


def test_settings_that_contradict_each_other(pipe: Any) -> None:
    with pytest.raises(ConfigError, match="early_stopping_patience needs the fixed-noise loss"):
        SupremeInitConfig(early_stopping_patience=1, validation_samples=0)
    with pytest.raises(ConfigError, match="unmasked_weight is a weight of the masked loss; got 0.25 without it"):
        SupremeInitConfig(unmasked_weight=0.25)
    for settings in (
        {"snapshot_steps": ["5"]},
        {"resume_from_checkpoint": "latest"},
        {"validation_prompt": "{}"},
        {"report_to": "tensorboard"},
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))}.* expected an output_dir, got None"):
            SupremeInitConfig(**settings)
    config = SupremeInitConfig(report_to="tensorboard", output_dir="out")
    with pytest.raises(ConfigError, match="your own accelerator has its own trackers"):
        SupremeInitTextualInversionTrainer(
            pipe, random_picture(), "<mug>", "a mug", config=config, accelerator=Accelerator()
        )


def test_arguments_that_contradict_each_other(pipe: Any) -> None:
    concept = Concept(images=random_picture(), placeholder_token="<mug>", initializer="a mug")
    with pytest.raises(ConfigError, match="either concepts= or the arguments of a single concept"):
        SupremeInitTextualInversionTrainer(pipe, images=random_picture(), concepts=[concept])
    with pytest.raises(ConfigError, match="got none for placeholder_token, initializer"):
        SupremeInitTextualInversionTrainer(pipe, images=random_picture())
    with pytest.raises(ConfigError, match="expected at least one, got an empty list"):
        SupremeInitTextualInversionTrainer(pipe, concepts=[])
    with pytest.raises(ConfigError, match="expected different placeholder tokens"):
        SupremeInitTextualInversionTrainer(pipe, concepts=[concept, concept])


def write_metadata(folder: Path, *rows: Any) -> Path:
    path = folder / "metadata.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


ROW = {"file_name": "a.png", "placeholder_token": "<a>", "caption": "a mug"}


def test_concept_lists(tmp_path: Path) -> None:
    path = write_metadata(
        tmp_path,
        ROW | {"mask_file_name": "m.png", "num_vectors": 2},
        "",
        ROW | {"file_name": "b.png", "mask_file_name": "n.png"},
        ROW | {"placeholder_token": "<b>"},
    )
    first, second = load_concepts(path, initializer_column="caption")
    assert first.images == [tmp_path / "a.png", tmp_path / "b.png"]
    assert first.mask == [tmp_path / "m.png", tmp_path / "n.png"]
    assert (first.initializer, first.num_vectors) == ("a mug", 2)
    assert second.mask is None
    assert load_concepts(tmp_path, initializer_column="caption") == [first, second]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one line in .*, got an empty file"),
        (["{"], "metadata.jsonl, line 1: expected one JSON object"),
        (["[]"], "line 1: expected a text in column 'file_name', got list"),
        ([ROW, {"file_name": "b.png"}], "line 2: expected a text in column 'placeholder_token', got"),
        ([ROW | {"caption": 3}], "line 1: expected a text in column 'caption'.*see `initializer_column`"),
        ([ROW, ROW | {"caption": "a cup"}], "<a>: expected one caption for all its pictures, got different ones"),
        ([ROW, ROW | {"mask_file_name": "m.png"}], "expected a mask for all of its 2 pictures or for none, got 1"),
    ],
)
def test_concept_lists_that_cannot_work(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_concepts(write_metadata(tmp_path, *rows), initializer_column="caption")


def test_concept_lists_that_do_not_exist(tmp_path: Path, pipe: Any) -> None:
    with pytest.raises(ConfigError, match="which cannot be read"):
        load_concepts(tmp_path / "nowhere")
    concepts = load_concepts(write_metadata(tmp_path, ROW), initializer_column="caption")
    with pytest.raises(PictureError, match="a.png', which does not exist"):
        SupremeInitTextualInversionTrainer(pipe, concepts=concepts)


def test_pipelines_that_cannot_be_trained_on(pipe: Any) -> None:
    other = DDIMPipeline(unet=pipe.unet, scheduler=DDIMScheduler())
    with pytest.raises(UnsupportedPipelineError, match=r"\(StableDiffusionPipeline, .*\), got DDIMPipeline"):
        make_trainer(other)
    incomplete = build_tiny_pipeline()
    incomplete.text_encoder = None
    with pytest.raises(UnsupportedPipelineError, match="got one without text_encoder"):
        make_trainer(incomplete)
    inpainting = build_tiny_pipeline()
    inpainting.unet = UNet2DConditionModel.from_config(inpainting.unet.config, in_channels=9)
    with pytest.raises(UnsupportedPipelineError, match=r"reads 4 latent channels, got 9: the others are a picture"):
        make_trainer(inpainting)
    unknown = build_tiny_pipeline("flow_prediction")
    with pytest.raises(UnsupportedPipelineError, match=r"got DDIMScheduler .*\(prediction_type 'flow_prediction'\)"):
        make_trainer(unknown)


def test_offloaded_pipelines_are_refused(pipe: Any) -> None:
    add_hook_to_module(pipe.unet, ModelHook())
    with pytest.raises(UnsupportedPipelineError, match="unet: expected a pipeline without offloading hooks"):
        make_trainer(pipe)


def test_embeddings_with_adapters_are_refused(pipe: Any) -> None:
    inject_adapter_in_model(LoraConfig(target_modules=["token_embedding"], r=2), pipe.text_encoder)
    with pytest.raises(UnsupportedPipelineError, match=r"expected plain embeddings, got some with an adapter"):
        make_trainer(pipe)


def poison(pipe: Any, monkeypatch: pytest.MonkeyPatch, token: str, step_to_fail: int, value: float) -> None:
    """Make a concept's loss `value` at a step."""
    from diffusers_supreme_init.training import loop

    original = loop.TrainingLoop._update

    def update(self: Any, concept: Any, loss: float, gradient: torch.Tensor, rate: float) -> None:
        fails = concept.placeholder_token == token and concept.step == step_to_fail
        original(self, concept, value if fails else loss, gradient, rate)

    monkeypatch.setattr(loop.TrainingLoop, "_update", update)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_one_concept_and_keeps_its_last_good_rows(
    pipe: Any, other_pipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: float
) -> None:
    concepts = [
        Concept(images=random_picture(), placeholder_token=token, initializer="a mug") for token in ("<a>", "<b>")
    ]
    config = SupremeInitConfig(max_train_steps=4, validation_samples=2, output_dir=str(tmp_path), snapshot_steps=["1"])
    plain = SupremeInitTextualInversionTrainer(other_pipe, concepts=concepts, config=config).train()
    from diffusers_supreme_init import read_embedding

    # The rows of step 1 gave the last finite loss: those of step 2 gave the one that was not.
    after_one_step = read_embedding(tmp_path / "a" / "learned_embeds-steps-1.safetensors").rows
    poison(pipe, monkeypatch, "<a>", 2, value)
    trainer = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=config)
    with pytest.raises(TrainingError, match="expected finite losses, got NaN or infinity: <a> at step 2"):
        trainer.train()
    diverged, finished = trainer.results
    assert (diverged.status, finished.status) == ("diverged", "finished")
    assert torch.equal(diverged.rows["text_encoder"], after_one_step)
    torch.testing.assert_close(finished.rows["text_encoder"], plain[1].rows["text_encoder"], rtol=0, atol=1e-5)
    (file, _) = trainer.save(tmp_path / "out")
    assert torch.equal(read_embedding(file).rows, after_one_step)


def test_an_exploding_run_really_stops(pipe: Any) -> None:
    trainer = make_trainer(pipe, learning_rate=1e30, preserve_norm=False, max_train_steps=20)
    with pytest.raises(TrainingError, match=r"<mug> at step \d+; the last good rows are kept"):
        trainer.train()
    (result,) = trainer.results
    assert torch.isfinite(result.rows["text_encoder"]).all()
    assert torch.isfinite(pipe.text_encoder.get_input_embeddings().weight).all()


def test_an_autoencoder_that_overflows_is_named(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    with torch.no_grad():
        pipe.vae.encoder.conv_in.bias.fill_(math.inf)
    before = len(pipe.tokenizer)
    with pytest.raises(TrainingError, match="the autoencoder gave NaN"):
        make_trainer(pipe).train()
    assert len(pipe.tokenizer) == before


def test_output_folders_that_cannot_be_written(pipe: Any, tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    (tmp_path / "file").write_text("in the way")
    unchanged(pipe)
    with pytest.raises(OutputError, match="cannot write .*; choose another output_dir"):
        make_trainer(pipe, output_dir=str(tmp_path / "file" / "out")).train()


def test_a_disk_that_fills_up_keeps_the_last_checkpoint_and_the_rows(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    original, calls = os.fsync, []

    def fill_up(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:  # the probe of the folder, and the first checkpoint
            raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr("os.fsync", fill_up)
    trainer = make_trainer(pipe, output_dir=str(tmp_path), checkpointing_steps=1)
    with pytest.raises(OutputError, match="training is complete and can be saved elsewhere.* No space left on device"):
        trainer.train()
    monkeypatch.undo()
    assert trainer.results[0].step == 4
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    (result,) = make_trainer(
        build_tiny_pipeline(), output_dir=str(tmp_path), resume_from_checkpoint="latest", checkpointing_steps=1
    ).train()
    assert result.step == 4
    assert torch.equal(result.rows["text_encoder"], trainer.results[0].rows["text_encoder"])


def test_saving_before_training_and_training_twice(pipe: Any, tmp_path: Path) -> None:
    trainer = make_trainer(pipe)
    with pytest.raises(TrainingError, match=r"call train\(\) before save\(\)"):
        trainer.save(tmp_path)
    trainer.train()
    with pytest.raises(TrainingError, match="expected an untrained trainer"):
        trainer.train()


@pytest.mark.long
def test_nothing_touches_the_network(tmp_path: Path) -> None:
    code = f"""
import socket
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import build_tiny_pipeline, random_picture
from diffusers_supreme_init import SupremeInitConfig, SupremeInitTextualInversionTrainer
config = SupremeInitConfig(max_train_steps=1, validation_samples=1)
trainer = SupremeInitTextualInversionTrainer(build_tiny_pipeline(), random_picture(), "<mug>", "a mug", config=config)
trainer.train()
build_tiny_pipeline().load_multitoken_inversion(trainer.save({str(tmp_path)!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
