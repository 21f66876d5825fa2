"""Pipelines for other tasks with the parts of a family: trainers are made from them, and rows load into them."""

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AuraFlowPipeline,
    ChromaImg2ImgPipeline,
    ChromaPipeline,
    CogView4ControlPipeline,
    CogView4Pipeline,
    ErnieImagePipeline,
    Flux2KleinInpaintPipeline,
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    HiDreamImagePipeline,
    HunyuanDiTPAGPipeline,
    HunyuanDiTPipeline,
    Ideogram4Pipeline,
    KolorsImg2ImgPipeline,
    KolorsPipeline,
    Krea2Pipeline,
    LatentConsistencyModelImg2ImgPipeline,
    LatentConsistencyModelPipeline,
    Lumina2Pipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPAGPipeline,
    PixArtSigmaPipeline,
    QwenImage21Pipeline,
    QwenImageEditPipeline,
    QwenImageInpaintPipeline,
    QwenImagePipeline,
    SanaPAGPipeline,
    SanaPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    ZImageInpaintPipeline,
    ZImagePipeline,
)
from family_runs import CAPTION, make_trainer
from inventory.siblings import LOADED_ONLY, siblings_of
from inventory.text_halves import SPECIAL, Special, TextHalf, are_equal
from PIL import Image
from tiny.families import run
from tiny.other_tasks import for_another_task, takes_several
from tiny.text import seeded
from training_families import TRAINING_FAMILIES, TRAINING_FAMILY, TrainingFamily, side_of

from diffusers_supreme_init import UnsupportedPipelineError
from diffusers_supreme_init.backbones import BACKBONES, backbone_for
from diffusers_supreme_init.backbones.text_to_image import without_motion
from diffusers_supreme_init.text.text_pairs import find_text_pairs

pytestmark = pytest.mark.filterwarnings("ignore:.* when it cleans prompts")

CASE_OF = {case.family.pipeline_class: case for case in reversed(TRAINING_FAMILIES)}
"""The first case of each family, by the class of its text-to-image pipeline."""

FAST = {
    "StableDiffusionInpaintPipeline",
    "StableDiffusionControlNetPipeline",
    "AnimateDiffPipeline",
    "ZImageInpaintPipeline",
}
"""Classes that `make test` tries; the others take their turn in `make test-slow`."""


def each(pairs: list[tuple[TrainingFamily, Any]]) -> list[Any]:
    """Return parameters of a case and a class each, perhaps with a suffix of their name."""
    made = []
    for case, cls in pairs:
        marks = [] if cls.__name__ in FAST else pytest.mark.slow
        made.append(pytest.param(case, cls, id=f"{case.name}-{cls.__name__}", marks=marks))
    return made


OTHER_TASKS = [(CASE_OF[one.pipeline_classes[0]], cls) for one in BACKBONES for cls in one.pipeline_classes[1:]]
SIBLINGS = [(case, cls) for base, case in CASE_OF.items() for cls in siblings_of(base)]


@pytest.mark.parametrize("base", CASE_OF, ids=lambda base: base.__name__)
def test_every_pipeline_of_the_same_parts_is_known(base: type) -> None:
    """Fails when diffusers gets a pipeline class of which nothing is said here."""
    known = {cls for one in BACKBONES for cls in one.pipeline_classes}
    new = {cls.__name__ for cls in siblings_of(base) if cls not in known}
    assert new <= LOADED_ONLY.keys()
    (own,) = (one.pipeline_classes for one in BACKBONES if one.pipeline_classes[0] is base)
    assert set(own[1:]) <= set(siblings_of(base))
    assert LOADED_ONLY.keys() <= {cls.__name__ for _, cls in SIBLINGS}
    assert (DRAWN[base] is None) == (not siblings_of(base))


# Trainers are made from them


@functools.cache
def learned_from_text_to_image(name: str) -> Any:
    (result,) = make_trainer(TRAINING_FAMILY[name].build(), validation_samples=2).train()
    return result


def learns_the_same(case: TrainingFamily, pipe: Any, unchanged: Callable[[Any], None]) -> None:
    expected = learned_from_text_to_image(case.name)
    backbone, side = backbone_for(pipe), side_of(pipe)
    assert type(backbone.drawing_pipe) is case.family.pipeline_class
    with torch.no_grad():  # the libraries leave marks on modules that were called
        backbone.encode_prompts(["a dog"])
        backbone.encode_pictures(torch.zeros(1, 3, side, side))
    unchanged(pipe)
    (result,) = make_trainer(pipe, validation_samples=2).train()
    for key in case.trained:
        assert torch.equal(result.rows[key], expected.rows[key])
    assert result.validation_losses == expected.validation_losses
    for pair in find_text_pairs(pipe):
        if pair.encoder_name in case.trained:
            assert torch.equal(pair.rows("<mug>"), result.rows[pair.encoder_name])
    pipe.unload_multitoken_inversion("<mug>")


@pytest.mark.parametrize(("case", "cls"), each(OTHER_TASKS))
def test_pipelines_for_other_tasks_train_as_text_to_image(
    case: TrainingFamily, cls: type, unchanged: Callable[[Any], None]
) -> None:
    """The rows are those that a text-to-image pipeline of the same parts learns, and the user's own holds them."""
    learns_the_same(case, for_another_task(cls, case.build()), unchanged)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "cls"), each([pair for pair in OTHER_TASKS if takes_several(pair[1])]))
def test_several_controlnets_or_adapters_change_nothing(
    case: TrainingFamily, cls: type, unchanged: Callable[[Any], None]
) -> None:
    learns_the_same(case, for_another_task(cls, case.build(), several=True), unchanged)


def test_animate_diff_without_motion_is_the_unet_it_was_made_of() -> None:
    pipe = CASE_OF[BACKBONES[0].pipeline_classes[0]].build()
    plain, taken = pipe.unet, without_motion(for_another_task(AnimateDiffPipeline, pipe).unet)
    assert {key: value for key, value in taken.config.items() if key[0] != "_"} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in plain.config.items() if key[0] != "_"
    }
    noisy, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, plain.config.cross_attention_dim)
    with torch.no_grad():
        assert torch.equal(taken(noisy, 10, context).sample, plain(noisy, 10, context).sample)


# Refusals say the reason

WIDER: Mapping[str, Callable[[int], int]] = {
    "StableDiffusionInpaintPipeline": lambda channels: 2 * channels + 1,
    "StableDiffusionDepth2ImgPipeline": lambda channels: channels + 1,
    "StableDiffusionInstructPix2PixPipeline": lambda channels: 2 * channels,
    "StableDiffusionLatentUpscalePipeline": lambda channels: 2 * channels,
    "StableDiffusionXLInpaintPipeline": lambda channels: 2 * channels + 1,
    "StableDiffusionXLInstructPix2PixPipeline": lambda channels: 2 * channels,
    "FluxControlPipeline": lambda channels: 2 * channels,
    "FluxControlImg2ImgPipeline": lambda channels: 2 * channels,
    "FluxControlInpaintPipeline": lambda channels: 2 * channels,
    "FluxFillPipeline": lambda channels: 6 * channels,
    "CogView4ControlPipeline": lambda channels: 2 * channels,
}
"""How many channels the denoiser reads that was published for a class, given those of a text-to-image one."""


def refused(case: TrainingFamily, cls: type, message: str, **changes: Any) -> None:
    pipe = case.build()
    name = "unet" if "unet" in pipe.components else "transformer"
    denoiser = getattr(pipe, name)
    changed = type(denoiser).from_config(denoiser.config, **changes)
    with pytest.raises(UnsupportedPipelineError, match=message):
        make_trainer(for_another_task(cls, pipe, **{name: changed}))


@pytest.mark.parametrize(
    ("case", "cls"), [pytest.param(*pair, id=pair[1].__name__) for pair in OTHER_TASKS if pair[1].__name__ in WIDER]
)
def test_denoisers_that_also_read_pictures_are_refused_with_the_reason(case: TrainingFamily, cls: type) -> None:
    pipe = case.build()
    config = (pipe.unet if "unet" in pipe.components else pipe.transformer).config
    channels = WIDER[cls.__name__](config.in_channels)
    message = rf"got {channels}: the others are a picture, mask .* load the concept into this"
    refused(case, cls, message, in_channels=channels, out_channels=config.in_channels)


@pytest.mark.parametrize("cls", [LatentConsistencyModelPipeline, LatentConsistencyModelImg2ImgPipeline])
def test_latent_consistency_models_are_refused_with_the_reason(cls: type) -> None:
    case = CASE_OF[StableDiffusionPipeline]
    refused(case, cls, "got a latent consistency model; train on its base", time_cond_proj_dim=8)


@pytest.mark.parametrize(
    ("case", "cls"),
    [pytest.param(*pair, id=pair[1].__name__) for pair in SIBLINGS if pair[1].__name__ in LOADED_ONLY],
)
def test_pipelines_that_only_load_are_refused_with_a_way_out(case: TrainingFamily, cls: type) -> None:
    with pytest.raises(UnsupportedPipelineError, match=f"got {cls.__name__}; rows trained on one of these load into"):
        make_trainer(for_another_task(cls, case.build()))


# Rows load into them


def redrawn(side: int = 16) -> dict[str, Any]:
    """Return arguments with which a picture is drawn anew, from pure noise."""
    picture = Image.new("RGB", (side, side), "red")
    return {"image": picture, "strength": 1.0, "num_inference_steps": 2}


def inpainted(side: int = 16) -> dict[str, Any]:
    """Return arguments with which the whole of a picture is drawn anew."""
    return redrawn(side) | {"mask_image": Image.new("L", (side, side), 255)}


SEVERAL_STEPS = {"num_inference_steps": 2}
DRAWN: dict[type, tuple[type, Mapping[str, Any]] | None] = {
    StableDiffusionPipeline: (StableDiffusionInpaintPipeline, inpainted()),
    StableDiffusionXLPipeline: (StableDiffusionXLInpaintPipeline, inpainted()),
    StableDiffusion3Pipeline: (StableDiffusion3Img2ImgPipeline, redrawn()),
    FluxPipeline: (FluxInpaintPipeline, inpainted()),
    PixArtSigmaPipeline: (PixArtSigmaPAGPipeline, SEVERAL_STEPS),
    SanaPipeline: (SanaPAGPipeline, SEVERAL_STEPS),
    ZImagePipeline: (ZImageInpaintPipeline, inpainted()),
    QwenImagePipeline: (QwenImageInpaintPipeline, inpainted()),
    QwenImage21Pipeline: None,
    Flux2Pipeline: None,
    Flux2KleinPipeline: (Flux2KleinInpaintPipeline, inpainted(8)),
    Krea2Pipeline: None,
    ErnieImagePipeline: None,
    Ideogram4Pipeline: None,
    ChromaPipeline: (ChromaImg2ImgPipeline, redrawn()),
    Lumina2Pipeline: None,
    PixArtAlphaPipeline: (PixArtSigmaPipeline, SEVERAL_STEPS),
    CogView4Pipeline: (CogView4ControlPipeline, {"control_image": Image.new("RGB", (16, 16), "red")}),
    KolorsPipeline: (KolorsImg2ImgPipeline, redrawn(8)),
    HiDreamImagePipeline: None,
    HunyuanDiTPipeline: (HunyuanDiTPAGPipeline, SEVERAL_STEPS),
    AuraFlowPipeline: None,
}
"""For each family another class that draws with its parts, and how it is called; None: diffusers has none."""

PROMPT = "a photo of <mug> on a wooden table"
WORDS = PROMPT.replace("<mug>", CAPTION)


@functools.cache
def trained(name: str) -> tuple[Any, Path]:
    """Return a pipeline on which a concept was trained, and the folder it was saved to."""
    pipe, folder = TRAINING_FAMILY[name].build(), Path(tempfile.mkdtemp())
    trainer = make_trainer(pipe, learning_rate=0.1)
    trainer.train()
    trainer.save(folder, sample_prompts=())
    return pipe, folder


def read_by(cls: type, pipe: Any) -> dict[str, Any]:
    """Return the parts that a class does not draw without."""
    if cls is not CogView4ControlPipeline:
        return {}
    plain = pipe.transformer
    sizes = {"in_channels": 2 * plain.config.in_channels, "out_channels": plain.config.in_channels}
    return {"transformer": seeded(lambda: type(plain).from_config(plain.config, **sizes), gain=2)}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(CASE_OF[base], id=CASE_OF[base].name, marks=[] if base is ZImagePipeline else pytest.mark.slow)
        for base, drawn in DRAWN.items()
        if drawn
    ],
)
def test_another_class_of_the_family_draws_the_same_picture(case: TrainingFamily) -> None:
    """The concept trained in a pipeline of the same parts, and loaded from its file into a fresh one."""
    cls, options = DRAWN[case.family.pipeline_class]
    pipe, folder = trained(case.name)
    held, fresh = (for_another_task(cls, one, **read_by(cls, one)) for one in (pipe, case.build()))

    def draw(one: Any, prompt: str) -> np.ndarray:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # CogView4 samples the latents of its control picture without the generator
            return run(case.family, one, prompt, **options)

    expected, words = draw(held, PROMPT), draw(fresh, WORDS)
    fresh.load_multitoken_inversion(folder)
    assert np.array_equal(draw(fresh, PROMPT), expected)
    assert not np.array_equal(expected, words)
    assert np.array_equal(draw(fresh, WORDS), words)


@pytest.mark.parametrize(("case", "cls"), each(SIBLINGS))
def test_rows_load_into_every_other_class_of_the_family(case: TrainingFamily, cls: type) -> None:
    """Each reads a prompt with the concept to the last bit as it does with the parts that were trained on."""
    edits = "QwenImageEditInpaintPipeline" if cls is QwenImageEditPipeline else cls.__name__
    half = TextHalf(cls, case.family, SPECIAL.get(edits, Special()))
    pipe, folder = trained(case.name)
    held, fresh = (for_another_task(cls, one, **half.special.parts()) for one in (pipe, case.build()))
    fresh.load_multitoken_inversion(folder)
    for name, value in half.special.state.items():
        setattr(held, name, value)
        setattr(fresh, name, value)
    expected, words = half.encode(held, PROMPT), half.encode(fresh, WORDS)
    assert are_equal(half.encode(fresh, PROMPT), expected)
    assert not are_equal(expected, words)


DRAWN_BY_HANDS = [
    (StableDiffusionInpaintPipeline, inpainted()),
    (StableDiffusionControlNetPipeline, {"image": Image.new("RGB", (16, 16), "red")}),
    (AnimateDiffPipeline, {"num_frames": 2}),
]


@pytest.mark.parametrize(("cls", "options"), DRAWN_BY_HANDS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_concept_is_drawn_by_the_pipeline_that_it_was_trained_with(
    cls: type, options: dict[str, Any], tmp_path: Path
) -> None:
    case = CASE_OF[StableDiffusionPipeline]

    def draw(pipe: Any, prompt: str) -> np.ndarray:
        return np.asarray(run(case.family, pipe, prompt, **options))

    pipe, fresh = (for_another_task(cls, case.build()) for _ in range(2))
    words = draw(pipe, WORDS)
    make_trainer(pipe, max_train_steps=0).train()
    assert np.array_equal(draw(pipe, PROMPT), words)
    pipe.unload_multitoken_inversion("<mug>")
    trainer = make_trainer(pipe, learning_rate=0.1)
    trainer.train()
    trainer.save(tmp_path, sample_prompts=["a photo of a {}"])  # drawn from a prompt alone
    fresh.load_multitoken_inversion(tmp_path)
    assert np.array_equal(draw(pipe, PROMPT), draw(fresh, PROMPT))
    assert not np.array_equal(draw(pipe, PROMPT), words)
