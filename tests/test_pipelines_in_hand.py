"""Trainers made from what users have in hand: adapters and checkpoint files (pipelines: `test_other_tasks.py`)."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    UNet2DConditionModel,
)
from family_runs import CAPTION, make_trainer
from peft import LoraConfig
from safetensors.torch import save_file
from tiny.families import run
from tiny.original_layout import stable_diffusion_file, stable_diffusion_xl_file, z_image
from training_families import TRAINING_FAMILY

from diffusers_supreme_init import (
    CheckpointError,
    SupremeInitConfig,
    UnsupportedPipelineError,
)
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.catalogue.facts import digest_of
from diffusers_supreme_init.catalogue.model_facts import facts_of_run


def in_turn(names: Iterable[str], *fast: str) -> list[Any]:
    """Return parameters of which `make test` tries some, and `make test-slow` all."""
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in names]


FILES = {"stable_diffusion": stable_diffusion_file, "stable_diffusion_xl": stable_diffusion_xl_file}
"""Published checkpoint files of whole pipelines."""


# Adapters


LORA = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=["to_q", "to_k", "q_proj", "v_proj"])


@pytest.mark.parametrize(
    ("name", "components"),
    [
        ("stable_diffusion", ["unet", "text_encoder"]),
        pytest.param("stable_diffusion_xl", ["unet", "text_encoder", "text_encoder_2"], marks=pytest.mark.slow),
        pytest.param("stable_diffusion_3", ["transformer", "text_encoder"], marks=pytest.mark.slow),
        pytest.param("flux_dev", ["transformer", "text_encoder"], marks=pytest.mark.slow),
        ("z_image", ["transformer"]),
        pytest.param("qwen_image", ["transformer"], marks=pytest.mark.slow),
        pytest.param("flux2_klein", ["transformer"], marks=pytest.mark.slow),
    ],
)
def test_a_lora_takes_part_in_training_and_is_named_on_the_card(
    name: str, components: list[str], tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    case = TRAINING_FAMILY[name]
    (plain,) = make_trainer(case.build()).train()
    pipe = case.build()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for component in components:
            getattr(pipe, component).add_adapter(LORA, adapter_name="style")
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
    for component in components:
        assert f"The LoRA `style` (weight 0.5) was loaded in `{component}` during training" in card
    pipe.unload_multitoken_inversion("<mug>")


@pytest.mark.parametrize(
    ("name", "layer"),
    [("stable_diffusion", "token_embedding"), ("pixart_sigma", "shared"), ("z_image", "embed_tokens")],
)
def test_a_lora_on_the_embeddings_is_refused(name: str, layer: str, unchanged: Callable[[Any], None]) -> None:
    pipe = TRAINING_FAMILY[name].build()
    pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=[layer]), adapter_name="style")
    unchanged(pipe)
    with pytest.raises(UnsupportedPipelineError, match=r"text_encoder: expected plain embeddings, .*pipe\.fuse_lora"):
        make_trainer(pipe)


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


@pytest.mark.parametrize("name", in_turn(["stable_diffusion", "stable_diffusion_xl", "kolors"], "stable_diffusion"))
def test_an_ip_adapter_is_set_aside_in_training_and_back_afterwards(
    name: str, tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    case = TRAINING_FAMILY[name]
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


@pytest.mark.parametrize("name", in_turn(FILES, "stable_diffusion"))
def test_a_pipeline_from_a_published_checkpoint_file_trains(name: str, tmp_path: Path) -> None:
    """Denoiser, autoencoder and text encoders in one file, under the names of the original programs."""
    case = TRAINING_FAMILY[name]
    plain = case.build()
    (expected,) = make_trainer(case.build()).train()
    plain.save_pretrained(tmp_path / "configuration")
    save_file(FILES[name](plain), tmp_path / "model.safetensors")
    pipe = type(plain).from_single_file(
        str(tmp_path / "model.safetensors"), config=str(tmp_path / "configuration"), local_files_only=True
    )
    trainer = make_trainer(pipe)
    (result,) = trainer.train()
    for key in case.trained:
        assert torch.equal(result.rows[key], expected.rows[key])
    trainer.save(tmp_path / "mug", sample_prompts=())
    fresh = case.build()
    fresh.load_multitoken_inversion(tmp_path / "mug")
    prompt = "a photo of <mug>"
    assert np.array_equal(run(case.family, fresh, prompt), run(case.family, pipe, prompt))


def test_a_transformer_from_a_published_checkpoint_file_trains(tmp_path: Path) -> None:
    """Of Z-Image; diffusers takes Flux' original names for Flux' own width only."""
    train_from_file("z_image", z_image, tmp_path)


@pytest.mark.parametrize("name", in_turn(["z_image", "flux2_klein"], "z_image"))
def test_a_transformer_from_a_checkpoint_file_trains(name: str, tmp_path: Path) -> None:
    train_from_file(name, torch.nn.Module.state_dict, tmp_path)


def train_from_file(name: str, layout: Callable[[Any], dict[str, torch.Tensor]], tmp_path: Path) -> None:
    pipe = TRAINING_FAMILY[name].build()
    (expected,) = make_trainer(TRAINING_FAMILY[name].build()).train()
    pipe.transformer.save_pretrained(tmp_path / "configuration")
    save_file(layout(pipe.transformer), tmp_path / "model.safetensors")
    loaded = type(pipe.transformer).from_single_file(
        str(tmp_path / "model.safetensors"), config=str(tmp_path / "configuration"), local_files_only=True
    )
    pipe.register_modules(transformer=loaded)
    (result,) = make_trainer(pipe).train()
    assert torch.equal(result.rows["text_encoder"], expected.rows["text_encoder"])
