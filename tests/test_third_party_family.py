"""A family of somebody else's: the code of ``docs/backbones.md``, for Wan, a video model, with one frame."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, random_picture
from tiny.every_family import FAMILY
from tiny.families import run
from transformers import UMT5EncoderModel

from diffusers_supreme_init import SupremeInitConfig, SupremeInitTextualInversionTrainer, backbones
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.objective.draws import DenoisingSample
from diffusers_supreme_init.objective.losses import denoising_losses

CAPTION = "a red mug with white boats"


CODE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "backbones.md").read_text(), re.DOTALL)[0]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "BACKBONES", list(backbones.BACKBONES))
    exec(CODE, {"__name__": "documented"})


def trainer(pipe: Any, **settings: Any) -> SupremeInitTextualInversionTrainer:
    options = {"max_train_steps": 2, "validation_samples": 2, "resolution": 16, "train_batch_size": 2} | settings
    return SupremeInitTextualInversionTrainer(
        pipe, random_picture(), "<mug>", CAPTION, config=SupremeInitConfig(**options)
    )


def test_it_takes_less_than_sixty_lines_of_public_names() -> None:
    assert len(CODE.splitlines()) < 60
    tree = ast.parse(CODE)
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not [name for name in named if name.startswith("_") and name != "__init__"]
    (imported,) = [
        {alias.name for alias in node.names}
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and "supreme_init" in str(node.module)
    ]
    assert imported <= set(backbones.__all__)


def test_its_rows_start_as_the_words_and_alone_move(tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    family = FAMILY["wan"]
    pipe, fresh = family.build(), family.build()
    assert isinstance(pipe.text_encoder, UMT5EncoderModel)
    run(family, pipe, "a dog")
    with torch.no_grad():
        backbone_for(pipe).encode_pictures(torch.zeros(1, 3, 16, 16))
    unchanged(pipe)
    words = run(family, pipe, f"a photo of {CAPTION}", num_frames=1)
    trainer(pipe, max_train_steps=0).train()
    assert np.array_equal(run(family, pipe, "a photo of <mug>", num_frames=1), words)
    pipe.unload_multitoken_inversion("<mug>")
    trained = trainer(pipe, learning_rate=0.1)
    (result,) = trained.train()
    assert (result.rows["text_encoder"] != result.initial_rows["text_encoder"]).any(dim=1).all()
    trained.save(tmp_path, sample_prompts=())
    fresh.load_multitoken_inversion(tmp_path)
    drawn = run(family, pipe, "a photo of <mug>")  # a video
    assert np.array_equal(run(family, fresh, "a photo of <mug>"), drawn)
    pipe.unload_multitoken_inversion("<mug>")


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.97])
def test_its_loss_is_flow_matching_on_one_frame(fraction: float) -> None:
    """arXiv:2503.20314, section 4.2: x_t = t x_1 + (1 - t) x_0, and the velocity is their difference."""
    pipe, time = FAMILY["wan"].build(), torch.tensor([fraction * 1000])
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 4, 2, 2, generator=generator) for _ in range(2))
    ids = pipe.tokenizer("a red mug", padding="max_length", max_length=226, return_tensors="pt")
    with torch.no_grad():
        context = pipe.text_encoder(**ids).last_hidden_state * ids.attention_mask[..., None]
        noisy = (1 - fraction) * latents + fraction * noise
        predicted = pipe.transformer(noisy[:, :, None], time, context).sample[:, :, 0]
        expected = ((predicted - (noise - latents)) ** 2).mean()
        sample = DenoisingSample(latents[0], noise[0], float(time), "a red mug", None, torch.zeros(6))
        (loss,) = denoising_losses(backbone_for(pipe), [sample], torch.device("cpu"))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
