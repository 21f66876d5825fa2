"""The guarantees of training, on every family: what starts equal, moves, is minimised, and is drawn afterwards."""

import contextlib
import copy
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_same, draw_in_two_steps, random_picture, snapshot_of
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    QwenImageImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    ZImageImg2ImgPipeline,
)
from PIL import Image
from safetensors.torch import load_file
from tiny.every_family import FAMILY
from tiny.families import run
from tiny.text import seeded
from training_families import TRAINING_FAMILIES, TRAINING_FAMILY, TrainingFamily, side_of, stable_diffusion

from diffusers_supreme_init import (
    Concept,
    ConfigError,
    InitializerError,
    PlaceholderTokenError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    SupremeInitWarning,
    UnsupportedPipelineError,
    backbones,
    convert_embedding,
    evaluate,
)
from diffusers_supreme_init.backbones import Backbone, backbone_for
from diffusers_supreme_init.backbones.stable_diffusion_3 import StableDiffusion3Backbone
from diffusers_supreme_init.metrics import denoising_mse
from diffusers_supreme_init.objective import phases
from diffusers_supreme_init.objective.draws import DenoisingSample
from diffusers_supreme_init.objective.losses import denoising_losses
from diffusers_supreme_init.text.text_pairs import find_text_pairs

CAPTION = "a red mug with white boats"
SIDE = 16
"""Of training pictures, in pixels."""

pytestmark = pytest.mark.filterwarnings("ignore:.* when it cleans prompts")

each_family = pytest.mark.parametrize("case", TRAINING_FAMILIES, ids=lambda case: case.name)
each_family_in_turn = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=[] if case.is_fast else pytest.mark.slow) for case in TRAINING_FAMILIES],
)
"""All families, but those that take their turn in `make test-slow`."""


def each_family_with(name: str, values: Sequence[Any], fast: Any) -> pytest.MarkDecorator:
    """Give each family each value; those that take their turn have only one of them in `make test`."""
    cases = [
        pytest.param(
            case, value, id=f"{case.name}-{value}", marks=[] if case.is_fast or value == fast else pytest.mark.slow
        )
        for case in TRAINING_FAMILIES
        for value in values
    ]
    return pytest.mark.parametrize(("case", name), cases)


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


def make_trainer(
    pipe: Any, *, token: str = "<mug>", initializer: Any = CAPTION, concepts: Any = None, **options: Any
) -> SupremeInitTextualInversionTrainer:
    settings = {
        "max_train_steps": 2,
        "validation_samples": 0,
        "resolution": side_of(pipe),
        "train_batch_size": 2,
    } | options
    if concepts is None:
        concepts = [Concept(images=random_picture(), placeholder_token=token, initializer=initializer)]
    return SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=SupremeInitConfig(**settings))


def conditioning(pipe: Any, prompt: str) -> list[torch.Tensor]:
    """Return all that a denoiser is told of a prompt."""
    with torch.no_grad():
        encoded = backbone_for(pipe).encode_prompts([prompt])
    parts = vars(encoded).values() if hasattr(encoded, "__dict__") and not torch.is_tensor(encoded) else encoded
    return [encoded] if torch.is_tensor(encoded) else [part for part in parts if part is not None]


def random_latents(backbone: Backbone, num: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    side = side_of(backbone.pipe)
    shape = backbone.encode_pictures(torch.zeros(1, 3, side, side)).mean.shape[1:]
    return torch.randn(num, *shape, generator=generator)


# What starts equal


@each_family_with("dtype", [torch.float32, torch.bfloat16], fast=torch.float32)
def test_step_zero_equals_the_description_to_the_last_bit(case: TrainingFamily, dtype: torch.dtype) -> None:
    pipe = case.build().to(dtype)
    templates = ["a photo of {}", "an oil painting of {} in the snow, with a dog"]
    # In Gemma's tiny vocabulary, a word and the comma after it are one token; Kolors' tokenizer has no offsets.
    if case.name not in ("sana", "lumina2", "kolors"):
        templates += ["a photo of {}, on a table", "a photo of {}'s boat"]
    if case.exact_everywhere or case.name in ("pixart_sigma", "pixart_alpha", "sana", "chroma", "lumina2"):
        templates += ["{}"]
    if case.exact_everywhere:  # rows begin a word, and may include the space before it: not so after a bracket
        templates += ["{}.", 'the words "{}"', "({}:1.2)\n{}"]
    literal = [conditioning(pipe, template.replace("{}", CAPTION)) for template in templates]
    (result,) = make_trainer(pipe, max_train_steps=0).train()
    assert tuple(result.rows) == case.trained
    for template, expected in zip(templates, literal, strict=True):
        got = conditioning(pipe, template.replace("{}", "<mug>"))
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert torch.equal(one, other)
        different = conditioning(pipe, template.replace("{}", "a dog"))
        assert any(not torch.equal(one, other) for one, other in zip(different, expected, strict=True))


@each_family
def test_every_encoder_starts_from_its_own_tokens(case: TrainingFamily) -> None:
    pipe = case.build()
    pairs = {pair.encoder_name: pair for pair in find_text_pairs(pipe)}
    before, whole = "photo", f"photo {CAPTION}"
    expected = {}
    for name in case.trained:
        ids = [pairs[name].tokenizer(text, add_special_tokens=False).input_ids for text in (before, whole)]
        expected[name] = ids[1][len(ids[0]) :]
    (result,) = make_trainer(pipe, max_train_steps=0, train_text_encoders=[]).train()
    for name, ids in expected.items():
        assert list(result.initializer[name].token_ids) == ids
        assert torch.equal(result.rows[name], pairs[name].embedding.weight[ids].detach())


# What moves


def assert_only_rows_moved(pipe: Any, before: dict[str, Any], trained: tuple[str, ...]) -> None:
    """Assert that the rows of ``<mug>`` are all that is new in the trained encoders, and nothing else changed."""
    after = snapshot_of(pipe)
    for name in before:
        module, _, what = name.partition(".")
        if not isinstance(pipe.components.get(module), torch.nn.Module):
            continue
        if module not in trained or what in ("training", "requires_grad", "modules"):
            assert_same(before[name], after[name], name)
        elif not what:
            pair = next(pair for pair in find_text_pairs(pipe) if pair.encoder_name == module)
            ids = set(pair.row_ids("<mug>"))
            for key, weight in before[name].items():
                kept = after[name][key]
                is_matrix = kept.ndim == 2 and len(kept) >= len(pair.tokenizer)  # T5 has two names for its own
                others = [index for index in range(len(weight)) if index not in ids] if is_matrix else slice(None)
                assert torch.equal(kept[others], weight[others]), key
                assert len(kept) == (max(len(weight), max(ids) + 1) if is_matrix else len(weight)), key


@each_family
def test_rows_of_every_trained_encoder_move_and_nothing_else(
    case: TrainingFamily, unchanged: Callable[[Any], None]
) -> None:
    pipe = case.build()
    run(case.family, pipe, "a dog")  # the libraries leave marks on modules that were called
    unchanged(pipe)
    before = snapshot_of(pipe)
    (result,) = make_trainer(pipe).train()
    assert tuple(result.rows) == case.trained
    for name in case.trained:
        assert (result.rows[name] != result.initial_rows[name]).any(dim=1).all(), name
    assert_only_rows_moved(pipe, before, case.trained)
    pipe.unload_multitoken_inversion("<mug>")  # and everything is as it was


def choices() -> list[Any]:
    return [
        pytest.param("stable_diffusion_xl", ["text_encoder_2"], id="second-of-sdxl"),
        pytest.param("stable_diffusion_3", ["text_encoder_3"], id="t5-of-sd3"),
        pytest.param("stable_diffusion_3", ["text_encoder", "text_encoder_2", "text_encoder_3"], id="all-of-sd3"),
        pytest.param("flux_dev", ["text_encoder_2"], id="t5-of-flux"),
        pytest.param("flux_dev", ["text_encoder_2", "text_encoder"], id="both-of-flux"),
        pytest.param("hidream", ["text_encoder_3", "text_encoder_4"], id="t5-and-llama", marks=pytest.mark.slow),
    ]


@pytest.mark.parametrize(("name", "chosen"), choices())
def test_encoders_can_be_chosen_and_the_others_read_the_description(
    name: str, chosen: list[str], tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    case = TRAINING_FAMILY[name]
    pipe, fresh = case.build(), case.build()
    run(case.family, pipe, "a dog")
    unchanged(pipe)
    literal = conditioning(pipe, f"a photo of {CAPTION}")
    before = snapshot_of(pipe)
    make_trainer(pipe, max_train_steps=0, train_text_encoders=chosen).train()
    for one, other in zip(conditioning(pipe, "a photo of <mug>"), literal, strict=True):
        assert torch.equal(one, other)
    pipe.unload_multitoken_inversion("<mug>")
    trainer = make_trainer(pipe, train_text_encoders=chosen)
    (result,) = trainer.train()
    assert sorted(result.rows) == sorted(chosen)
    assert all((result.rows[key] != result.initial_rows[key]).any(dim=1).all() for key in chosen)
    assert_only_rows_moved(pipe, before, tuple(chosen))
    files = trainer.save(tmp_path)
    assert len(files) == len(chosen)
    fresh.load_multitoken_inversion(tmp_path)
    assert np.array_equal(run(case.family, fresh, "a photo of <mug>"), run(case.family, pipe, "a photo of <mug>"))
    pipe.unload_multitoken_inversion("<mug>")


def test_what_is_trained_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="diffusers_supreme_init")
    (result,) = make_trainer(TRAINING_FAMILY["flux_dev"].build(), max_train_steps=0).train()
    num_rows = len(result.rows["text_encoder"])
    assert f"<mug>: {num_rows} rows in text_encoder; text_encoder_2 reads '{CAPTION}'" in caplog.text
    assert "16 px, learning rate 0.002, float32, cpu" in caplog.text
    caplog.clear()
    make_trainer(TRAINING_FAMILY["stable_diffusion_xl"].build(), max_train_steps=0).train()
    assert f"<mug>: {num_rows} rows in text_encoder, {num_rows} rows in text_encoder_2\n" in caplog.text


# What is minimised


@each_family_with("fraction", [0.02, 0.5, 0.97], fast=0.5)
def test_loss_is_the_published_objective(case: TrainingFamily, fraction: float) -> None:
    pipe = case.build()
    backbone = backbone_for(pipe)
    latents, noise = random_latents(backbone), random_latents(backbone, seed=1)
    timestep = fraction * 1000 if case.is_flow else int(1000 * fraction)
    geometry = torch.tensor([[40.0, 56.0, 0.0, 3.0, SIDE, SIDE]])
    with torch.no_grad():
        expected = case.objective(pipe, "A photo of a red mug", latents, noise, torch.tensor([timestep]), geometry)
        sample = DenoisingSample(latents[0], noise[0], timestep, "A photo of a red mug", None, geometry[0])
        (loss,) = denoising_losses(backbone, [sample], torch.device("cpu"))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_pixart_alpha_is_told_the_size_of_the_picture() -> None:
    """As its model for 1024 px is; that of the tiny pipeline is not."""
    case, pipe = TRAINING_FAMILY["pixart_alpha"], TRAINING_FAMILY["pixart_alpha"].build()
    config = pipe.transformer.config
    sizes = {"attention_head_dim": 12, "cross_attention_dim": 24, "use_additional_conditions": True}
    pipe.register_modules(transformer=seeded(lambda: type(pipe.transformer).from_config(config, **sizes)))
    backbone = backbone_for(pipe)
    latents, noise = random_latents(backbone), random_latents(backbone, seed=1)
    losses = []
    for height in (16.0, 32.0):
        geometry = torch.tensor([[40.0, 56.0, 0.0, 3.0, height, 16.0]])
        with torch.no_grad():
            expected = case.objective(pipe, "a red mug", latents, noise, torch.tensor([500]), geometry)
            sample = DenoisingSample(latents[0], noise[0], 500, "a red mug", None, geometry[0])
            (loss,) = denoising_losses(backbone, [sample], torch.device("cpu"))
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        losses.append(float(loss))
    assert losses[0] != losses[1]


def test_ernie_image_is_encoded_as_its_pipeline_encodes_it_which_has_no_gradient() -> None:
    pipe = TRAINING_FAMILY["ernie_image"].build()
    prompts = ["a photo of a red mug", "a dog in the park at night"]
    ours, theirs = backbone_for(pipe).encode_prompts(prompts), pipe.encode_prompt(prompts, torch.device("cpu"))
    assert not any(embeds.requires_grad for embeds in theirs)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@each_family_in_turn
def test_a_batch_has_the_losses_of_its_samples(case: TrainingFamily) -> None:
    """Different prompts, timesteps, sizes and latents, each with its own."""
    pipe = case.build()
    backbone = backbone_for(pipe)
    prompts = ("a photo of a red mug", "a dog in the park at night , running after two large cats", "a boat")
    samples = [
        DenoisingSample(
            random_latents(backbone, seed=index)[0],
            random_latents(backbone, seed=10 + index)[0],
            backbone.timestep_at((index + 0.5) / 3, (8, 8)),
            prompt,
            None,
            torch.tensor([40.0 + index, 56.0, 0.0, index, SIDE, SIDE]),
        )
        for index, prompt in enumerate(prompts)
    ]
    with torch.no_grad():
        together = denoising_losses(backbone, samples, torch.device("cpu"))
        alone = torch.cat([denoising_losses(backbone, [one], torch.device("cpu")) for one in samples])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert len(set(alone.tolist())) == 3


@pytest.mark.parametrize("name", ["stable_diffusion_3", "flux_dev", "sana", "z_image", "qwen_image"])
def test_flow_timesteps_are_logit_normal_shifted_as_the_scheduler_shifts(name: str) -> None:
    pipe = TRAINING_FAMILY[name].build()
    backbone: Any = backbone_for(pipe)
    size = (8, 8)
    uniform = (torch.arange(999) + 0.5) / 999
    normal = torch.sigmoid(torch.distributions.Normal(0.0, 1.0).icdf(uniform)).numpy()
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    if scheduler.config.use_dynamic_shifting:  # 16 tokens, on the line through 0.5 at 256 and 1.15 at 4096
        mu = 0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256)
        scheduler.set_timesteps(sigmas=normal, mu=mu)
    else:
        scheduler.set_timesteps(sigmas=normal)
    expected = scheduler.sigmas[:-1].double().sort().values
    quantiles = torch.tensor([backbone.timestep_at(float(one), size) for one in uniform]).double() / 1000
    torch.testing.assert_close(quantiles, expected, rtol=1e-4, atol=1e-5)
    assert [backbone.timestep_at(end, size) for end in (0.0, 1.0)] == [0.0, 1000.0]


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl", "pixart_sigma"])
def test_diffusion_timesteps_are_uniform(name: str) -> None:
    backbone = backbone_for(TRAINING_FAMILY[name].build())
    quantiles = [backbone.timestep_at((number + 0.5) / 10, (8, 8)) for number in range(10)]
    assert quantiles == [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]
    assert [backbone.timestep_at(end, (8, 8)) for end in (0.0, 0.9999, 1.0)] == [0, 999, 999]


def test_sdxl_is_told_the_picture_and_its_crop() -> None:
    """A picture of 40 by 24 becomes a square of 16: scaled by 16 / 24, and 5 px are cut off on either side."""
    pipe = TRAINING_FAMILY["stable_diffusion_xl"].build()
    told: list[list[float]] = []
    original = pipe.unet.forward

    def record(*args: Any, added_cond_kwargs: Any, **kwargs: Any) -> Any:
        told.extend(added_cond_kwargs["time_ids"].tolist())
        return original(*args, added_cond_kwargs=added_cond_kwargs, **kwargs)

    pipe.unet.forward = record
    picture = random_picture((40, 24))
    concepts = [Concept(images=picture, placeholder_token="<mug>", initializer=CAPTION)]
    make_trainer(pipe, concepts=concepts, max_train_steps=1).train()
    assert told
    assert all(one == [24, 40, 0, 5, 16, 16] for one in told)
    told.clear()
    pipe.unload_multitoken_inversion()
    make_trainer(pipe, concepts=concepts, max_train_steps=1, center_crop=False).train()
    assert told
    assert all(one == [24, 40, 0, 0, 16, 16] for one in told)


@each_family
def test_latents_are_what_the_pipeline_decodes(case: TrainingFamily) -> None:
    """What a pipeline's decoder makes of our latents is what its autoencoder makes of the picture."""
    pipe = case.build()
    backbone = backbone_for(pipe)
    side = side_of(pipe)
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = backbone.encode_pictures(pixels).mean
    if pipe.vae.config.get("in_channels") == 4:  # opaque
        pixels = torch.cat([pixels, torch.ones(1, 1, side, side)], dim=1)
    with torch.no_grad():
        undone = case.decoding(pipe, latents)
        encoded = pipe.vae.encode(pixels[:, :, None] if undone.ndim == 5 else pixels)
        plain = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latent
    torch.testing.assert_close(undone, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@each_family
def test_the_loss_of_one_picture_falls(case: TrainingFamily) -> None:
    measured = {"validation_samples": 16, "validation_steps": ["0", "30"]}
    options = {"max_train_steps": 30, "train_batch_size": 4, "learning_rate": 0.02, **measured}
    (result,) = make_trainer(case.build(), **options).train()
    means = result.mean_validation_losses()
    assert means[30] < means[0]


# What is drawn after


@each_family_in_turn
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


@each_family_in_turn
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


@each_family_in_turn
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
        pytest.param(name, cls, marks=[] if TRAINING_FAMILY[name].is_fast else pytest.mark.slow)
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


# Options on each family


@each_family_in_turn
def test_several_concepts_learn_as_if_alone(case: TrainingFamily) -> None:
    def concept(index: int) -> Concept:
        words = ("a red mug", "a dog in the park at night")[index]
        return Concept(images=random_picture(seed=index), placeholder_token=f"<c{index}>", initializer=words)

    together = make_trainer(case.build(), concepts=[concept(0), concept(1)]).train()
    for index, result in enumerate(together):
        (alone,) = make_trainer(case.build(), concepts=[concept(index)]).train()
        for name in case.trained:
            moved = (result.rows[name] - result.initial_rows[name]).abs().max()
            torch.testing.assert_close(result.rows[name], alone.rows[name], rtol=0, atol=float(moved) * 0.05)


@each_family_in_turn
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masks_several_pictures_and_half_precision(case: TrainingFamily, dtype: torch.dtype) -> None:
    pipe = case.build().to(dtype)
    mask = Image.new("L", (40, 40), 0)
    mask.paste(255, (8, 8, 32, 32))
    concepts = [
        Concept(
            images=[random_picture(seed=1), random_picture(seed=2)],
            mask=[mask, mask],
            placeholder_token="<mug>",
            initializer=CAPTION,
        ),
        Concept(images=random_picture(seed=3), mask=mask, placeholder_token="<dog>", initializer="a dog"),
    ]
    # In fp16 the first ones only bring the loss scale down, and more of them behind a language model.
    steps = 2 if dtype == torch.bfloat16 else 8 if case.is_fast else 16
    options = {"masked_loss": True, "validation_samples": 2, "max_train_steps": steps}
    results = make_trainer(pipe, concepts=concepts, **options).train()
    for result in results:
        assert result.status == "finished"
        for name in case.trained:
            assert result.rows[name].dtype == torch.float32
            assert torch.isfinite(result.rows[name]).all()
            assert (result.rows[name] != result.initial_rows[name]).any(dim=1).all()
    assert {parameter.dtype for parameter in pipe.vae.parameters()} == {dtype}


@each_family_in_turn
def test_mixed_precision_and_gradient_checkpointing(case: TrainingFamily) -> None:
    (plain,) = make_trainer(case.build()).train()
    recomputing = case.name != "hunyuan_dit"  # whose transformer cannot
    (mixed,) = make_trainer(case.build(), mixed_precision="bf16", gradient_checkpointing=recomputing).train()
    for name in case.trained:
        assert torch.isfinite(mixed.rows[name]).all()
        assert not torch.equal(mixed.rows[name], mixed.initial_rows[name])
        assert (mixed.rows[name] - plain.rows[name]).abs().max() <= 2 * (
            plain.rows[name] - plain.initial_rows[name]
        ).abs().max()


@pytest.mark.parametrize(
    "name",
    [
        *("pixart_sigma", "sana", "qwen_image"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("z_image", "qwen_image21", "flux2_klein", "flux2")),
    ],
)
def test_recomputed_layers_of_a_text_encoder_change_no_bit_and_drop_nothing(
    name: str, unchanged: Callable[[Any], None]
) -> None:
    case = TRAINING_FAMILY[name]
    pipe, passes = case.build(), []
    for part in pipe.text_encoder.modules():
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0.5
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    run(case.family, pipe, "a dog")
    unchanged(pipe)
    linear = [part for part in pipe.text_encoder.modules() if isinstance(part, torch.nn.Linear)]
    hooks = [part.register_forward_pre_hook(lambda module, given: passes.append(module)) for part in linear]
    rows, num_passes = [], []
    for recomputing in (False, True):
        passes.clear()
        (result,) = make_trainer(pipe, max_train_steps=1, gradient_checkpointing=recomputing).train()
        pipe.unload_multitoken_inversion("<mug>")
        rows.append(result.rows["text_encoder"])
        num_passes.append(len(passes))
    for hook in hooks:
        hook.remove()
    assert num_passes[1] > num_passes[0]
    assert torch.equal(*rows)


# Bad input


def test_a_description_that_fits_t5_but_not_clip_is_refused(unchanged: Callable[[Any], None]) -> None:
    pipe = TRAINING_FAMILY["stable_diffusion_3"].build()
    unchanged(pipe)
    with pytest.raises(InitializerError, match=r"expected at most \d+ tokens .* got 72 in text_encoder; shorten"):
        make_trainer(pipe, initializer="a red mug with white boats in the park " * 8)


def test_a_description_that_fits_clip_but_not_t5_is_refused(
    unchanged: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StableDiffusion3Backbone, "max_sequence_length", 32)  # the real 256 are more than CLIP's 77
    pipe = TRAINING_FAMILY["stable_diffusion_3"].build()
    unchanged(pipe)
    words = "a red mug with white boats in the park at night , " * 3
    with pytest.raises(InitializerError, match=r"text_encoder_3 can read \(32 tokens .* got \d+ tokens .* shorten it"):
        make_trainer(pipe, initializer=words)
    with pytest.raises(InitializerError, match=r"expected at most \d+ tokens .* got \d+ in text_encoder_3; shorten"):
        make_trainer(pipe, initializer=words, train_text_encoders=["text_encoder_3"])
    make_trainer(TRAINING_FAMILY["stable_diffusion_3_without_t5"].build(), initializer=words)


@pytest.mark.parametrize(
    ("name", "component", "message"),
    [
        ("stable_diffusion_xl", "text_encoder_2", "got one without text_encoder_2"),
        ("stable_diffusion_3", "text_encoder", "got one without text_encoder"),
        ("flux_dev", "text_encoder_2", "got one without text_encoder_2"),
        ("pixart_sigma", "text_encoder", "got one without text_encoder"),
        ("sana", "vae", "got one without vae"),
        ("z_image", "tokenizer", "got one without tokenizer"),
        ("qwen_image21", "processor", "got one without processor"),
        ("flux2", "tokenizer", "got one without tokenizer"),
    ],
)
def test_pipelines_that_lack_a_part_are_refused(name: str, component: str, message: str) -> None:
    pipe = TRAINING_FAMILY[name].build()
    pipe.register_modules(**{component: None})
    with pytest.raises(UnsupportedPipelineError, match=message):
        make_trainer(pipe)


@pytest.mark.parametrize(
    "name",
    [
        *("stable_diffusion_xl", "stable_diffusion_3", "flux_dev", "pixart_sigma", "sana"),
        *("z_image", "qwen_image", "qwen_image21", "flux2_klein"),
    ],
)
def test_denoisers_that_read_more_than_latents_are_refused(name: str) -> None:
    pipe = TRAINING_FAMILY[name].build()
    component = "unet" if name == "stable_diffusion_xl" else "transformer"
    denoiser = getattr(pipe, component)
    channels = denoiser.config.in_channels
    wider = type(denoiser).from_config(denoiser.config, in_channels=2 * channels)
    pipe.register_modules(**{component: wider})
    with pytest.raises(UnsupportedPipelineError, match=f"a {component} that reads {channels} .*, got {2 * channels}:"):
        make_trainer(pipe)


@pytest.mark.parametrize("name", ["stable_diffusion", "flux_dev"])
def test_text_encoders_of_another_kind_are_refused(name: str) -> None:
    pipe = TRAINING_FAMILY[name].build()
    component = "text_encoder_2" if name == "flux_dev" else "text_encoder"
    setattr(pipe, component, torch.nn.Sequential(getattr(pipe, component)))
    with pytest.raises(UnsupportedPipelineError, match=f"{component}: expected a text encoder of transformers"):
        make_trainer(pipe)


@pytest.mark.parametrize("name", ["lumina", "wan", "glm_image"])
def test_other_pipelines_are_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(UnsupportedPipelineError, match=r"StableDiffusionXLPipeline.*SanaPipeline.*register_backbone"):
        make_trainer(FAMILY[name].build())


@each_family_in_turn
def test_a_pipeline_that_holds_concepts_keeps_them(case: TrainingFamily) -> None:
    pipe = case.build()
    make_trainer(pipe, token="<first>", initializer="a dog", learning_rate=0.1).train()
    expected = run(case.family, pipe, "a photo of <first>")
    alone = case.build()
    (fresh,) = make_trainer(alone).train()
    (second,) = make_trainer(pipe).train()
    for name in case.trained:
        assert torch.equal(second.rows[name], fresh.rows[name])
    assert np.array_equal(run(case.family, pipe, "a photo of <first>"), expected)
    with pytest.raises(PlaceholderTokenError, match="already loaded"):
        make_trainer(pipe)
    pipe.unload_multitoken_inversion("<first>")
    assert np.array_equal(run(case.family, pipe, "a photo of <mug>"), run(case.family, alone, "a photo of <mug>"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "flux_dev",
            {"train_text_encoders": ["text_encoder_3"]},
            "expected some of text_encoder, text_encoder_2, got",
        ),
        ("flux_dev", {"snr_gamma": 5.0}, "snr_gamma: expected None for FluxPipeline"),
        ("sana", {"snr_gamma": 5.0}, "snr_gamma: expected None for SanaPipeline"),
        ("flux_dev", {"resolution": 18}, "resolution: expected a multiple of 4 for FluxPipeline, got 18"),
        ("hunyuan_dit", {"gradient_checkpointing": True}, "gradient_checkpointing: expected False for HunyuanDiT"),
        ("qwen_image", {"resolution": 20}, "resolution: expected a multiple of 8 for QwenImagePipeline, got 20"),
        ("qwen_image21", {"resolution": 48}, "resolution: expected a multiple of 32 for QwenImage21Pipeline, got 48"),
        ("stable_diffusion_3", {"resolution": 64}, "resolution: expected at most 16 for StableDiffusion3Pipeline"),
    ],
)
def test_settings_that_a_family_lacks_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_trainer(TRAINING_FAMILY[name].build(), **options)


@pytest.mark.parametrize("name", ["z_image", "flux2_klein", "flux2"])
def test_chat_templates_that_lose_the_prompt_are_refused(name: str) -> None:
    pipe = TRAINING_FAMILY[name].build()
    tokenizer = pipe.tokenizer
    tokenizer.chat_template = "{{ 'Draw what you like.' }}"
    with pytest.raises(
        UnsupportedPipelineError, match=r"template that holds the prompt .* writes 'Draw what you like"
    ):
        make_trainer(pipe)
    tokenizer.chat_template = None
    with pytest.raises(
        UnsupportedPipelineError, match=r"expected a tokenizer with a chat template .* got one without"
    ):
        make_trainer(pipe)


def test_a_template_that_is_not_the_one_that_is_cut_off_is_refused() -> None:
    pipe = TRAINING_FAMILY["qwen_image"].build()
    pipe.prompt_template_encode = "<|im_start|>user\n{}<|im_end|>\n"
    with pytest.raises(UnsupportedPipelineError, match="a template with 34 tokens before the prompt, .* got 3;"):
        make_trainer(pipe)


@pytest.mark.parametrize("name", ["z_image", "flux2_klein", "flux2"])
def test_templates_take_room_from_the_description(name: str, unchanged: Callable[[Any], None]) -> None:
    """The longest description that is accepted fills the 512 tokens together with the template."""
    pipe = TRAINING_FAMILY[name].build()
    unchanged(pipe)

    def trainer(num_words: int) -> Any:
        concept = Concept(
            images=random_picture(),
            placeholder_token="<mug>",
            initializer=" ".join(["red"] * num_words),
            templates=["a photo of {}"],
        )
        return make_trainer(pipe, concepts=[concept])

    with pytest.raises(InitializerError, match=r"expected at most \d+ tokens beside the longest template") as error:
        trainer(512)
    room = int(re.findall(r"at most (\d+)", str(error.value))[0])
    trainer(room)
    backbone: Any = backbone_for(pipe)
    written = backbone.written("a photo of" + " red" * room)
    ids = find_text_pairs(pipe)[0].tokenizer(written, add_special_tokens=False).input_ids
    assert 508 < len(ids) <= 512  # a space may be counted twice


def test_a_token_that_the_pipeline_would_clean_away_is_warned_of() -> None:
    with pytest.warns(SupremeInitWarning, match=r"<mug>: PixArtSigmaPipeline changes or removes it .*clean_caption"):
        make_trainer(TRAINING_FAMILY["pixart_sigma"].build())
    make_trainer(TRAINING_FAMILY["pixart_sigma"].build(), token="%mug%")


# A family of one's own


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "BACKBONES", list(backbones.BACKBONES))


def test_documented_defaults_are_those_of_the_code() -> None:
    lines = []
    for backbone in backbones.BACKBONES:
        defaults = backbone.defaults
        for setting in ("learning_rate", "dtype", "guidance"):
            value, source = getattr(defaults, setting), getattr(defaults, f"{setting}_source")
            if value is not None:
                lines.append(f"| `{backbone.pipeline_classes[0].__name__}` | `{setting}` | {value} | {source} |")
    assert "\n".join(lines) in (ROOT / "docs" / "backbones.md").read_text()


@pytest.mark.usefixtures("_registry")
def test_what_is_no_backbone_is_not_registered() -> None:
    class Unfinished(backbones.FlowBackbone):
        pipeline_classes = (FAMILY["wan"].pipeline_class,)

    class Taken(backbones.FluxBackbone):
        pipeline_classes = (FAMILY["flux"].pipeline_class,)

    for wrong, message in (
        (dict, "expected a subclass of Backbone with pipeline_classes, got <class 'dict'>"),
        (backbones.FlowBackbone, "expected a subclass of Backbone with pipeline_classes"),
        (Unfinished, "Unfinished lacks encode_prompts, predict"),
        (Taken, "expected new pipeline classes, got FluxPipeline of FluxBackbone"),
    ):
        with pytest.raises(ConfigError, match=message):
            backbones.register_backbone(wrong)
    assert backbones.register_backbone(backbones.FluxBackbone) is backbones.FluxBackbone  # again: harmless


def test_a_shared_tokenizer_of_which_only_one_encoder_learns_is_refused() -> None:
    pipe = TRAINING_FAMILY["stable_diffusion_xl"].build()
    pipe.register_modules(tokenizer_2=pipe.tokenizer)
    with pytest.raises(ConfigError, match="shares its tokenizer object"):
        make_trainer(pipe, train_text_encoders=["text_encoder_2"])
    pipe.register_modules(tokenizer_2=copy.deepcopy(pipe.tokenizer))
    make_trainer(pipe, train_text_encoders=["text_encoder_2"])
