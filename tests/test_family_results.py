"""What is drawn, saved and loaded after training, on every family."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_in_two_steps, random_picture
from diffusers import (
    FluxImg2ImgPipeline,
    QwenImageImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    ZImageImg2ImgPipeline,
)
from family_runs import CAPTION, SIDE, each_family_in_turn, make_trainer
from PIL import Image
from safetensors.torch import load_file
from tiny.families import run
from training_families import TRAINING_FAMILY, TrainingFamily, side_of, stable_diffusion

from diffusers_supreme_init import convert_embedding, evaluate
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.metrics import denoising_mse
from diffusers_supreme_init.objective import phases

pytestmark = pytest.mark.filterwarnings("ignore:.* when it cleans prompts")

IMAGE_TO_IMAGE = {
    "stable_diffusion": StableDiffusionImg2ImgPipeline,
    "stable_diffusion_xl": StableDiffusionXLImg2ImgPipeline,
    "stable_diffusion_3": StableDiffusion3Img2ImgPipeline,
    "flux_schnell": FluxImg2ImgPipeline,
    "z_image": ZImageImg2ImgPipeline,
    "qwen_image": QwenImageImg2ImgPipeline,
}


@pytest.fixture(autouse=True)
def _two_steps_draw_a_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_in_two_steps(monkeypatch, *{TRAINING_FAMILY[name].family.pipeline_class for name in IMAGE_TO_IMAGE})


@each_family_in_turn("stable_diffusion_xl", "lumina2")
def test_trained_equals_saved_equals_loaded(case: TrainingFamily, tmp_path: Path) -> None:
    pipe, fresh = case.build(), case.build()
    untrained = run(case.family, pipe, f"a photo of {CAPTION} on a wooden table")
    trainer = make_trainer(pipe, learning_rate=0.1)
    trainer.train()
    files = trainer.save(tmp_path)
    names = ["learned_embeds.safetensors", "learned_embeds_2.safetensors", "learned_embeds_3.safetensors"]
    assert [path.name for path in files] == names[: len(case.trained)]
    fresh.load_multitoken_inversion(tmp_path)
    expected = run(case.family, pipe, "a photo of <mug> on a wooden table")
    assert np.array_equal(run(case.family, fresh, "a photo of <mug> on a wooden table"), expected)
    assert not np.array_equal(expected, untrained)


def test_rows_of_an_encoder_that_is_no_longer_trained_go_from_the_folder(tmp_path: Path) -> None:
    build = TRAINING_FAMILY["stable_diffusion_xl"].build
    for chosen, expected in (([], 2), (["text_encoder"], 1)):
        trainer = make_trainer(build(), train_text_encoders=chosen)
        trainer.train()
        trainer.save(tmp_path, overwrite=True)
        assert len(list(tmp_path.glob("learned_embeds*"))) == expected


@pytest.mark.parametrize(
    ("name", "chosen", "keys"),
    [
        ("stable_diffusion_xl", [], ["clip_l", "clip_g"]),
        ("stable_diffusion_3", ["text_encoder", "text_encoder_2", "text_encoder_3"], ["clip_l", "clip_g", "t5xxl"]),
        ("flux_dev", ["text_encoder", "text_encoder_2"], ["clip_l", "t5xxl"]),
    ],
)
def test_comfyui_file_of_several_encoders(name: str, chosen: list[str], keys: list[str], tmp_path: Path) -> None:
    trainer = make_trainer(TRAINING_FAMILY[name].build(), train_text_encoders=chosen)
    (result,) = trainer.train()
    trainer.save(tmp_path / "mug")
    # Tiny encoders have other widths than those by which the keys are known, so the keys are given.
    convert_embedding(tmp_path / "mug", tmp_path / "mug.safetensors", format="comfyui", encoder_keys=keys)
    written = load_file(tmp_path / "mug.safetensors")
    assert list(written) == sorted(keys)
    for key, rows in zip(keys, result.rows.values(), strict=True):
        assert torch.equal(written[key], rows)


@each_family_in_turn("stable_diffusion_velocity", "cogview4")
def test_sample_pictures_and_card_of_every_family(case: TrainingFamily, tmp_path: Path) -> None:
    pipe = case.build()
    trainer = make_trainer(pipe, max_train_steps=1)
    trainer.train()
    trainer.save(tmp_path, sample_prompts=["a photo of a {}"])
    assert Image.open(tmp_path / "images" / "0.png").size[0] > 0
    card = (tmp_path / "README.md").read_text()
    assert ("With diffusers alone" in card) == (case.objective is stable_diffusion)
    assert ("clean_caption=False" in card) == (case.name in ("pixart_sigma", "pixart_alpha", "sana"))
    assert card.count("initializer token |") == 1  # both CLIPs split the words alike
    assert ("In `text_encoder` and `text_encoder_2`:" in card) == (len(case.trained) == 2)


@each_family_in_turn("aura_flow", "kolors")
def test_the_loss_of_a_loaded_concept_is_that_of_training(case: TrainingFamily) -> None:
    pipe = case.build()
    (result,) = make_trainer(pipe, validation_samples=4).train()
    measured = denoising_mse(pipe, random_picture(), result.validation_prompt, num_samples=4, resolution=side_of(pipe))
    torch.testing.assert_close(
        measured, torch.tensor(result.validation_losses[2], dtype=torch.float64), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        pytest.param(name, cls, marks=[] if name == "stable_diffusion" else pytest.mark.slow)
        for name, cls in IMAGE_TO_IMAGE.items()
    ],
)
def test_image_to_image_pipelines_train_and_draw_their_samples(name: str, cls: type, tmp_path: Path) -> None:
    options = {"max_train_steps": 1, "validation_samples": 2, "num_validation_images": 1}
    previews = {"validation_prompt": "a photo of a {}", "output_dir": str(tmp_path / "run")}
    plain, other = TRAINING_FAMILY[name].build(), TRAINING_FAMILY[name].build()
    for pipe, folder in ((plain, "plain"), (cls(**other.components), "other")):
        trainer = make_trainer(pipe, **options, **previews)
        trainer.train()
        trainer.save(tmp_path / folder, sample_prompts=["a photo of a {}"])
    pictures = [np.asarray(Image.open(tmp_path / folder / "images" / "0.png")) for folder in ("plain", "other")]
    assert np.array_equal(*pictures)
    assert (tmp_path / "run" / "previews" / "step-1.png").is_file()


def test_what_is_drawn_after_training_reads_t5_from_memory(tmp_path: Path) -> None:
    """T5 and the denoiser never meet on the accelerator; a forward pass that the user replaced stays theirs."""
    pipe = TRAINING_FAMILY["flux_schnell"].build()
    pipe.default_sample_size = 8
    t5, calls = pipe.text_encoder_2, []
    plain = t5.forward

    def forward(*args: Any, **options: Any) -> Any:
        calls.append(len(args[0]))
        return plain(*args, **options)

    t5.forward = forward
    options = {"validation_prompt": "a photo of a {}", "num_validation_images": 1, "output_dir": str(tmp_path / "run")}
    trainer = make_trainer(pipe, validation_samples=2, **options)
    trainer.train()
    texts = {prompt for result in trainer.results for prompt in (*result.prompts, result.validation_prompt)}
    read = {t5_text.replace("<mug>", CAPTION) for t5_text in (*texts, "")}
    assert len(calls) <= len(read) + 1  # each once, in training, validation and previews; the preview's may be another
    calls.clear()
    trainer.save(tmp_path / "mug", sample_prompts=["a photo of a {}", "a drawing of a {}"])
    assert len(calls) == 3  # two prompts, and none
    assert t5.forward is forward


def test_only_drawing_needs_the_safety_checker_and_it_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = TRAINING_FAMILY["stable_diffusion"].build()
    pipe.register_modules(safety_checker=torch.nn.Linear(1, 1))
    backbone, moved = backbone_for(pipe), []
    monkeypatch.setattr(phases, "on_device", lambda module, device: moved.append(module) or contextlib.nullcontext())
    with phases.ready_to_step(backbone, torch.device("cpu"), []):
        assert pipe.safety_checker not in moved
        with phases.ready_to_draw(backbone, torch.device("cpu")):
            assert pipe.safety_checker in moved
            assert pipe.vae in moved


def test_evaluation_draws_prompts_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """PixArt's calls clean captions, and `<mug>` away with them, unless they are told not to."""
    pipe = TRAINING_FAMILY["pixart_sigma"].build()
    make_trainer(pipe, max_train_steps=1).train()
    texts, original = [], pipe.text_encoder.forward

    def record(input_ids: torch.Tensor, **options: Any) -> Any:
        texts.extend(pipe.tokenizer.batch_decode(input_ids))
        return original(input_ids, **options)

    pipe.text_encoder.forward = record
    sampling = {"num_inference_steps": 1, "height": SIDE, "width": SIDE, "use_resolution_binning": False}
    evaluate(
        pipe, "<mug>", random_picture(), description=CAPTION, metrics=[], denoising_samples=0, seeds=[0], **sampling
    )
    drawn = [text for text in texts if "photo" in text or "painting" in text or "drawing" in text]
    assert len(drawn) >= 6
    assert all("<mug|0>" in text for text in drawn)
