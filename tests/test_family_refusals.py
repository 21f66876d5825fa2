"""What no family can be trained with, and families of one's own: the reasons are said."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import ROOT, random_picture
from family_runs import make_trainer
from tiny.every_family import FAMILY
from training_families import TRAINING_FAMILY

from diffusers_supreme_init import (
    Concept,
    ConfigError,
    InitializerError,
    SupremeInitWarning,
    UnsupportedPipelineError,
    backbones,
)
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.backbones.stable_diffusion_3 import StableDiffusion3Backbone
from diffusers_supreme_init.text.text_pairs import find_text_pairs

pytestmark = pytest.mark.filterwarnings("ignore:.* when it cleans prompts")


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


@pytest.mark.parametrize("name", ["lumina", "wan", "hidream"])
def test_other_pipelines_are_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(UnsupportedPipelineError, match=r"StableDiffusionXLPipeline.*SanaPipeline.*register_backbone"):
        make_trainer(FAMILY[name].build())


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
