"""What only a GPU can show; skipped where there is none, and off by default (`pytest -m cuda`)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import build_tiny_pipeline, random_picture
from diffusers.hooks import apply_group_offloading
from tiny.describers import build_blip, build_sam, build_vit
from tiny.every_family import FAMILIES, rows_for
from tiny.families import run
from training_families import TRAINING_FAMILIES, TrainingFamily

from diffusers_supreme_init import (
    Concept,
    DescriberConfig,
    Describers,
    Region,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    propose_initializer,
)
from diffusers_supreme_init.text.text_pairs import find_text_pairs

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def train(pipe: Any, **settings: Any) -> Any:
    config = SupremeInitConfig(**({"max_train_steps": 5, "validation_samples": 4} | settings))
    return SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a red mug", config=config).train()[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_learn_on_the_gpu_and_come_back_to_the_cpu(dtype: torch.dtype) -> None:
    pipe = build_tiny_pipeline().to("cuda", dtype)
    result = train(pipe, max_train_steps=8)
    assert result.rows["text_encoder"].device.type == "cpu"
    assert (result.rows["text_encoder"] != result.initial_rows["text_encoder"]).any(dim=1).all()
    assert {module.device.type for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {"cuda"}
    pipe("a photo of <mug>", num_inference_steps=2)


def test_a_pipeline_on_the_cpu_goes_home_after_training_on_the_gpu() -> None:
    pipe = build_tiny_pipeline()
    train(pipe)
    assert {module.device.type for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {"cpu"}


@pytest.mark.filterwarnings("ignore:.* when it cleans prompts")
@pytest.mark.parametrize("case", TRAINING_FAMILIES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_family_trains_draws_and_is_loaded_with_its_parts_at_home_on_the_cpu(
    case: TrainingFamily, dtype: torch.dtype, tmp_path: Path
) -> None:
    pipe = case.build().to(dtype)
    config = SupremeInitConfig(
        max_train_steps=8 if dtype == torch.float16 else 3,  # in fp16 the first ones only bring the loss scale down
        validation_samples=2,
        resolution=16,
        validation_prompt="a photo of a {}",
        num_validation_images=1,
        output_dir=str(tmp_path / "run"),
    )
    trainer = SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a red mug", config=config)
    (result,) = trainer.train()
    for name in case.trained:
        assert result.rows[name].dtype == torch.float32
        assert (result.rows[name] != result.initial_rows[name]).any(dim=1).all()
    trainer.save(tmp_path / "mug", sample_prompts=["a photo of a {}"])
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert {weight.device.type for part in parts for weight in part.parameters()} == {"cpu"}
    other = case.build().to("cuda", dtype)
    other.load_multitoken_inversion(tmp_path / "mug")
    for pair in find_text_pairs(other):
        if pair.encoder_name in case.trained:
            loaded = pair.embedding.weight[list(pair.row_ids("<mug>"))]
            assert torch.equal(loaded.float().cpu(), result.rows[pair.encoder_name].to(dtype).float())
    run(case.family, other, "a photo of a <mug>")


@pytest.mark.parametrize("mixed_precision", ["fp16", "bf16"])
def test_autocast_on_the_gpu(mixed_precision: str) -> None:
    result = train(build_tiny_pipeline().to("cuda"), mixed_precision=mixed_precision)
    assert result.status == "finished"
    assert result.rows["text_encoder"].dtype == torch.float32


@contextlib.contextmanager
def accelerator_on_the_cpu() -> Iterator[Accelerator]:
    """Give an accelerator without the GPU; accelerate otherwise chooses the device of a process once."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield Accelerator(cpu=True)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.filterwarnings("ignore:.* when it cleans prompts")
@pytest.mark.parametrize("case", TRAINING_FAMILIES, ids=lambda case: case.name)
def test_every_family_learns_the_same_as_on_the_cpu(case: TrainingFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # three digits, beside the seven of float32

    def result(accelerator: Accelerator | None) -> Any:
        config = SupremeInitConfig(max_train_steps=3, validation_samples=4, resolution=16)
        concept = Concept(images=random_picture(), placeholder_token="<mug>", initializer="a red mug")
        trainer = SupremeInitTextualInversionTrainer(
            case.build(), concepts=[concept], config=config, accelerator=accelerator
        )
        return trainer.train()[0]

    gpu = result(None)
    with accelerator_on_the_cpu() as accelerator:
        cpu = result(accelerator)
    assert gpu.losses == pytest.approx(cpu.losses, rel=1e-3)
    for name in case.trained:
        # AdamW's first steps have the sign of the gradient: where that is nearly zero, rounding decides.
        moved = (cpu.rows[name] - cpu.initial_rows[name]).norm()
        assert (gpu.rows[name] - cpu.rows[name]).norm() < 0.05 * moved


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_describers_on_the_gpu(dtype: str, tmp_path: Path) -> None:
    builders = {"captioner": build_blip, "classifier": build_vit, "segmenter": build_sam}
    folders = {name: str(build(tmp_path / name)) for name, build in builders.items()}
    describers = Describers(DescriberConfig(**folders, describer_dtype=dtype, max_caption_tokens=5))
    pipe = build_tiny_pipeline().to("cuda", getattr(torch, dtype))
    picture = random_picture((64, 48))
    proposal = propose_initializer(picture, "auto", pipe=pipe, region=Region(points=(30, 20)), describers=describers)
    assert describers.captioner.model.device.type == "cuda"
    assert proposal.mask is not None
    assert all(candidate.loss == candidate.loss for candidate in proposal.candidates)
    assert {module.device.type for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {"cuda"}


@pytest.mark.parametrize("kind", ["none", "model", "sequential", "leaf_level", "leaf_level with streams", "compiled"])
def test_loading_and_unloading_under_offloading(kind: str) -> None:
    family = next(family for family in FAMILIES if family.name == "flux")
    pipe = family.build()
    if kind == "model":
        pipe.enable_model_cpu_offload()
    elif kind == "sequential":
        pipe.enable_sequential_cpu_offload()
    else:
        pipe.to("cuda")
    pairs = find_text_pairs(pipe)
    if kind.startswith("leaf_level"):
        for pair in pairs:
            options = {"offload_type": "leaf_level", "use_stream": kind.endswith("streams")}
            apply_group_offloading(pair.encoder, onload_device=torch.device("cuda"), **options)
    if kind == "compiled":
        pipe.text_encoder_2.compile()

    def encode(prompt: str) -> list[torch.Tensor]:
        with torch.no_grad():
            embeds, pooled, _ = pipe.encode_prompt(prompt, None, device=torch.device("cuda"), max_sequence_length=64)
        return [embeds.cpu(), pooled.cpu()]

    before = encode("a red mug")
    for pair in pairs:
        pipe.load_multitoken_inversion({"<mug>": rows_for(pair)}, text_encoder=pair.encoder_name, description=False)
    assert all(torch.equal(one, other) for one, other in zip(encode("a red mug"), before, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(encode("a <mug>"), before, strict=True))
    pipe.unload_multitoken_inversion()
    assert all(torch.equal(one, other) for one, other in zip(encode("a red mug"), before, strict=True))
