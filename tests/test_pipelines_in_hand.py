"""Trainers made from what users have in hand: pipelines for other tasks, adapters, checkpoint files."""

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import disk_offload
from diffusers import (
    AnimateDiffPipeline,
    ControlNetModel,
    Flux2KleinInpaintPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxInpaintPipeline,
    MotionAdapter,
    QwenImageInpaintPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLInpaintPipeline,
    T2IAdapter,
    UNet2DConditionModel,
    ZImageInpaintPipeline,
)
from peft import LoraConfig
from PIL import Image
from safetensors.torch import save_file
from test_families import CAPTION, make_trainer
from test_quantised import load_quantised
from tiny.families import run
from tiny.text import seeded
from training_families import TRAINING_FAMILY, side_of

from diffusers_supreme_init import (
    CheckpointError,
    InitializerError,
    PlaceholderTokenError,
    SupremeInitConfig,
    UnsupportedPipelineError,
)
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.backbones.text_to_image import without_motion
from diffusers_supreme_init.catalogue.facts import digest_of
from diffusers_supreme_init.catalogue.model_facts import facts_of_run
from diffusers_supreme_init.text.text_pairs import find_text_pairs

PICTURE = Image.new("RGB", (16, 16), "red")
SMALL = {"num_inference_steps": 2, "output_type": "np", "height": 16, "width": 16}


def parts_of(name: str) -> dict[str, Any]:
    return dict(TRAINING_FAMILY[name].build().components)


def other(name: str, pipeline_class: type, **more: Any) -> Any:
    """Return a pipeline of another class with the parts of a family's tiny one."""
    parts = parts_of(name) | more
    options = {"requires_safety_checker": False} if "safety_checker" in parts else {}
    known = inspect.signature(pipeline_class.__init__).parameters
    return pipeline_class(**{key: part for key, part in parts.items() if key in known}, **options)


def with_controlnet(name: str, pipeline_class: type, model: type, **options: Any) -> Any:
    parts = parts_of(name)
    if "unet" in parts:
        controlnet = model.from_unet(parts["unet"], **options)
    else:
        controlnet = model.from_transformer(parts["transformer"], **options)
    return other(name, pipeline_class, controlnet=controlnet)


def animate_diff() -> Any:
    parts = parts_of("stable_diffusion")
    adapter = seeded(
        lambda: MotionAdapter(
            block_out_channels=parts["unet"].config.block_out_channels,
            motion_layers_per_block=parts["unet"].config.layers_per_block,
            motion_norm_num_groups=2,
            motion_num_attention_heads=2,
        )
    )
    del parts["safety_checker"]
    return AnimateDiffPipeline(**parts, motion_adapter=adapter)


def t2i_adapter(name: str) -> Any:
    adapter = seeded(lambda: T2IAdapter(channels=(4, 8), num_res_blocks=1, downscale_factor=2))
    return other(name, StableDiffusionAdapterPipeline, adapter=adapter)


CONTROLNET = {"conditioning_embedding_out_channels": (4, 8)}
SD3_CONTROLNET = {"num_layers": 1, "load_weights_from_transformer": False}
_FLUX = parts_of("flux_schnell")["transformer"].config
FLUX_CONTROLNET = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": _FLUX.attention_head_dim,
    "num_attention_heads": _FLUX.num_attention_heads,
}
IN_HAND: dict[str, tuple[str, Callable[[str], Any]]] = {
    "inpaint": ("stable_diffusion", lambda name: other(name, StableDiffusionInpaintPipeline)),
    "pag": ("stable_diffusion", lambda name: other(name, StableDiffusionPAGPipeline)),
    "controlnet": (
        "stable_diffusion",
        lambda name: with_controlnet(name, StableDiffusionControlNetPipeline, ControlNetModel, **CONTROLNET),
    ),
    "animate_diff": ("stable_diffusion", lambda name: animate_diff()),
    "t2i_adapter": ("stable_diffusion", t2i_adapter),
    "inpaint_xl": ("stable_diffusion_xl", lambda name: other(name, StableDiffusionXLInpaintPipeline)),
    "controlnet_xl": (
        "stable_diffusion_xl",
        lambda name: with_controlnet(name, StableDiffusionXLControlNetPipeline, ControlNetModel, **CONTROLNET),
    ),
    "inpaint_3": ("stable_diffusion_3", lambda name: other(name, StableDiffusion3InpaintPipeline)),
    "controlnet_3": (
        "stable_diffusion_3",
        lambda name: with_controlnet(name, StableDiffusion3ControlNetPipeline, SD3ControlNetModel, **SD3_CONTROLNET),
    ),
    "inpaint_flux": ("flux_schnell", lambda name: other(name, FluxInpaintPipeline)),
    "controlnet_flux": (
        "flux_schnell",
        lambda name: with_controlnet(name, FluxControlNetPipeline, FluxControlNetModel, **FLUX_CONTROLNET),
    ),
    "inpaint_z_image": ("z_image", lambda name: other(name, ZImageInpaintPipeline)),
    "inpaint_qwen_image": ("qwen_image", lambda name: other(name, QwenImageInpaintPipeline)),
}


def in_turn(names: Iterable[str], *fast: str) -> list[Any]:
    """Return parameters of which `make test` tries some, and `make test-slow` all."""
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", in_turn(IN_HAND, "inpaint", "controlnet", "animate_diff", "inpaint_z_image"))
def test_pipelines_for_other_tasks_train_as_text_to_image(name: str, unchanged: Callable[[Any], None]) -> None:
    """The rows are those that a text-to-image pipeline of the same parts learns, and the user's own holds them."""
    family, build = IN_HAND[name]
    case = TRAINING_FAMILY[family]
    (expected,) = make_trainer(case.build(), validation_samples=2).train()
    pipe = build(family)
    backbone, side = backbone_for(pipe), side_of(pipe)
    with torch.no_grad():  # the libraries leave marks on modules that were called
        backbone.encode_prompts(["a dog"])
        backbone.encode_pictures(torch.zeros(1, 3, side, side))
    unchanged(pipe)
    (result,) = make_trainer(pipe, validation_samples=2).train()
    for key in case.trained:
        assert torch.equal(result.rows[key], expected.rows[key])
    assert result.validation_losses == expected.validation_losses
    assert len(pipe.tokenizer.tokenize("<mug>")) == len(result.rows["text_encoder"])
    pipe.unload_multitoken_inversion("<mug>")


DRAWN = {
    "inpaint": {**SMALL, "image": PICTURE, "mask_image": Image.new("L", (16, 16), 255)},
    "controlnet": {**SMALL, "image": PICTURE},
    "animate_diff": {**SMALL, "num_frames": 2},
}


@pytest.mark.parametrize("name", DRAWN)
def test_the_concept_is_drawn_by_the_users_own_pipeline(name: str, tmp_path: Path) -> None:
    def draw(pipe: Any, prompt: str) -> np.ndarray:
        pipe.set_progress_bar_config(disable=True)
        made = pipe(prompt=prompt, generator=torch.Generator().manual_seed(0), **DRAWN[name])
        return np.asarray(made[0])

    family, build = IN_HAND[name]
    pipe, fresh = build(family), build(family)
    words = draw(pipe, f"a photo of {CAPTION}")
    make_trainer(pipe, max_train_steps=0).train()
    assert np.array_equal(draw(pipe, "a photo of <mug>"), words)
    pipe.unload_multitoken_inversion("<mug>")
    trainer = make_trainer(pipe, learning_rate=0.1)
    trainer.train()
    trainer.save(tmp_path, sample_prompts=["a photo of a {}"])  # drawn from a prompt alone
    fresh.load_multitoken_inversion(tmp_path)
    assert np.array_equal(draw(pipe, "a photo of <mug>"), draw(fresh, "a photo of <mug>"))
    assert not np.array_equal(draw(pipe, "a photo of <mug>"), words)


def test_animate_diff_without_motion_is_the_unet_it_was_made_of() -> None:
    plain = TRAINING_FAMILY["stable_diffusion"].build().unet
    taken = without_motion(animate_diff().unet)
    assert {key: value for key, value in taken.config.items() if key[0] != "_"} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in plain.config.items() if key[0] != "_"
    }
    noisy, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, plain.config.cross_attention_dim)
    with torch.no_grad():
        assert torch.equal(taken(noisy, 10, context).sample, plain(noisy, 10, context).sample)


# Refusals say the reason


@pytest.mark.parametrize(
    ("family", "pipeline_class", "times"),
    [
        ("stable_diffusion", StableDiffusionInpaintPipeline, None),
        ("flux_schnell", FluxFillPipeline, 6),
        ("flux_schnell", FluxControlPipeline, 2),
    ],
)
def test_denoisers_that_also_read_pictures_are_refused_with_the_reason(
    family: str, pipeline_class: type, times: int | None
) -> None:
    parts = parts_of(family)
    name = "unet" if "unet" in parts else "transformer"
    channels = 9 if times is None else times * parts[name].config.in_channels
    options = {} if times is None else {"out_channels": parts[name].config.in_channels}
    wider = type(parts[name]).from_config(parts[name].config, in_channels=channels, **options)
    pipe = other(family, pipeline_class, **{name: wider})
    reason = rf"got {channels}: the others are a picture, mask .* load the concept into this"
    with pytest.raises(UnsupportedPipelineError, match=reason):
        make_trainer(pipe)


# Adapters


LORA = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=["to_q", "to_k", "q_proj", "v_proj"])


def test_a_lora_takes_part_in_training_and_is_named_on_the_card(
    tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    case = TRAINING_FAMILY["stable_diffusion"]
    (plain,) = make_trainer(case.build()).train()
    pipe = case.build()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe.unet.add_adapter(LORA, adapter_name="style")
        pipe.text_encoder.add_adapter(LORA, adapter_name="style")
    pipe.set_adapters("style", 0.5)
    run(case.family, pipe, "a dog")
    unchanged(pipe)
    words = run(case.family, pipe, f"a photo of {CAPTION}")
    make_trainer(pipe, max_train_steps=0).train()
    assert np.array_equal(run(case.family, pipe, "a photo of <mug>"), words)
    pipe.unload_multitoken_inversion("<mug>")
    trainer = make_trainer(pipe)
    (result,) = trainer.train()
    assert not torch.equal(result.rows["text_encoder"], plain.rows["text_encoder"])
    trainer.save(tmp_path, sample_prompts=())
    card = (tmp_path / "README.md").read_text()
    for component in ("unet", "text_encoder"):
        assert f"The LoRA `style` (weight 0.5) was loaded in `{component}` during training" in card
    pipe.unload_multitoken_inversion("<mug>")


@pytest.mark.parametrize(("seed", "weight", "what"), [(1, 0.5, "denoiser"), (0, 1.0, "loras"), (None, 0.5, "loras")])
def test_a_run_goes_on_with_its_own_loras_only(seed: int | None, weight: float, what: str, tmp_path: Path) -> None:
    def pipeline(seed: int | None, weight: float) -> Any:
        pipe = TRAINING_FAMILY["stable_diffusion"].build()
        if seed is not None:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                pipe.unet.add_adapter(LORA, adapter_name="style")
            pipe.set_adapters("style", weight)
        return pipe

    settings = {"output_dir": str(tmp_path), "checkpointing_steps": 1, "resume_from_checkpoint": "latest"}
    make_trainer(pipeline(0, 0.5), max_train_steps=1, **settings).train()
    with pytest.raises(CheckpointError, match=what):
        make_trainer(pipeline(seed, weight), max_train_steps=2, **settings).train()
    make_trainer(pipeline(0, 0.5), max_train_steps=2, **settings).train()


def test_a_catalogue_knows_rows_of_another_lora() -> None:
    pipe = TRAINING_FAMILY["stable_diffusion"].build()
    found = [digest_of(facts_of_run(backbone_for(pipe), SupremeInitConfig()))]
    pipe.unet.add_adapter(LORA, adapter_name="style")
    for weight in (0.5, 1.0):
        pipe.set_adapters("style", weight)
        found.append(digest_of(facts_of_run(backbone_for(pipe), SupremeInitConfig())))
    assert len(set(found)) == 3


def ip_adapter_weights(unet: UNet2DConditionModel) -> dict[str, Any]:
    """Return an IP-Adapter's weights as its files have them; one picture becomes four tokens."""
    width, attention = unet.config.cross_attention_dim, {}
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for index, name in enumerate(names):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        for kind in ("to_k_ip", "to_v_ip"):
            attention[f"{2 * index + 1}.{kind}.weight"] = torch.randn(layer.to_k.weight.shape)
    projection = {
        "proj.weight": torch.randn(4 * width, 8),
        "proj.bias": torch.randn(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    return {"image_proj": projection, "ip_adapter": attention}


def test_an_ip_adapter_is_set_aside_in_training_and_back_afterwards(
    tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    case = TRAINING_FAMILY["stable_diffusion"]
    (plain,) = make_trainer(case.build(), validation_samples=2).train()
    pipe = case.build()
    pipe.unet._load_ip_adapter_weights([ip_adapter_weights(pipe.unet)], low_cpu_mem_usage=False)
    with torch.no_grad():
        backbone_for(pipe).encode_prompts(["a dog"])
    unchanged(pipe)
    trainer = make_trainer(pipe, validation_samples=2)
    (result,) = trainer.train()
    assert torch.equal(result.rows["text_encoder"], plain.rows["text_encoder"])
    assert result.validation_losses == plain.validation_losses
    trainer.save(tmp_path, sample_prompts=["a photo of a {}"])
    assert "An IP-Adapter was loaded and set aside during training" in (tmp_path / "README.md").read_text()
    picture = [torch.randn(2, 1, 8)]
    run(case.family, pipe, "a photo of <mug>", ip_adapter_image_embeds=picture)
    pipe.unload_multitoken_inversion("<mug>")


# Checkpoint files


def test_a_pipeline_from_a_checkpoint_file_trains(tmp_path: Path) -> None:
    """diffusers takes a checkpoint with its own keys as it is; the parts that it lacks are given."""
    case = TRAINING_FAMILY["stable_diffusion"]
    plain = case.build()
    (expected,) = make_trainer(case.build()).train()
    plain.save_pretrained(tmp_path / "configuration")
    save_file(plain.unet.state_dict(), tmp_path / "model.safetensors")
    parts = {name: part for name, part in plain.components.items() if name != "unet"}
    pipe = type(plain).from_single_file(
        str(tmp_path / "model.safetensors"), config=str(tmp_path / "configuration"), local_files_only=True, **parts
    )
    assert pipe.unet is not plain.unet
    trainer = make_trainer(pipe)
    (result,) = trainer.train()
    assert torch.equal(result.rows["text_encoder"], expected.rows["text_encoder"])
    trainer.save(tmp_path / "mug", sample_prompts=())
    fresh = case.build()
    fresh.load_multitoken_inversion(tmp_path / "mug")
    prompt = "a photo of <mug>"
    assert np.array_equal(run(case.family, fresh, prompt), run(case.family, pipe, prompt))


@pytest.mark.parametrize("name", in_turn(["z_image", "flux2_klein"], "z_image"))
def test_a_transformer_from_a_checkpoint_file_trains(name: str, tmp_path: Path) -> None:
    pipe = TRAINING_FAMILY[name].build()
    (expected,) = make_trainer(TRAINING_FAMILY[name].build()).train()
    pipe.transformer.save_pretrained(tmp_path / "configuration")
    save_file(pipe.transformer.state_dict(), tmp_path / "model.safetensors")
    loaded = type(pipe.transformer).from_single_file(
        str(tmp_path / "model.safetensors"), config=str(tmp_path / "configuration"), local_files_only=True
    )
    pipe.register_modules(transformer=loaded)
    (result,) = make_trainer(pipe).train()
    assert torch.equal(result.rows["text_encoder"], expected.rows["text_encoder"])


# Rows that go elsewhere


ELSEWHERE = {
    "z_image": ZImageInpaintPipeline,
    "qwen_image": QwenImageInpaintPipeline,
    "flux2_klein": Flux2KleinInpaintPipeline,
}


@pytest.mark.parametrize("name", in_turn(ELSEWHERE, "z_image"))
def test_rows_load_into_another_pipeline_class_of_the_family(name: str, tmp_path: Path) -> None:
    """Its prompts are read to the last bit as by the pipeline that they were trained on."""
    pipe, prompt = TRAINING_FAMILY[name].build(), "a photo of <mug> on a wooden table"
    trainer = make_trainer(pipe, learning_rate=0.1)
    trainer.train()
    trainer.save(tmp_path, sample_prompts=())
    fresh = other(name, ELSEWHERE[name])
    fresh.load_multitoken_inversion(tmp_path)
    with torch.no_grad():
        expected, got = (_tensors(one.encode_prompt([prompt], device="cpu")) for one in (pipe, fresh))
        words = _tensors(fresh.encode_prompt([f"a photo of {CAPTION} on a wooden table"], device="cpu"))
    assert all(torch.equal(one, another) for one, another in zip(expected, got, strict=True))
    assert not torch.equal(got[0], words[0])


@pytest.mark.filterwarnings("ignore:.*(Quanto|torch_dtype).* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", in_turn(ELSEWHERE, "z_image"))
def test_rows_load_into_a_quantised_pipeline(name: str, tmp_path: Path) -> None:
    case = TRAINING_FAMILY[name]
    trainer = make_trainer(case.build(), learning_rate=0.1)
    (result,) = trainer.train()
    trainer.save(tmp_path / "mug", sample_prompts=())
    quantised = load_quantised(name, tmp_path / "pipeline")
    words = run(case.family, quantised, f"a photo of {CAPTION}")
    quantised.load_multitoken_inversion(tmp_path / "mug")
    (pair,) = find_text_pairs(quantised)
    assert torch.equal(pair.rows("<mug>"), result.rows["text_encoder"])
    assert not np.array_equal(run(case.family, quantised, "a photo of <mug>"), words)


def _tensors(encoded: Any) -> list[torch.Tensor]:
    first = encoded[0]
    return list(first) if isinstance(first, list) else [first]


# Bad input


def test_a_language_model_that_is_offloaded_to_disk_is_refused(tmp_path: Path) -> None:
    pipe = TRAINING_FAMILY["z_image"].build()
    disk_offload(pipe.text_encoder, tmp_path, execution_device=torch.device("cpu"))
    with pytest.raises(UnsupportedPipelineError, match="text_encoder: expected a pipeline without offloading hooks"):
        make_trainer(pipe)


def test_a_placeholder_token_that_the_vocabulary_has_already_is_refused(unchanged: Callable[[Any], None]) -> None:
    pipe = TRAINING_FAMILY["z_image"].build()
    unchanged(pipe)
    for token in ("<|im_start|>", "<think>", "<tool_call>"):
        with pytest.raises(PlaceholderTokenError, match=re.escape(token)):
            make_trainer(pipe, token=token)
    with pytest.raises(InitializerError, match="special tokens"):
        make_trainer(pipe, initializer="a red mug<|im_end|>")


def test_tokens_that_a_user_added_keep_their_ids_beside_a_concept() -> None:
    """More of them than the embedding matrix has rows to spare: it grows, and none of them is a row of the concept."""
    pipe = TRAINING_FAMILY["z_image"].build()
    added = [f"<extra_{number}>" for number in range(60)]
    pipe.tokenizer.add_tokens(added)
    ids = pipe.tokenizer.convert_tokens_to_ids(added)
    make_trainer(pipe).train()
    (pair,) = find_text_pairs(pipe)
    assert pipe.tokenizer.convert_tokens_to_ids(added) == ids
    assert not set(ids) & set(pair.row_ids("<mug>"))
    assert len(pair.embedding.weight) > max(pair.row_ids("<mug>"))
