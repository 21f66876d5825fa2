"""What a step looks at: each draw is what its setting says, and a function of what it is for."""

import dataclasses
from typing import Any

import pytest
import torch
from conftest import build_tiny_pipeline, random_picture
from training_families import TRAINING_FAMILY

from diffusers_supreme_init import Concept, SupremeInitConfig
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.objective.draws import DenoisingSample, draw_training_sample, draw_validation_sample
from diffusers_supreme_init.objective.latents import PictureLatents, encode_concept
from diffusers_supreme_init.objective.losses import denoising_losses, fixed_noise_losses
from diffusers_supreme_init.pictures import TrainingPictures, fit_to_square, to_pixel_values
from diffusers_supreme_init.templates import OBJECT_TEMPLATES, STYLE_TEMPLATES
from diffusers_supreme_init.training.preparation import training_templates

CPU = torch.device("cpu")

both_draws = pytest.mark.parametrize("draws", ["antithetic", "independent"])


@dataclasses.dataclass(frozen=True)
class FakeConcept:
    """Latents that say which picture they are of, and which way round."""

    latents: PictureLatents
    random_key: str = "<mug>"
    prompts: tuple[str, ...] = ("a photo of red mug", "the red mug", "a red mug on grass")
    validation_prompt: str = "a photo of a red mug"


def latents_of(num_pictures: int, *, masked: bool = False) -> PictureLatents:
    number = torch.arange(num_pictures * 2.0).view(num_pictures, 2, 1, 1, 1)
    mean = number.expand(-1, -1, 4, 8, 8).clone()
    mask = torch.ones(num_pictures, 2, 1, 8, 8) * (number + 1) if masked else None
    return PictureLatents(mean, torch.full_like(mean, 0.01), mask, torch.arange(num_pictures * 6.0).view(-1, 6))


@pytest.fixture(scope="module")
def backbone() -> Any:
    return backbone_for(build_tiny_pipeline())


def samples_of(backbone: Any, concept: FakeConcept, number: int = 200, **settings: Any) -> list[DenoisingSample]:
    config = SupremeInitConfig(**settings)
    return [
        draw_training_sample(backbone, concept, step, index, config)
        for step in range(number // config.samples_per_step)
        for index in range(config.samples_per_step)
    ]


def largest_gap(timesteps: list[float], backbone: Any, size: tuple[int, int]) -> float:
    """Return the Kolmogorov-Smirnov distance of timesteps from the backbone's density, over 200 of its quantiles."""
    quantiles = torch.arange(1, 200).double() / 200
    borders = torch.tensor([float(backbone.timestep_at(float(one), size)) for one in quantiles])
    share_below = (torch.tensor(timesteps).double()[:, None] < borders[None]).double().mean(dim=0)
    return float((share_below - quantiles).abs().max())


def picture_of(sample: DenoisingSample) -> tuple[int, int]:
    """Return picture number and whether it is mirrored."""
    number = round(float(sample.latents.mean()))
    return number // 2, number % 2


@both_draws
def test_draws_are_a_function_of_what_they_are_for(backbone: Any, draws: str) -> None:
    concept = FakeConcept(latents_of(3))
    config = SupremeInitConfig(draws=draws)
    plain = draw_training_sample(backbone, concept, 2, 1, config)
    again = draw_training_sample(backbone, concept, 2, 1, config)
    assert torch.equal(plain.noise, again.noise)
    assert plain.timestep == again.timestep
    others = [
        draw_training_sample(backbone, concept, 3, 1, config),
        draw_training_sample(backbone, concept, 2, 2, dataclasses.replace(config, train_batch_size=4)),
        draw_training_sample(backbone, concept, 2, 1, dataclasses.replace(config, seed=1)),
        draw_training_sample(backbone, dataclasses.replace(concept, random_key="<cat>"), 2, 1, config),
    ]
    for other in others:
        assert not torch.allclose(plain.noise.abs(), other.noise.abs(), atol=1e-2)
        assert plain.timestep != other.timestep
    for one in (plain, *others):  # noise and the latents' own are drawn apart
        own = (one.latents - one.latents.mean().round()) / 0.01
        assert not torch.allclose(own.abs(), one.noise.abs(), atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "pairs", "singles"),
    [
        ({"train_batch_size": 4}, 2, 0),
        ({}, 1, 0),
        ({"train_batch_size": 5}, 2, 1),
        ({"train_batch_size": 3, "gradient_accumulation_steps": 2}, 3, 0),
        ({"train_batch_size": 1, "gradient_accumulation_steps": 3}, 1, 1),
        ({"train_batch_size": 1}, 0, 1),
    ],
)
def test_a_step_is_made_of_antithetic_pairs_at_evenly_spread_timesteps(
    backbone: Any, settings: dict[str, int], pairs: int, singles: int
) -> None:
    """Each pair has a stratum of its own; a last single sample has one that is half as wide."""
    config = SupremeInitConfig(**settings)
    width = 2 * backbone.num_train_timesteps / config.samples_per_step
    concept = FakeConcept(latents_of(3, masked=True))
    for step in range(20):
        samples = [
            draw_training_sample(backbone, concept, step, index, config) for index in range(config.samples_per_step)
        ]
        assert len(samples) == 2 * pairs + singles
        for pair in range(pairs):
            one, other = samples[2 * pair : 2 * pair + 2]
            assert torch.equal(one.noise, -other.noise)
            for name in ("timestep", "prompt"):
                assert getattr(one, name) == getattr(other, name)
            for name in ("latents", "mask", "geometry"):
                assert torch.equal(getattr(one, name), getattr(other, name))
        for number, one in enumerate(samples[::2]):
            share = width if number < pairs else width / 2
            assert number * width - 1 <= one.timestep <= number * width + share
        for index, one in enumerate(samples[::2]):
            for later in samples[::2][index + 1 :]:
                assert not torch.allclose(one.noise.abs(), later.noise.abs(), atol=1e-2)


def test_timesteps_of_successive_steps_are_spread_evenly_too(backbone: Any) -> None:
    """Ten steps of two pairs divide the timesteps more evenly than twenty draws by themselves do."""
    concept = FakeConcept(latents_of(1))

    def largest_hole(draws: str, seed: int) -> float:
        config = SupremeInitConfig(draws=draws, seed=seed, train_batch_size=4)
        drawn = [draw_training_sample(backbone, concept, step, i, config) for step in range(10) for i in (0, 2)]
        timesteps = torch.tensor([0.0, *(float(one.timestep) for one in drawn), 1000.0]).sort().values
        return float(timesteps.diff().max())

    for seed in range(5):
        assert largest_hole("antithetic", seed) < 100 < largest_hole("independent", seed)


@pytest.mark.long
@both_draws
@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux_dev", "sana"])
def test_timesteps_keep_the_density_of_the_family(name: str, draws: str) -> None:
    """Over steps, with an odd batch, and in the first step over seeds; beyond 1.63 / sqrt(n) once in a hundred."""
    backbone, concept = backbone_for(TRAINING_FAMILY[name].build()), FakeConcept(latents_of(1))
    config = SupremeInitConfig(draws=draws, train_batch_size=3)
    places = [(step, index, config) for step in range(3000) for index in range(3)]
    places += [(0, seed % 3, dataclasses.replace(config, seed=seed)) for seed in range(1000)]
    timesteps = [
        float(draw_training_sample(backbone, concept, step, index, one).timestep) for step, index, one in places
    ]
    assert largest_gap(timesteps[:9000], backbone, (8, 8)) < 1.63 / 9000**0.5
    assert largest_gap(timesteps[9000:], backbone, (8, 8)) < 1.63 / 1000**0.5


@both_draws
def test_every_picture_template_and_timestep_is_drawn_alike_often(backbone: Any, draws: str) -> None:
    concept = FakeConcept(latents_of(3))
    samples = samples_of(backbone, concept, 600, draws=draws)
    for count in torch.bincount(torch.tensor([picture_of(one)[0] for one in samples])):
        assert 150 < count < 250
    for prompt in concept.prompts:
        assert 150 < sum(one.prompt == prompt for one in samples) < 250
    timesteps = torch.tensor([float(one.timestep) for one in samples])
    assert 0 <= timesteps.min() < 20
    assert 980 < timesteps.max() <= 999
    assert 450 < timesteps.mean() < 550
    noise = torch.stack([one.noise for one in samples])
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


@pytest.mark.parametrize(
    ("probability", "low", "high"), [(0.0, 0, 0), (0.25, 30, 75), (0.5, 75, 125), (1.0, 200, 200)]
)
def test_flips_are_as_probable_as_asked_for(backbone: Any, probability: float, low: int, high: int) -> None:
    samples = samples_of(backbone, FakeConcept(latents_of(1)), flip_probability=probability)
    assert low <= sum(picture_of(one)[1] for one in samples) <= high


def test_latents_mask_and_geometry_are_of_one_picture(backbone: Any) -> None:
    latents = latents_of(3, masked=True)
    for one in samples_of(backbone, FakeConcept(latents), 40):
        picture, mirrored = picture_of(one)
        assert torch.equal(one.mask, latents.mask[picture, mirrored])
        assert torch.equal(one.geometry, latents.geometry[picture])
        spread = ((one.latents - latents.mean[picture, mirrored]) / 0.01).std()
        assert 0.8 < spread < 1.2  # drawn from the posterior


def test_validation_samples_are_the_same_for_every_concept_and_step(backbone: Any) -> None:
    config = SupremeInitConfig(validation_samples=6)
    latents = latents_of(2, masked=True)
    ours = [draw_validation_sample(backbone, FakeConcept(latents), index, config) for index in range(6)]
    theirs = [draw_validation_sample(backbone, FakeConcept(latents, "<cat>"), index, config) for index in range(6)]
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.equal(one.noise, other.noise)
        assert one.timestep == other.timestep
        picture = index // 2 % 2
        assert torch.equal(one.latents, latents.mean[picture, 0])  # the posterior's mean, never mirrored
        assert torch.equal(one.mask, latents.mask[picture, 0])
        assert torch.equal(one.geometry, latents.geometry[picture])
    assert all(torch.equal(one.noise, -other.noise) for one, other in zip(ours[::2], ours[1::2], strict=True))
    assert [one.timestep for one in ours] == [166, 166, 500, 500, 833, 833]
    seeded = draw_validation_sample(backbone, FakeConcept(latents), 0, SupremeInitConfig(seed=1))
    assert not torch.equal(seeded.noise, ours[0].noise)


def test_fixed_noise_losses_do_not_depend_on_the_batch(backbone: Any) -> None:
    concept = FakeConcept(latents_of(2))
    config = SupremeInitConfig(validation_samples=11)
    whole = fixed_noise_losses(backbone, concept, config, CPU)
    parts = fixed_noise_losses(backbone, concept, dataclasses.replace(config, max_forward_batch_size=3), CPU)
    assert len(whole) == 11
    assert parts == pytest.approx(whole, rel=1e-5)
    alone = [
        float(denoising_losses(backbone, [draw_validation_sample(backbone, concept, index, config)], CPU).detach())
        for index in range(11)
    ]
    assert alone == pytest.approx(whole, rel=1e-5)


def test_a_mask_weights_the_loss_of_its_own_sample_only(backbone: Any) -> None:
    config = SupremeInitConfig()
    plain = [draw_training_sample(backbone, FakeConcept(latents_of(1)), 0, index, config) for index in range(2)]
    half = torch.zeros(1, 8, 8)
    half[..., :4] = 0.5  # only the ratio of weights counts
    with torch.no_grad():
        whole = denoising_losses(backbone, plain, CPU)
        mixed = denoising_losses(backbone, [dataclasses.replace(plain[0], mask=half), plain[1]], CPU)
        other = denoising_losses(backbone, [dataclasses.replace(plain[0], mask=0.5 - half), plain[1]], CPU)
    assert torch.allclose(mixed[1], whole[1])
    assert torch.allclose((mixed[0] + other[0]) / 2, whole[0], rtol=1e-5)
    assert abs(float(mixed[0] - other[0])) > 1e-3


def test_snr_gamma_multiplies_each_loss_by_its_weight(backbone: Any) -> None:
    config = SupremeInitConfig()
    samples = [draw_training_sample(backbone, FakeConcept(latents_of(1)), 0, index, config) for index in range(6)]
    with torch.no_grad():
        plain = denoising_losses(backbone, samples, CPU)
        weighted = denoising_losses(backbone, samples, CPU, snr_gamma=0.5)
    timesteps = torch.tensor([one.timestep for one in samples])
    weights = backbone.min_snr_weights(timesteps, 0.5)
    torch.testing.assert_close(weighted / plain, weights.to(plain))
    assert weights.min() < 0.9


@pytest.mark.parametrize(("resolution", "center_crop"), [(None, True), (None, False), (16, True)])
def test_pictures_are_scaled_and_cropped_as_asked_for(
    backbone: Any, resolution: int | None, center_crop: bool
) -> None:
    picture, side = random_picture((48, 32)), resolution or 32
    config = SupremeInitConfig(resolution=resolution, center_crop=center_crop)
    latents = encode_concept(backbone, TrainingPictures([picture], None, masked=False), config)
    assert latents.mean.shape == (1, 2, 4, side // 4, side // 4)
    pixels = to_pixel_values(fit_to_square(picture, side, center_crop=center_crop))
    for index, one in enumerate((pixels, pixels.flip(-1))):
        expected = backbone.encode_pictures(one[None])
        torch.testing.assert_close(latents.mean[0, index], expected.mean[0])
        torch.testing.assert_close(latents.std[0, index], expected.std[0])
    left = (48 - 32) // 2 * side // 32 if center_crop else 0
    height, width, *_ = latents.geometry[0].tolist()
    assert (height, width) == (32, 48)
    assert latents.geometry[0, 3] == left


@pytest.mark.parametrize(("kind", "templates"), [("object", OBJECT_TEMPLATES), ("style", STYLE_TEMPLATES)])
def test_the_property_chooses_the_templates(kind: str, templates: tuple[str, ...]) -> None:
    concept = Concept(images=random_picture(), placeholder_token="<mug>", initializer="a red mug")
    assert training_templates(concept, SupremeInitConfig(learnable_property=kind)) == templates
