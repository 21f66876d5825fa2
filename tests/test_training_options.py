"""Every field of `SupremeInitConfig` acts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_pipeline, draw_in_two_steps, random_picture
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from tiny.every_family import FAMILY
from torch import nn

from diffusers_supreme_init import (
    Concept,
    ConfigError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    SupremeInitWarning,
    read_embedding,
)
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.config import is_scheduled
from diffusers_supreme_init.metrics import denoising_mse
from diffusers_supreme_init.objective.draws import draw_training_sample, draw_validation_sample
from diffusers_supreme_init.objective.losses import denoising_losses

CAPTION = "a red mug"


def make_trainer(pipe: Any, *concepts: dict[str, Any], **options: Any) -> SupremeInitTextualInversionTrainer:
    usual = {"images": random_picture(), "placeholder_token": "<mug>", "initializer": CAPTION}
    config = SupremeInitConfig(**({"max_train_steps": 3, "validation_samples": 0} | options))
    asked = [Concept(**(usual | values)) for values in concepts or ({},)]
    return SupremeInitTextualInversionTrainer(pipe, concepts=asked, config=config)


def train(pipe: Any, *, concept: dict[str, Any] | None = None, **options: Any) -> Any:
    return make_trainer(pipe, concept or {}, **options).train()[0]


# The optimizer and the draws are compared with what they should be in test_optimizer.py and test_sampling.py; here it
# is whether a run asks for what its settings say.


@pytest.fixture(autouse=True)
def _two_steps_draw_a_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_in_two_steps(monkeypatch, StableDiffusionPipeline)


def test_min_snr_weights_are_in_the_loss_of_a_step(pipe: Any, other_pipe: Any) -> None:
    options = {"max_train_steps": 4, "learning_rate": 1e-9, "train_batch_size": 1}
    plain = train(pipe, **options)
    weighted = train(other_pipe, **options, snr_gamma=0.5)
    config, backbone = SupremeInitConfig(train_batch_size=1), backbone_for(pipe)
    timesteps = torch.tensor([draw_training_sample(backbone, plain, step, 0, config).timestep for step in range(4)])
    expected = torch.tensor(plain.losses) * backbone.min_snr_weights(timesteps, 0.5)
    assert weighted.losses == pytest.approx(expected.tolist(), rel=1e-4)
    assert weighted.losses != pytest.approx(plain.losses, rel=1e-2)


def test_the_fixed_noise_loss_is_weighted_as_the_loss_of_training(pipe: Any, other_pipe: Any) -> None:
    options = {"max_train_steps": 0, "validation_samples": 4}
    (plain,) = train(pipe, **options).validation_losses.values()
    result = train(other_pipe, **options, snr_gamma=0.5)
    backbone, config = backbone_for(pipe), SupremeInitConfig(validation_samples=4)
    timesteps = torch.tensor([draw_validation_sample(backbone, result, index, config).timestep for index in range(4)])
    weighted = torch.tensor(plain) * backbone.min_snr_weights(timesteps, 0.5)
    assert result.validation_losses[0] == pytest.approx(weighted.tolist(), rel=1e-4)
    measured = denoising_mse(other_pipe, random_picture(), result.validation_prompt, num_samples=4, snr_gamma=0.5)
    assert measured.tolist() == pytest.approx(result.validation_losses[0], rel=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"train_batch_size": 3},
        {"gradient_accumulation_steps": 3},
        {"train_batch_size": 2, "gradient_accumulation_steps": 3, "max_forward_batch_size": 4},
        {"seed": 1},
        {"flip_probability": 0.0},
        {"resolution": 16},
        {"center_crop": False},
        {"learnable_property": "style"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_a_step_is_the_mean_over_the_samples_its_settings_draw(pipe: Any, settings: dict[str, Any]) -> None:
    result = train(pipe, concept={"images": random_picture((48, 32))}, max_train_steps=2, **settings)
    backbone, config = backbone_for(pipe), SupremeInitConfig(**settings)
    side = config.resolution or 32
    assert result.latents.mean.shape[-1] == side // 4
    assert result.latents.geometry[0, 3] == (8 * side // 32 if config.center_crop else 0)
    assert all(("style" in prompt) == (config.learnable_property == "style") for prompt in result.prompts)
    pipe.unload_multitoken_inversion()
    pipe.load_multitoken_inversion({"<mug>": result.initial_rows["text_encoder"]})
    samples = [draw_training_sample(backbone, result, 0, index, config) for index in range(config.samples_per_step)]
    with torch.no_grad():
        expected = float(denoising_losses(backbone, samples, torch.device("cpu")).mean())
    assert result.losses[0] == pytest.approx(expected, rel=1e-5)


BLOCKS = {"stable_diffusion": "BasicTransformerBlock", "stable_diffusion_3": "JointTransformerBlock"}


@pytest.mark.parametrize("family", BLOCKS)
def test_compiling_compiles_the_blocks_while_the_steps_are_made(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a C++ compiler, by a backend that compiles nothing; with one, in the slow test below."""
    compiled = []

    def trace(module: nn.Module) -> None:
        compiled.append(type(module).__name__)
        compile_module(module, backend="eager")

    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", trace)
    pipe, twin = (FAMILY[family].build() for _ in range(2))
    options = {"max_train_steps": 2, "validation_samples": 2}
    rows, plain = train(pipe, compile=True, **options).rows, train(twin, **options).rows
    assert set(compiled) == {BLOCKS[family]}
    for name, one in plain.items():
        torch.testing.assert_close(rows[name], one, rtol=0, atol=1e-6)
    assert all(part._compiled_call_impl is None for part in backbone_for(pipe).denoiser.modules())


@pytest.mark.long
def test_a_denoiser_that_the_user_has_compiled_is_left_alone(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.unet.compile(backend="eager")
    before = pipe.unet._compiled_call_impl
    monkeypatch.setattr(nn.Module, "compile", None)
    train(pipe, compile=True, max_train_steps=1)
    assert pipe.unet._compiled_call_impl is before


@pytest.mark.slow
def test_compiled_steps_learn_the_same(pipe: Any, other_pipe: Any) -> None:
    rows, plain = train(pipe, compile=True).rows, train(other_pipe).rows
    for name, one in plain.items():
        torch.testing.assert_close(rows[name], one, rtol=0, atol=1e-4)


def test_options_of_memory_do_not_change_the_rows(pipe: Any, other_pipe: Any) -> None:
    plain = train(pipe).rows["text_encoder"]
    torch.testing.assert_close(
        train(other_pipe, gradient_checkpointing=True).rows["text_encoder"], plain, rtol=0, atol=1e-6
    )


def test_gradient_checkpointing_is_on_while_stepping_and_off_afterwards(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers_supreme_init.training import loop

    seen = []
    original = loop.TrainingLoop.train_step

    def spy(self: Any, step: int) -> Any:
        seen.append(pipe.unet.is_gradient_checkpointing)
        return original(self, step)

    monkeypatch.setattr(loop.TrainingLoop, "train_step", spy)
    train(pipe, gradient_checkpointing=True)
    assert seen == [True] * 3
    assert not pipe.unet.is_gradient_checkpointing


def test_rows_keep_their_norms_unless_told_otherwise(pipe: Any, other_pipe: Any) -> None:
    result = train(pipe, learning_rate=0.1)
    initial = result.initial_rows["text_encoder"]
    torch.testing.assert_close(result.rows["text_encoder"].norm(dim=1), initial.norm(dim=1))
    assert not torch.equal(result.rows["text_encoder"], initial)
    free = train(other_pipe, preserve_norm=False, learning_rate=0.1).rows["text_encoder"]
    assert not torch.allclose(free.norm(dim=1), initial.norm(dim=1), rtol=0.01)


def test_a_row_that_starts_as_zero_learns_all_the_same(pipe: Any, tmp_path: Path) -> None:
    width = pipe.text_encoder.config.hidden_size
    save_file({"<zero>": torch.stack([torch.zeros(width), torch.ones(width)])}, tmp_path / "zero.safetensors")
    rows = train(pipe, concept={"initializer": str(tmp_path / "zero.safetensors")}).rows["text_encoder"]
    assert rows[0].norm() > 0
    assert rows[1].norm() == pytest.approx(width**0.5)


def test_warm_up_starts_from_nothing(pipe: Any) -> None:
    result = train(pipe, max_train_steps=1, lr_scheduler="constant_with_warmup", lr_warmup_steps=10)
    assert torch.equal(result.rows["text_encoder"], result.initial_rows["text_encoder"])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_prediction_types_have_their_targets(prediction_type: str) -> None:
    pipe = build_tiny_pipeline(prediction_type)
    backbone = backbone_for(pipe)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([10, 900])
    alpha = pipe.scheduler.alphas_cumprod[timesteps].view(2, 1, 1, 1)
    expected = {
        "epsilon": noise,
        "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,
        "sample": latents,
    }[prediction_type]
    torch.testing.assert_close(backbone.target(latents, noise, timesteps), expected)
    result = train(pipe)
    assert (result.rows["text_encoder"] != result.initial_rows["text_encoder"]).any(dim=1).all()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights(prediction_type: str) -> None:
    pipe = build_tiny_pipeline(prediction_type)
    timesteps = torch.tensor([0, 300, 999])
    alpha = pipe.scheduler.alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha)
    capped = snr.clamp(max=5)
    expected = {"epsilon": capped / snr, "v_prediction": capped / (snr + 1), "sample": capped}[prediction_type]
    torch.testing.assert_close(backbone_for(pipe).min_snr_weights(timesteps, 5.0), expected, rtol=1e-4, atol=1e-6)


def test_zero_terminal_snr_has_finite_weights() -> None:
    pipe = build_tiny_pipeline("v_prediction", rescale_betas_zero_snr=True)
    weights = backbone_for(pipe).min_snr_weights(torch.tensor([0, 999]), 5.0)
    assert torch.isfinite(weights).all()
    result = train(pipe, snr_gamma=5.0)
    assert np.isfinite(result.losses).all()


def split_picture() -> tuple[Image.Image, Image.Image]:
    """A picture of noise, and a mask of its left half."""
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    return random_picture((64, 64)), mask


def test_masked_loss_ignores_what_is_masked(pipe: Any, other_pipe: Any) -> None:
    picture, mask = split_picture()
    options = {"masked_loss": True, "flip_probability": 0.0, "max_train_steps": 1}
    masked = train(pipe, concept={"images": picture, "mask": mask}, **options)
    weights = masked.latents.mask[0, 0, 0]
    assert (weights[:, :4] == 1).all()
    assert (weights[:, 4:] == 0).all()
    plain = train(other_pipe, concept={"images": picture}, flip_probability=0.0, max_train_steps=1)
    assert masked.losses != plain.losses


def test_masked_loss_of_a_white_mask_is_the_plain_loss(pipe: Any, other_pipe: Any) -> None:
    white = Image.new("L", (40, 40), 255)
    with pytest.warns(SupremeInitWarning, match="the mask covers 100.0 % of picture 0"):
        masked = train(pipe, concept={"mask": white}, masked_loss=True)
    assert masked.losses == pytest.approx(train(other_pipe).losses, rel=1e-6)


def test_what_is_outside_the_mask_counts_by_its_weight(pipe: Any, other_pipe: Any) -> None:
    picture, mask = split_picture()
    weighted = train(pipe, concept={"images": picture, "mask": mask}, masked_loss=True, unmasked_weight=0.25)
    weights = weighted.latents.mask[0, 0, 0]
    assert (weights[:, :4] == 1).all()
    assert (weights[:, 4:] == 0.25).all()
    assert (weighted.latents.object_mask[0, 0, 0, :, 4:] == 0).all()
    everywhere = train(other_pipe, concept={"images": picture, "mask": mask}, masked_loss=True, unmasked_weight=1.0)
    plain = train(build_tiny_pipeline(), concept={"images": picture})
    assert everywhere.losses == pytest.approx(plain.losses, rel=1e-6)


def test_alpha_weights_the_loss_only_with_masked_loss(pipe: Any, other_pipe: Any) -> None:
    picture = random_picture((64, 64))
    picture.putalpha(split_picture()[1])
    assert train(pipe, concept={"images": picture}).latents.mask is None
    with_mask = train(other_pipe, concept={"images": picture}, masked_loss=True)
    assert with_mask.latents.mask is not None
    assert torch.equal(with_mask.latents.mask[:, 1], with_mask.latents.mask[:, 0].flip(-1))


def test_validation_is_deterministic_and_follows_its_schedule(pipe: Any, other_pipe: Any) -> None:
    options = {"max_train_steps": 7, "validation_samples": 4, "validation_steps": ["0", "1", "every:3"]}
    first, second = train(pipe, **options), train(other_pipe, **options)
    assert list(first.validation_losses) == [0, 1, 3, 6, 7]
    assert first.validation_losses == second.validation_losses
    assert all(len(losses) == 4 for losses in first.validation_losses.values())


def test_validation_noises_are_the_same_for_every_concept(pipe: Any) -> None:
    concepts = [
        Concept(images=random_picture(), placeholder_token=token, initializer=CAPTION) for token in ("<a>", "<b>")
    ]
    config = SupremeInitConfig(max_train_steps=0, validation_samples=4)
    a, b = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=config).train()
    assert a.validation_losses[0] == pytest.approx(b.validation_losses[0], rel=1e-5)


def test_validation_does_not_change_the_rows(pipe: Any, other_pipe: Any) -> None:
    with_validation = train(pipe, validation_samples=4, validation_steps=["every:1"])
    assert torch.equal(with_validation.rows["text_encoder"], train(other_pipe).rows["text_encoder"])


def test_early_stopping_keeps_the_best_rows(pipe: Any) -> None:
    # A rate at which the loss falls first and rises later.
    result = train(
        pipe,
        max_train_steps=50,
        learning_rate=0.1,
        train_batch_size=4,
        validation_samples=8,
        validation_steps=["0", "every:1"],
        early_stopping_patience=2,
    )
    means = result.mean_validation_losses()
    assert result.status == "stopped early"
    assert result.step < 50
    best = min(means, key=lambda step: means[step])
    assert result.step == best + 2
    assert torch.equal(result.rows["text_encoder"], result.best_rows["text_encoder"])


def test_snapshots(pipe: Any, other_pipe: Any, tmp_path: Path) -> None:
    result = train(pipe, output_dir=str(tmp_path), snapshot_steps=["0", "2"])
    at_zero = read_embedding(tmp_path / "learned_embeds-steps-0.safetensors")
    assert torch.equal(at_zero.rows, result.initial_rows["text_encoder"])
    at_two = read_embedding(tmp_path / "learned_embeds-steps-2.safetensors")
    assert at_two.training["steps"] == 2
    assert torch.equal(at_two.rows, train(other_pipe, max_train_steps=2).rows["text_encoder"])
    assert not torch.equal(at_two.rows, result.rows["text_encoder"])
    assert not list(tmp_path.glob("*steps-1.*"))


def test_previews_show_the_same_noises_at_every_validation(pipe: Any, tmp_path: Path) -> None:
    train(
        pipe,
        output_dir=str(tmp_path),
        validation_prompt="a photo of a {} on the beach",
        num_validation_images=2,
        validation_samples=2,
        validation_steps=["0"],
        learning_rate=1e-9,
    )
    before, after = (Image.open(tmp_path / "previews" / f"step-{step}.png") for step in (0, 3))
    assert before.size == (64, 32)
    difference = np.abs(np.asarray(before, dtype=int) - np.asarray(after, dtype=int))
    assert difference.max() <= 1


@pytest.mark.parametrize("prompt", ["a photo of {0}", "a photo of <cat>", "a photo of the mug", " ", "<mugs>", "{ }"])
def test_prompts_that_do_not_show_the_concept_are_refused(pipe: Any, tmp_path: Path, prompt: str) -> None:
    with pytest.raises(ConfigError, match="validation_prompt: expected '{}' where <mug> stands, got "):
        make_trainer(pipe, validation_prompt=prompt, output_dir=str(tmp_path / "run"))
    trainer = make_trainer(pipe, max_train_steps=1)
    trainer.train()
    for draw in (
        trainer.save,
        lambda folder, **options: trainer.push_to_hub("user/mug", output_dir=folder, **options),
    ):
        with pytest.raises(ConfigError, match="sample_prompts: expected '{}' where <mug> stands, got "):
            draw(tmp_path / "mug", sample_prompts=["a {}", prompt])
        with pytest.raises(ConfigError, match="sample_prompts: expected a list of texts, got "):
            draw(tmp_path / "mug", sample_prompts=[5])
    assert not list(tmp_path.iterdir())


def test_prompts_may_name_the_concept_themselves(pipe: Any, tmp_path: Path) -> None:
    options = {"validation_prompt": "a photo of <MUG>", "num_validation_images": 1, "validation_samples": 2}
    trainer = make_trainer(pipe, max_train_steps=1, output_dir=str(tmp_path / "run"), **options)
    trainer.train()
    assert (tmp_path / "run" / "previews" / "step-1.png").is_file()
    trainer.save(tmp_path / "mug", sample_prompts="an oil painting of <mug>")
    assert [path.name for path in (tmp_path / "mug" / "images").iterdir()] == ["0.png"]
    pipe.unload_multitoken_inversion()
    with pytest.raises(ConfigError, match="where <cat> stands, got 'a photo of <MUG>'"):
        make_trainer(pipe, {}, {"placeholder_token": "<cat>"}, output_dir=str(tmp_path), **options)


def test_a_warm_up_that_the_schedule_does_not_have_is_said(pipe: Any) -> None:
    with pytest.warns(SupremeInitWarning, match="lr_warmup_steps: lr_scheduler='constant' has no warm-up") as told:
        make_trainer(pipe, lr_warmup_steps=3)
    assert len(told) == 1
    make_trainer(pipe, lr_warmup_steps=3, lr_scheduler="linear")


def test_tensorboard_gets_losses_and_previews(pipe: Any, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(
        pipe,
        output_dir=str(tmp_path),
        report_to="tensorboard",
        logging_dir="events",
        validation_samples=2,
        validation_prompt="{}",
        num_validation_images=1,
    )
    events = EventAccumulator(str(tmp_path / "events" / "textual_inversion"))
    events.Reload()
    logged = [event.value for event in events.Scalars("train_loss/<mug>")]
    assert logged == pytest.approx(result.losses, rel=1e-6)
    assert {event.step for event in events.Scalars("validation_loss/<mug>")} == {0, 3}
    assert events.Tags()["images"] == ["previews"]


def test_losses_are_recorded_for_every_step(pipe: Any, tmp_path: Path) -> None:
    trainer = SupremeInitTextualInversionTrainer(
        pipe,
        images=random_picture(),
        placeholder_token="<mug>",
        initializer=CAPTION,
        config=SupremeInitConfig(max_train_steps=5, validation_samples=2),
    )
    (result,) = trainer.train()
    trainer.save(tmp_path)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["losses"] == result.losses
    assert len(result.losses) == 5
    assert record["seconds"] > 0


@pytest.mark.parametrize(
    ("initializer", "num_vectors", "expected"),
    [
        ("*", None, ["*</w>"]),
        ("*", 3, ["*</w>"] * 3),
        ("a red mug", 2, ["a</w>", "red</w>"]),
        ("a red mug", 5, ["a</w>", "red</w>", "mug</w>", "a</w>", "red</w>"]),
    ],
)
def test_num_vectors_repeats_or_cuts_and_says_so_once(
    pipe: Any, initializer: str, num_vectors: int | None, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    result = train(pipe, concept={"initializer": initializer, "num_vectors": num_vectors}, max_train_steps=0)
    assert list(result.initializer["text_encoder"].tokens) == expected
    told = [record.getMessage() for record in caplog.records if "tokens" in record.getMessage()]
    change = {2: "2 rows, 1 cut tokens", 3: "3 rows, 2 repeated tokens", 5: "5 rows, 2 repeated tokens"}
    assert told == ([f"initializer {initializer!r}: {change[num_vectors]}"] if num_vectors else [])


def test_own_templates_make_the_prompts(pipe: Any) -> None:
    result = train(pipe, concept={"templates": ["a drawing of a {}, sketched"]}, max_train_steps=0)
    assert result.prompts == ("a drawing of <mug>, sketched",)


def test_step_schedules() -> None:
    schedule = ["0", "7", "every:5"]
    assert [step for step in range(12) if is_scheduled(schedule, step)] == [0, 5, 7, 10]
    assert not is_scheduled([], 0)
    assert not is_scheduled(["every:1"], 0)


def test_every_option_is_tested_here_or_next_door() -> None:
    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    untested = [f.name for f in dataclasses.fields(SupremeInitConfig) if texts.count(f.name) == 0]
    assert not untested
