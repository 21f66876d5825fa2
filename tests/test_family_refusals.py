"""What no family can be trained with, and families of one's own: the reasons are said."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import disk_offload
from conftest import ROOT, random_picture
from family_runs import each_family_in_turn, make_trainer
from tiny.every_family import FAMILY
from training_families import TRAINING_FAMILY, TrainingFamily

from diffusers_supreme_init import (
    Concept,
    ConfigError,
    InitializerError,
    PlaceholderTokenError,
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


@each_family_in_turn("stable_diffusion_xl", "z_image", "qwen_image21")
def test_pipelines_that_lack_a_part_are_refused(case: TrainingFamily) -> None:
    """Also a text encoder without the tokenizer that it needs."""
    pipe = case.build()
    for component in backbone_for(pipe).required:
        part = getattr(pipe, component)
        pipe.register_modules(**{component: None})
        with pytest.raises(UnsupportedPipelineError, match=f"got one without {component}"):
            make_trainer(pipe)
        pipe.register_modules(**{component: part})
    make_trainer(pipe)


def test_a_t5_without_its_tokenizer_is_refused() -> None:
    """Stable Diffusion 3 works without both."""
    pipe = TRAINING_FAMILY["stable_diffusion_3"].build()
    pipe.register_modules(tokenizer_3=None)
    message = "text_encoder_3: expected a text encoder .* with its tokenizer, got T5EncoderModel with no tokenizer_3"
    with pytest.raises(UnsupportedPipelineError, match=message):
        make_trainer(pipe)


@each_family_in_turn("stable_diffusion", "z_image")
def test_text_encoders_that_are_offloaded_to_disk_are_refused(case: TrainingFamily, tmp_path: Path) -> None:
    for name in case.trained:
        pipe = case.build()
        disk_offload(getattr(pipe, name), tmp_path / name, execution_device=torch.device("cpu"))
        with pytest.raises(UnsupportedPipelineError, match=f"{name}: expected a pipeline without offloading hooks"):
            make_trainer(pipe)


@each_family_in_turn("stable_diffusion_3", "z_image")
def test_placeholder_tokens_that_a_vocabulary_has_already_are_refused(
    case: TrainingFamily, unchanged: Callable[[Any], None]
) -> None:
    """Special tokens and added ones, also of a text encoder that is not trained."""
    pipe = case.build()
    pairs = find_text_pairs(pipe)
    pairs[-1].tokenizer.add_tokens(["<mug>"])
    unchanged(pipe)
    with pytest.raises(PlaceholderTokenError, match="<mug>' was added to the tokenizer by somebody else"):
        make_trainer(pipe)
    for pair in pairs:
        own = sorted({*pair.tokenizer.all_special_tokens, *pair.tokenizer.get_added_vocab()} - {"<mug>"})
        for token in own[:: 1 + len(own) // 10]:  # T5 has a hundred
            with pytest.raises(PlaceholderTokenError, match=re.escape(repr(token))):
                make_trainer(pipe, token=token)


@each_family_in_turn("qwen_image")
def test_descriptions_with_special_tokens_are_refused(case: TrainingFamily) -> None:
    pipe = case.build()
    tokenizer = find_text_pairs(pipe)[0].tokenizer
    words = f"a red mug{tokenizer.eos_token or tokenizer.sep_token}"
    ids = tokenizer(words, add_special_tokens=False).input_ids
    if case.name == "kolors":  # whose tokenizer reads the letters
        assert tokenizer.eos_token_id not in ids
        make_trainer(pipe, initializer=words)
    else:
        with pytest.raises(InitializerError, match="special tokens"):
            make_trainer(pipe, initializer=words)


@each_family_in_turn("z_image", "pixart_sigma")
def test_tokens_that_a_user_added_keep_their_ids_beside_a_concept(case: TrainingFamily) -> None:
    """More of them than the embedding matrix has rows to spare: it grows, and none of them is a row of the concept."""
    pipe = case.build()
    added = [f"<extra-{number}>" for number in range(120)]
    chosen = [pair for pair in find_text_pairs(pipe) if pair.encoder_name in case.trained]
    ids = {}
    for pair in chosen:
        pair.tokenizer.add_tokens(added)
        ids[pair.encoder_name] = pair.tokenizer.convert_tokens_to_ids(added)
    make_trainer(pipe).train()
    for pair in find_text_pairs(pipe):
        if pair.encoder_name in case.trained:
            assert pair.tokenizer.convert_tokens_to_ids(added) == ids[pair.encoder_name]
            assert not set(ids[pair.encoder_name]) & set(pair.row_ids("<mug>"))
            assert len(pair.embedding.weight) > max(pair.row_ids("<mug>"))


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


@pytest.mark.parametrize("name", ["z_image", "flux2_klein", "flux2", "ideogram4"])
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


@pytest.mark.parametrize(
    ("name", "attribute"), [("qwen_image", "prompt_template_encode"), ("qwen_image21", "prompt_template_t2i")]
)
def test_templates_of_pipelines_that_lose_the_prompt_are_refused(name: str, attribute: str) -> None:
    pipe = TRAINING_FAMILY[name].build()
    setattr(pipe, attribute, "Draw what you like.")
    with pytest.raises(UnsupportedPipelineError, match=r"that holds the prompt .* 'Draw what you like\.' for"):
        make_trainer(pipe)


@pytest.mark.parametrize(
    ("name", "attribute", "template"),
    [
        ("qwen_image", "prompt_template_encode", "<|im_start|>user\n{}<|im_end|>\n"),
        ("krea2", "prompt_template_encode_prefix", "<|im_start|>user\n"),
    ],
)
def test_a_template_that_is_not_the_one_that_is_cut_off_is_refused(name: str, attribute: str, template: str) -> None:
    pipe = TRAINING_FAMILY[name].build()
    setattr(pipe, attribute, template)
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
