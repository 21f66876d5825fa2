"""Thousands of concepts: the work grows as their number does. Counted are calls of functions, not seconds."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import save_file
from tiny.every_family import FAMILY, pair_of
from torch import nn

from diffusers_supreme_init import CheckpointError, LearnedEmbedding, SupremeInitConfig
from diffusers_supreme_init.loading.matching import ConceptRequest, plan_load
from diffusers_supreme_init.objective.latents import PictureLatents
from diffusers_supreme_init.text.changes import changed
from diffusers_supreme_init.text.text_pairs import find_text_pairs
from diffusers_supreme_init.training.checkpoint import FREE_SETTINGS, restore_checkpoint, write_checkpoint
from diffusers_supreme_init.training.progress import ConceptProgress
from diffusers_supreme_init.training.rows import RowOptimizer


def num_calls(action: Callable[[], object]) -> int:
    """Return how many functions an action calls, those in C included."""
    calls = 0

    def count(_: FrameType, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


def calls_by_step(num_concepts: int, folder: Path) -> dict[str, int]:
    """Return the calls of each thing that is done with many concepts: rows in CLIP, a description in T5."""
    pipe = FAMILY["flux"].build()
    pairs = find_text_pairs(pipe)
    width = pair_of(pipe, "text_encoder").hidden_size
    rows = {f"<c-{number}>": torch.randn(2, width) for number in range(num_concepts)}
    requests = [
        ConceptRequest(
            embeddings=(LearnedEmbedding(placeholder_token=token, rows=one),),
            description=f"a thing with the number {number}",
            text_encoder="text_encoder",
        )
        for number, (token, one) in enumerate(rows.items())
    ]
    plan = plan_load(pairs, requests)

    def load() -> None:
        with changed(pipe, pairs, plan.changes):
            pass

    return {
        "plan": num_calls(lambda: plan_load(pairs, requests)),
        "load": num_calls(load),
        "plan again": num_calls(lambda: plan_load(pairs, requests)),
        "unload some": num_calls(lambda: pipe.unload_multitoken_inversion(list(rows)[::2])),
        "unload": num_calls(lambda: pipe.unload_multitoken_inversion()),
        "resume": num_calls(resuming(num_concepts, folder)),
    }


def resuming(num_concepts: int, folder: Path) -> Callable[[], None]:
    """Write a checkpoint, and return what resumes from it."""
    concepts, optimizers = training([f"<c/{number}>" for number in range(num_concepts)])
    path = write_checkpoint(folder, {}, concepts, optimizers)
    return lambda: restore_checkpoint(path, {}, concepts, optimizers)


def training(tokens: list[str]) -> tuple[list[ConceptProgress], dict[str, RowOptimizer]]:
    """Return concepts that have made a step."""
    concepts, optimizers = [], {}
    for token in tokens:
        rows, latents = {"text_encoder": nn.Parameter(torch.randn(2, 8))}, torch.randn(1, 4, 8, 8)
        concept = ConceptProgress(
            placeholder_token=token,
            description="",
            initializer_tokens={},
            initial_rows=dict(rows),
            prompts=("a photo",),
            validation_prompt="a photo",
            random_key=token,
            latents=PictureLatents(latents, latents, None, torch.zeros(1, 6)),
            rows=dict(rows),
            last_good_rows=dict(rows),
        )
        optimizer = RowOptimizer(rows, SupremeInitConfig(), scaled=False)
        optimizer.step({"text_encoder": torch.ones(2, 8)}, 1e-3)
        concepts.append(concept)
        optimizers[concept.placeholder_token] = optimizer
    return concepts, optimizers


@pytest.mark.filterwarnings("ignore:.*it when it cleans prompts")
def test_twice_as_many_concepts_are_twice_the_work(tmp_path: Path) -> None:
    calls_by_step(4, tmp_path)  # imports and caches
    once, twice = calls_by_step(60, tmp_path), calls_by_step(120, tmp_path)
    assert {step: twice[step] / once[step] for step in once if twice[step] > 2.2 * once[step]} == {}


def test_a_checkpoint_of_before_is_refused_for_its_draws_alone(tmp_path: Path) -> None:
    """Its timesteps were drawn otherwise; with today's settings written into it, everything else is still read."""
    path = ROOT / "tests" / "fixtures" / "before_holes" / "checkpoint" / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        saved = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    run = json.loads(metadata["run"])
    now = {name: value for name, value in asdict(SupremeInitConfig()).items() if name not in FREE_SETTINGS}
    del now["max_train_steps"]  # of a constant schedule
    run["settings"] = {**now, **run["settings"]}
    concepts, optimizers = training(["<a>", "<b>"])
    with pytest.raises(CheckpointError, match="is of an earlier version, which drew other samples .*; pass another"):
        restore_checkpoint(path, run, concepts, optimizers)
    path = tmp_path / "checkpoint.safetensors"
    save_file(saved, path, {**metadata, "run": json.dumps(run)})
    other = {**run, "settings": {**run["settings"], "unmasked_weight": 0.25}}
    with pytest.raises(CheckpointError, match=r"settings.unmasked_weight: the checkpoint has 0.0, this run 0.25"):
        restore_checkpoint(path, other, concepts, optimizers)
    for token, concept in restore_checkpoint(path, run, concepts, optimizers).items():
        assert (concept.step, len(concept.losses)) == (2, 2)
        assert torch.equal(concept.rows["text_encoder"], saved[f"{token}/rows/text_encoder"])
        moments, _ = optimizers[token].state_dict()
        assert torch.equal(moments["exp_avg/text_encoder"], saved[f"{token}/exp_avg/text_encoder"])
