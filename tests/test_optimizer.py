"""The optimizer against `torch.optim.AdamW`, on the gradients of real runs."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from conftest import random_picture
from tiny.every_family import FAMILY
from torch import Tensor, nn

from diffusers_supreme_init import SupremeInitConfig, SupremeInitTextualInversionTrainer
from diffusers_supreme_init.training.rows import RowOptimizer, is_finite

Rows = dict[str, Tensor]


@dataclass
class Recording:
    """What a run gave its optimizer, and the rows after each step; the first rows are the initial ones."""

    gradients: list[Rows] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    made = Recording()
    step = RowOptimizer.step

    def spy(self: Any, gradients: Rows, learning_rate: float) -> bool:
        if not made.rows:
            made.rows.append({name: rows.detach().clone() for name, rows in self._rows.items()})
        made.gradients.append({name: one.clone() for name, one in gradients.items()})
        made.learning_rates.append(learning_rate)
        goes_on = step(self, gradients, learning_rate)
        made.rows.append({name: rows.detach().clone() for name, rows in self._rows.items()})
        return goes_on

    monkeypatch.setattr(RowOptimizer, "step", spy)
    return made


def train(pipe: Any, **settings: Any) -> Any:
    config = SupremeInitConfig(**({"max_train_steps": 5, "validation_samples": 0, "preserve_norm": False} | settings))
    trainer = SupremeInitTextualInversionTrainer(
        pipe, random_picture(), "<mug>", "a red mug with white stripes", config=config
    )
    return trainer.train()[0]


def reference(recording: Recording, *, clip: float | None = None, **adamw: Any) -> list[Rows]:
    """Return the rows after each step of torch's AdamW and torch's clipping over all text encoders."""
    rows = {name: nn.Parameter(one.clone()) for name, one in recording.rows[0].items()}
    optimizer = torch.optim.AdamW(rows.values(), lr=1.0, **adamw)
    made = []
    for gradients, learning_rate in zip(recording.gradients, recording.learning_rates, strict=True):
        for name, one in rows.items():
            one.grad = gradients[name].clone()
        if clip is not None:
            nn.utils.clip_grad_norm_(rows.values(), clip)
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.step()
        made.append({name: one.detach().clone() for name, one in rows.items()})
    return made


def assert_equal_rows(got: list[Rows], expected: list[Rows], **tolerance: float) -> None:
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], **({"rtol": 0, "atol": 0} | tolerance))


def test_rows_are_moved_by_adamw_without_decay(pipe: Any, recording: Recording) -> None:
    result = train(pipe, learning_rate=1e-2)
    expected = reference(recording, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    assert_equal_rows(recording.rows[1:], expected)
    assert torch.equal(result.rows["text_encoder"], expected[-1]["text_encoder"])


@pytest.mark.parametrize(
    ("settings", "adamw"),
    [
        ({"adam_beta1": 0.5}, {"betas": (0.5, 0.999), "eps": 1e-8}),
        ({"adam_beta2": 0.5}, {"betas": (0.9, 0.5), "eps": 1e-8}),
        ({"adam_epsilon": 1e-2}, {"betas": (0.9, 0.999), "eps": 1e-2}),
        ({"adam_beta1": 0.3, "adam_beta2": 0.7, "adam_epsilon": 1e-3}, {"betas": (0.3, 0.7), "eps": 1e-3}),
    ],
)
def test_betas_and_epsilon_are_where_they_belong(
    pipe: Any, recording: Recording, settings: dict[str, Any], adamw: dict[str, Any]
) -> None:
    train(pipe, **settings)
    assert_equal_rows(recording.rows[1:], reference(recording, weight_decay=0.0, **adamw))


def test_clipping_is_torchs_over_all_text_encoders_of_a_concept(recording: Recording) -> None:
    train(FAMILY["stable_diffusion_xl"].build(), max_grad_norm=1e-3, adam_epsilon=1e-2, resolution=16)
    norms = [torch.cat([one.flatten() for one in gradients.values()]).norm() for gradients in recording.gradients]
    assert min(norms) > 1e-3  # else nothing is clipped
    adamw = {"betas": (0.9, 0.999), "eps": 1e-2, "weight_decay": 0.0}
    assert len(recording.rows[0]) == 2
    assert_equal_rows(recording.rows[1:], reference(recording, clip=1e-3, **adamw), atol=1e-6)
    unclipped = reference(recording, **adamw)[-1]
    moved = {name: rows - recording.rows[0][name] for name, rows in unclipped.items()}
    assert all(one.abs().max() > 1e-4 for one in moved.values())  # a difference that the tolerance would see


def test_small_gradients_are_not_clipped(pipe: Any, recording: Recording) -> None:
    train(pipe, max_grad_norm=1e6)
    assert_equal_rows(recording.rows[1:], reference(recording, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0))


def test_fp16_scales_are_taken_out_before_clipping_and_moments() -> None:
    settings = SupremeInitConfig(max_grad_norm=0.5)
    plain, scaled = nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.ones(2, 4))
    optimizers = [
        RowOptimizer({"text_encoder": one}, settings, scaled=is_scaled)
        for one, is_scaled in ((plain, False), (scaled, True))
    ]
    assert [one.loss_scale for one in optimizers] == [1.0, 2.0**16]
    for step in range(3):
        gradient = torch.randn(2, 4, generator=torch.Generator().manual_seed(step))
        for optimizer in optimizers:
            assert optimizer.step({"text_encoder": gradient * optimizer.loss_scale}, 0.1)
    assert torch.equal(plain, scaled)


def test_an_overflow_halves_the_scale_and_leaves_rows_and_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers_supreme_init.training.rows._GROWTH_INTERVAL", 2)
    rows = nn.Parameter(torch.ones(1, 4))
    optimizer = RowOptimizer({"text_encoder": rows}, SupremeInitConfig(), scaled=True)

    def step(value: float) -> bool:
        gradients = {"text_encoder": torch.full((1, 4), value)}
        return optimizer.step(gradients if is_finite(gradients) else None, 0.1)

    assert step(math.inf)
    assert (optimizer.loss_scale, optimizer.num_skipped) == (2.0**15, 1)
    assert torch.equal(rows, torch.ones(1, 4))
    assert not optimizer.state_dict()[0]
    assert step(1.0)
    assert step(math.nan)  # starts the count to the next growth again
    assert step(1.0)
    assert optimizer.loss_scale == 2.0**14
    assert step(1.0)
    assert optimizer.loss_scale == 2.0**15
    while optimizer.loss_scale > 2.0**-7:
        assert step(math.inf)
    assert step(math.inf)  # to 2 ** -8, the smallest
    assert not step(math.inf)


def test_without_fp16_a_gradient_that_is_not_finite_ends_training() -> None:
    optimizer = RowOptimizer({"text_encoder": nn.Parameter(torch.ones(1, 4))}, SupremeInitConfig(), scaled=False)
    assert not optimizer.step(None, 0.1)


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 4}, [0, 0.25, 0.5, 0.75, 1]),
        ({"lr_scheduler": "linear"}, [1, 0.8, 0.6, 0.4, 0.2]),
        ({"lr_scheduler": "cosine"}, [(1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 2}, [0, 0.5, 1, 2 / 3, 1 / 3]),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    pipe: Any, recording: Recording, settings: dict[str, Any], factors: list[float]
) -> None:
    train(pipe, learning_rate=3e-3, **settings)
    assert recording.learning_rates == pytest.approx([3e-3 * factor for factor in factors])


def test_norms_are_kept_by_scaling_adamws_rows(pipe: Any, recording: Recording) -> None:
    train(pipe, preserve_norm=True, max_train_steps=1, learning_rate=0.1)
    (free,) = reference(recording, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    initial, got = recording.rows[0]["text_encoder"], recording.rows[1]["text_encoder"]
    expected = nn.functional.normalize(free["text_encoder"]) * initial.norm(dim=1, keepdim=True)
    torch.testing.assert_close(got, expected)
