"""HiDream: experts that pass a gradient only in training mode, and all hidden states of Llama."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import random_picture
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU, MoEGate
from tiny.every_family import FAMILY
from training_families import TRAINING_FAMILY

from diffusers_supreme_init import SupremeInitConfig, SupremeInitTextualInversionTrainer
from diffusers_supreme_init.backbones import Backbone, backbone_for
from diffusers_supreme_init.objective.phases import frozen, remembered_prompts

PROMPTS = ["a photo of a red mug", "a dog in the park"]


@pytest.fixture(params=["experts that take turns", "output forced to be that of inference"])
def pipe(request: pytest.FixtureRequest) -> Any:
    builders = {True: FAMILY["hidream"].build, False: TRAINING_FAMILY["hidream"].build}
    return builders["forced" in request.param]().to(torch.float64)


@pytest.fixture
def backbone(pipe: Any) -> Iterator[Backbone]:
    made = backbone_for(pipe)
    with frozen([pipe.transformer]):
        yield made


def told(backbone: Backbone) -> tuple[torch.Tensor, ...]:
    """Return conditioning of two prompts, so that nothing depends on how long the CLIPs' windows are."""
    generator = torch.Generator().manual_seed(0)
    layers = backbone.denoiser.config.llama_layers
    sizes = [(2, 6, 20), (2, len(layers), 6, 16), (2, 80)]
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)


def squared(backbone: Backbone, conditioning: tuple[torch.Tensor, ...]) -> torch.Tensor:
    noisy = torch.linspace(-1, 1, 2 * 4 * 8 * 8, dtype=torch.float64).view(2, 4, 8, 8)
    predicted = backbone.predict(noisy, torch.tensor([300.0, 700.0]), conditioning, torch.zeros(2, 6))
    return (predicted**2).mean()


def slope(backbone: Backbone, direction: torch.Tensor) -> tuple[float, float]:
    """Return the derivative along a direction of Llama's states: by backpropagation, and by differences."""
    t5, llama, pooled = told(backbone)
    leaf = llama.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(squared(backbone, (t5, leaf, pooled)), leaf)
    step = 1e-3  # the attention has float32 inside
    with torch.no_grad():
        ends = [float(squared(backbone, (t5, llama + sign * step * direction, pooled))) for sign in (1, -1)]
    return float((gradient * direction).sum()), (ends[0] - ends[1]) / (2 * step)


def test_the_gradient_is_that_of_the_experts_too(backbone: Backbone) -> None:
    direction = torch.randn(told(backbone)[1].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with backbone.passing_gradient():
        got, expected = slope(backbone, direction)
    assert got == pytest.approx(expected, rel=2e-3)
    got, expected = slope(backbone, direction)  # diffusers computes experts without gradient in evaluation mode
    assert got != pytest.approx(expected, rel=2e-2)


def test_the_prediction_is_the_same_and_no_gate_adds_a_loss(backbone: Backbone) -> None:
    layers = [part for part in backbone.denoiser.modules() if isinstance(part, MOEFeedForwardSwiGLU)]
    gates = [part for part in backbone.denoiser.modules() if isinstance(part, MoEGate)]
    assert layers
    before = [(layer.training, layer._force_inference_output) for layer in layers]
    added: list[Any] = []
    for gate in gates:
        gate.register_forward_hook(lambda module, inputs, output: added.append(output[2]))
    with torch.no_grad():
        expected = squared(backbone, told(backbone))
        with backbone.passing_gradient():
            assert all(layer.training for layer in layers)
            assert not any(part.training for part in backbone.denoiser.modules() if part not in layers)
            torch.testing.assert_close(squared(backbone, told(backbone)), expected)
    assert added == [None] * (2 * len(gates))
    assert [(layer.training, layer._force_inference_output) for layer in layers] == before


def test_llama_is_remembered_with_all_its_layers() -> None:
    pipe = TRAINING_FAMILY["hidream"].build()
    backbone = backbone_for(pipe)
    with torch.no_grad():
        alone = [backbone.encode_prompts([prompt]) for prompt in PROMPTS]
        asked: list[int] = []
        for body in (pipe.text_encoder_3.encoder, pipe.text_encoder_4.model):
            body.register_forward_hook(lambda *_: asked.append(1))
        with remembered_prompts(backbone, backbone.described, PROMPTS, torch.device("cpu")):
            assert len(asked) == 4
            together = backbone.encode_prompts(PROMPTS)
            assert len(asked) == 4
    for index, expected in enumerate(alone):
        for got, one in zip(together[:2], expected[:2], strict=True):  # the CLIPs read the batch, with its rounding
            assert torch.equal(got[index], one[0])
    assert together[1].shape[:2] == (2, pipe.text_encoder_4.config.num_hidden_layers)


def test_rows_of_llama_reach_the_denoiser_by_every_layer() -> None:
    pipe = TRAINING_FAMILY["hidream"].build()
    config = SupremeInitConfig(
        max_train_steps=2,
        validation_samples=0,
        resolution=16,
        train_batch_size=2,
        train_text_encoders=["text_encoder_4"],
        gradient_checkpointing=True,
    )
    trainer = SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a red mug", config=config)
    (result,) = trainer.train()
    rows = result.rows["text_encoder_4"]
    assert (rows != result.initial_rows["text_encoder_4"]).any(dim=1).all()
    assert not any(part.training for part in pipe.transformer.modules())
