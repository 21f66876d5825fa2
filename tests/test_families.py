"""The guarantees of training, on every family: what starts equal, what moves, what is minimised."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_same, random_picture, snapshot_of
from diffusers import FlowMatchEulerDiscreteScheduler
from family_runs import (
    CAPTION,
    SIDE,
    conditioning,
    each_family,
    each_family_in_turn,
    each_family_with,
    make_trainer,
    random_latents,
)
from tiny.families import run
from tiny.text import seeded
from training_families import TRAINING_FAMILIES, TRAINING_FAMILY, TrainingFamily, side_of

from diffusers_supreme_init import Concept
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.objective.draws import DenoisingSample
from diffusers_supreme_init.objective.losses import denoising_losses
from diffusers_supreme_init.text.text_pairs import find_text_pairs

pytestmark = pytest.mark.filterwarnings("ignore:.* when it cleans prompts")

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
        pytest.param("hunyuan_dit", ["text_encoder_2"], id="t5-of-hunyuan"),
        pytest.param("hunyuan_dit", ["text_encoder", "text_encoder_2"], id="both-of-hunyuan"),
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


@each_family_in_turn("stable_diffusion_xl", "flux_schnell", "qwen_image", "hunyuan_dit")
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


class DrawingError(Exception):
    """Raised where a pipeline calls its denoiser for the first time."""


SHIFTED_ALIKE_FOR_ALL_SIZES = ("ernie_image", "aura_flow", "lumina2")  # Lumina 2 counts channels, not tokens
FLOW_CASES = [
    (case.name, dynamic)
    for case in TRAINING_FAMILIES
    if case.is_flow and case.name not in ("sana", "ideogram4")  # another scheduler, see above; one without a shift
    for dynamic in (False, True)
    if not (dynamic and case.name in SHIFTED_ALIKE_FOR_ALL_SIZES)
]


@pytest.mark.parametrize(("name", "dynamic"), [*FLOW_CASES, ("ideogram4", None)])
def test_flow_timesteps_are_shifted_as_the_pipeline_shifts_those_of_a_drawing(name: str, dynamic: bool | None) -> None:
    """Quantiles of the density at even distances are the noise levels of 50 steps, but for the logit-normal."""
    case = TRAINING_FAMILY[name]
    pipe = case.build()
    if dynamic is not None:
        options = {"shift": 3.0, "use_dynamic_shifting": dynamic}
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **options)
    backbone: Any = backbone_for(pipe)

    def draw(*args: Any, **options: Any) -> None:
        raise DrawingError

    backbone.denoiser.forward = draw
    with pytest.raises(DrawingError):
        run(case.family, pipe, "a dog", num_inference_steps=50)
    got = pipe.scheduler.sigmas[:-1].double()
    pictures = torch.zeros(1, 3, case.family.call["height"], case.family.call["width"])
    size = tuple(backbone.encode_pictures(pictures).mean.shape[-2:])
    differences = []
    for last in (1 / 50, 1 / 1000):  # of the even distances; pipelines and schedulers have one or the other
        even = torch.linspace(1, last, 50, dtype=torch.float64)
        if name == "ideogram4":  # whose steps are quantiles of the density itself
            expected = torch.tensor([backbone.timestep_at(float(one), size) for one in even]) / 1000
        else:
            expected = torch.sigmoid(torch.logit(even) + backbone.log_shift(size))
        differences.append(float((got - expected).abs().max()))
    # Stable Diffusion 3's scheduler shifts its last level twice. A shift that is wrong by .05 makes .012.
    assert min(differences) < 0.007


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


# Options on each family
