"""Tiny real pipelines, built from configs: random weights, the toybox's tokenizer, seconds on a CPU."""

import copy
import gc
import inspect
import json
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the first import of huggingface_hub
if certificates := ssl.get_default_verify_paths().capath:
    # Read when they are needed; each HTTP client of each test would read all of them, which takes 35 ms.
    os.environ.setdefault("SSL_CERT_DIR", certificates)
gc.disable()  # while importing: a fifth of its time, see `_leave_imports_out_of_garbage_collection`

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerBase

import diffusers_supreme_init  # noqa: F401 - attaches the loader
from diffusers_supreme_init.training.previews import draw_samples

ROOT = Path(__file__).resolve().parent.parent
TOYBOX = ROOT / "examples" / "toybox"
HIDDEN_SIZE = 32


def _leave_imports_out_of_garbage_collection() -> None:
    """Let the collector look only through what tests make.

    What was imported is half a million objects: looking through them takes as long as a test does.
    """
    gc.freeze()
    gc.enable()


_leave_imports_out_of_garbage_collection()
pytest_collection_finish = _leave_imports_out_of_garbage_collection  # the test modules too


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # pytest-xdist starts a process per core; more threads than cores make each of them many times slower.
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _two_steps_draw_a_sample() -> Iterator[None]:
    """What `save` draws of a tiny pipeline is noise after 30 steps of the sampler as after 2."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(inspect.unwrap(draw_samples).__kwdefaults__, "num_inference_steps", 2)
        yield


def draw_in_two_steps(monkeypatch: pytest.MonkeyPatch, *pipeline_classes: Any) -> None:
    """Let a call that does not say how many steps its sampler takes, which are up to 50, take two."""
    for pipeline_class in pipeline_classes:
        call = inspect.unwrap(pipeline_class.__call__)
        names, values = call.__code__.co_varnames[: call.__code__.co_argcount], list(call.__defaults__)
        values[names.index("num_inference_steps") - len(names)] = 2
        monkeypatch.setattr(call, "__defaults__", tuple(values))


def build_tiny_pipeline(prediction_type: str = "epsilon", **scheduler_options: Any) -> StableDiffusionPipeline:
    """Build a Stable Diffusion of 32 px pictures and 8x8 latents; equal arguments give equal weights."""
    tokenizer = CLIPTokenizer.from_pretrained(TOYBOX / "pipeline" / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=HIDDEN_SIZE,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
            latent_channels=4,
            sample_size=32,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(16, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=HIDDEN_SIZE,
            attention_head_dim=2,
            norm_num_groups=4,
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        **scheduler_options,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def _tiny_pipeline() -> StableDiffusionPipeline:
    return build_tiny_pipeline()


@pytest.fixture
def pipe(_tiny_pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A fresh tiny pipeline."""
    return copy.deepcopy(_tiny_pipeline)


@pytest.fixture
def other_pipe(_tiny_pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A second, equal tiny pipeline."""
    return copy.deepcopy(_tiny_pipeline)


def random_picture(size: tuple[int, int] = (40, 40), seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Return a picture of random pixels."""
    channels = {"RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode)


@pytest.fixture
def picture_path(tmp_path: Path) -> Path:
    """A picture file."""
    path = tmp_path / "picture.png"
    random_picture().save(path)
    return path


def draw(pipe: Any, prompt: str | list[str], **options: Any) -> np.ndarray:
    """Return the pixels of a prompt, from a fixed noise, in two sampling steps."""
    options = {"num_inference_steps": 2, "output_type": "np", "generator": torch.Generator().manual_seed(0)} | options
    return pipe(prompt, **options).images


def snapshot_of(pipe: Any) -> dict[str, Any]:
    """Return everything about a pipeline that a failed or undone operation must leave as it was."""
    config = {name: value for name, value in pipe.config.items() if name[0] != "_"}  # a mere repr() adds "_class_name"
    state: dict[str, Any] = {"config": config}
    for name, component in pipe.components.items():
        tokenizer = getattr(component, "tokenizer", component)
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            state[name] = (type(component), type(tokenizer), copy.deepcopy(tokenizer.init_kwargs))
            state[f"{name}.vocabulary"] = _vocabulary_of(tokenizer)
    for name, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            state[name] = {key: value.clone() for key, value in module.state_dict().items()}
            state[f"{name}.modules"] = [type(part) for part in module.modules()]
            state[f"{name}.training"] = [part.training for part in module.modules()]
            state[f"{name}.requires_grad"] = [weight.requires_grad for weight in module.parameters()]
            config = getattr(module, "config", {})
            state[f"{name}.config"] = config.to_dict() if hasattr(config, "to_dict") else dict(config)
            state[f"{name}.attributes"] = set(vars(module))
    return state


def _vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    if not hasattr(tokenizer, "_tokenizer"):  # a tokenizer in Python
        added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        return {
            "tokens": tokenizer.get_vocab(),
            "added": added,
            "trie": copy.deepcopy(tokenizer.tokens_trie.data),
            "len": len(tokenizer),
        }
    vocabulary = json.loads(tokenizer._tokenizer.to_str())
    for key in ("truncation", "padding"):  # of the last call
        vocabulary.pop(key)
    return vocabulary


def assert_same(before: Any, after: Any, where: str = "") -> None:
    """Assert that two snapshots are equal, tensors to the last bit; `where` names the first difference."""
    assert type(before) is type(after), where
    if isinstance(before, dict):
        assert list(before) == list(after), where
        for key in before:
            assert_same(before[key], after[key], f"{where}/{key}")
    elif isinstance(before, torch.Tensor):
        assert before.dtype == after.dtype, where
        assert torch.equal(before, after), where
    else:
        assert before == after, where


@pytest.fixture
def unchanged() -> Iterator[Callable[[Any], None]]:
    """Call it with a pipeline: at the end of the test the pipeline must be exactly as it was then."""
    watched: list[tuple[Any, dict[str, Any]]] = []
    yield lambda pipe: watched.append((pipe, snapshot_of(pipe)))
    for pipe, before in watched:
        assert_same(before, snapshot_of(pipe))
