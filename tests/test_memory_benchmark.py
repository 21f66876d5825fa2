"""The benchmark of memory: what it computes without memory is what really executed tensors take."""

import importlib
import sys
from dataclasses import replace

import pytest
import torch
from conftest import ROOT, build_tiny_pipeline
from torch import nn

from diffusers_supreme_init.backbones import backbone_for

sys.path.insert(0, str(ROOT / "benchmarks"))  # the benchmarks are a folder of scripts

memory = importlib.import_module("memory")
real_sizes = importlib.import_module("real_sizes")


def peaks(device: torch.device) -> dict[str, int]:
    """Run what the benchmark runs, on the tiny pipeline."""
    with torch.device(device):
        pipe = build_tiny_pipeline()
    pipe.register_modules(tokenizer=real_sizes.words(77))
    backbone = backbone_for(pipe)
    found = {"pictures": memory.pictures_peak(backbone, device)}
    with memory.in_training(backbone) as concept:
        for name, batch_size, checkpointing in (("4", 4, False), ("1", 1, False), ("4, checkpointed", 4, True)):
            found[name] = memory.losses_peak(
                backbone, concept, batch_size, device, train=True, checkpointing=checkpointing
            )
        found["validation"] = memory.losses_peak(backbone, concept, 4, device, train=False)
    return found


def test_what_is_computed_is_what_is_executed() -> None:
    executed = peaks(torch.device("cpu"))
    with memory.fake_accelerator():
        computed = peaks(memory.ACCELERATOR)
    # The kernel of CUDA pads masks, that of the CPU does not.
    assert computed == pytest.approx(executed, rel=0.01)
    assert computed["validation"] < computed["4, checkpointed"] < computed["4"]
    assert computed["1"] < computed["4"]


@pytest.mark.slow
def test_what_is_computed_is_what_is_executed_at_real_size() -> None:  # 7 GB
    case = replace(real_sizes.CASES[0], dtype="float32")

    def step(device: torch.device) -> int:
        backbone = backbone_for(memory.build(case, device))
        with memory.in_training(backbone) as concept:
            return memory.losses_peak(backbone, concept, 1, device, train=True)

    with memory.fake_accelerator():
        computed = step(memory.ACCELERATOR)
    assert computed == pytest.approx(step(torch.device("cpu")), rel=0.001)


def test_storages_are_followed_from_birth_to_death() -> None:
    layer = nn.Linear(100, 10, bias=False)
    with memory.LiveBytes(torch.device("cpu"), [layer]) as live:
        assert live.now == 4 * 100 * 10
        made = torch.ones(3, 100).exp()
        assert (live.now, live.peak) == (4 * (1000 + 300), 4 * (1000 + 600))
        view = made[1:]
        del made
        assert live.now == 4 * (1000 + 300)  # a view holds the whole storage
        del view
        assert live.now == 4 * 1000
        loss = layer(torch.ones(3, 100)).exp().sum()
        assert live.now == 4 * (1000 + 300 + 30 + 1)  # autograd holds the input and the exponential
        del loss
    assert live.now == 4 * 1000


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[] if case in real_sizes.CASES else pytest.mark.slow)
        for case in memory.CASES
    ],
)
def test_real_sizes_are_those_published(case: real_sizes.Case) -> None:
    with memory.fake_accelerator():
        pipe = memory.build(case, memory.ACCELERATOR)
        counts = {name: sum(weight.numel() for weight in getattr(pipe, name).parameters()) for name in case.published}
    expected = {name: 1e6 * millions for name, millions in case.published.items()}
    assert counts == pytest.approx(expected, rel=case.rounding)
