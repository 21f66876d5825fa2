"""What a newcomer reads and runs: the README, the guides, the demo; the commands are in `test_commands.py`."""

import copy
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TOYBOX, draw_in_two_steps
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from tiny.describers import build_clip
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from diffusers_supreme_init import (
    DescriberConfig,
    SupremeInitConfig,
    evaluation,
)
from diffusers_supreme_init.metrics import CLIPEmbedder, CLIPImageSimilarity, CLIPTextSimilarity

EXAMPLES = ROOT / "examples"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the namespace of an example, imported as the interpreter would run it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return lambda name: runpy.run_path(str(EXAMPLES / name), run_name="example")


def test_the_readme_is_finished_by_a_visitor() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert (
        lines.index("make demo    # one picture in, a word out: out/demo/before_after.png, a minute on 2 CPU cores")
        < 30
    )
    assert lines.index("```python") < 60


@pytest.mark.long
def test_every_python_block_of_the_readme_and_the_guides_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toybox stands in for Hub ids, its mug and a scene for photos, 2 steps for 100 and for 20, the CPU for CUDA.

    SDXL is stood for by the toybox with a second text encoder, the default metrics by those of a tiny CLIP.
    """
    shutil.copy(TOYBOX / "concepts" / "mug.png", tmp_path / "mug.png")
    Image.open(tmp_path / "mug.png").convert("RGB").save(tmp_path / "mug.jpg")
    Image.open(TOYBOX / "scenes" / "scene_1.png").save(tmp_path / "desk.jpg")
    monkeypatch.chdir(tmp_path)
    from_pretrained = DiffusionPipeline.from_pretrained.__func__

    def from_toybox(cls: Any, name: str, **options: Any) -> Any:
        if cls is StableDiffusionXLPipeline:
            assert name == "stabilityai/stable-diffusion-xl-base-1.0"
            parts = from_pretrained(DiffusionPipeline, TOYBOX / "pipeline").components
            shared = {part: parts[part] for part in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
            second = CLIPTextModelWithProjection(
                CLIPTextConfig(**parts["text_encoder"].config.to_dict() | {"hidden_size": 32})
            )
            return cls(**shared, text_encoder_2=second, tokenizer_2=copy.deepcopy(parts["tokenizer"]))
        assert name == "stable-diffusion-v1-5/stable-diffusion-v1-5"
        return from_pretrained(cls, TOYBOX / "pipeline", **options)

    original_init = SupremeInitConfig.__post_init__

    def two_steps(self: SupremeInitConfig) -> None:
        self.max_train_steps, self.validation_samples = 2, 2
        original_init(self)

    original_describers_init = DescriberConfig.__post_init__

    def of_the_toybox(self: DescriberConfig) -> None:
        for name in ("captioner", "classifier", "segmenter"):
            setattr(self, name, str(TOYBOX / name))
        original_describers_init(self)

    draw_in_two_steps(monkeypatch, StableDiffusionPipeline, StableDiffusionXLPipeline)
    monkeypatch.setattr(DescriberConfig, "__post_init__", of_the_toybox)
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(from_toybox))
    monkeypatch.setattr(SupremeInitConfig, "__post_init__", two_steps)
    clip = CLIPEmbedder(build_clip(tmp_path / "clip"))
    monkeypatch.setattr(evaluation, "default_metrics", lambda: [CLIPImageSimilarity(clip), CLIPTextSimilarity(clip)])
    blocks = [
        (page, block)
        for page in ("README.md", *(f"docs/{name}.md" for name in ("use", "words", "train", "measure")))
        for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    ]
    assert len(blocks) == 7
    for page, block in blocks:
        for usual, here in (('.to("cuda")', '.to("cpu")'), ("num_inference_steps=20", "num_inference_steps=2")):
            block = block.replace(usual, here)
        exec(compile(block, page, "exec"), {})
    assert Image.open("beach.png").size == (64, 64)
    assert Path("out/mug/learned_embeds.safetensors").is_file()
    assert Image.open("crop.png").width > 64
    assert Path("out/two/star/learned_embeds.safetensors").is_file()
    assert Path("out/mug/evaluation.json").is_file()


def test_paths_and_targets_that_the_readme_names_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        for path in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / path).exists(), f"{page.name}: {path}"
    assert not re.search(r"^[A-Z_]{5,}$", readme, re.MULTILINE), "a stand-in for text"
    for path in re.findall(r"\]\((?!http|#)([^)]+)\)|(?:python|launch) (examples/[^\s`]+)", readme):
        assert (ROOT / (path[0] or path[1])).exists(), path
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)`", readme + (ROOT / "CONTRIBUTING.md").read_text())) <= targets


def test_paired_differences_of_the_demo(script: Any) -> None:
    """Opposite noises are one measurement."""
    difference = script("demo.py")["paired_difference"]([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 5.0, 5.0])
    assert difference["mean"] == -1.0
    assert difference["standard_error"] == pytest.approx(np.std([0.5, 1.5], ddof=1) / 2**0.5)
    assert difference["in_standard_errors"] == pytest.approx(difference["mean"] / difference["standard_error"])


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py"), "--output_dir", str(tmp_path)], check=True, timeout=1200
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["steps"] == 100
    assert metrics["validation_loss"]["100"] < metrics["validation_loss"]["0"]
    for name in ("last step minus step 0", "words minus * at step 0"):
        assert metrics["paired_differences"][name]["in_standard_errors"] < -3
    untold, told = metrics["details"]["untold_kept"], metrics["details"]["told_kept"]
    assert untold["learned"] - untold["words_alone"] > 0.3
    assert told["learned"] > told["words_alone"] - 0.05
    assert metrics["num_judged_pictures"] >= 8
    assert (tmp_path / metrics["file"]).is_file()
    assert Image.open(tmp_path / "before_after.png").width > 500
    assert Image.open(tmp_path / "loss.png").width > 500


def test_the_toybox_loads_in_full_precision_without_options() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(TOYBOX / "pipeline")
    assert {module.dtype for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    assert pipe.tokenizer.tokenize("*") == ["*</w>"]
    assert pipe.tokenizer.model_max_length == 77
