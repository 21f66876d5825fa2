"""The loops that `training.py` compares, each on the same weights, picture and settings."""

import contextlib
import copy
import random
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import transformers
from diffusers import DiffusionPipeline
from loading import clip
from memory import build
from PIL import Image
from real_sizes import CAPTION, CASES
from torch import Tensor, nn

from diffusers_supreme_init import SupremeInitConfig, SupremeInitTextualInversionTrainer
from diffusers_supreme_init.backbones import Backbone, backbone_for
from diffusers_supreme_init.objective.losses import encode_each_once
from diffusers_supreme_init.objective.phases import compiled_blocks, frozen, ready_to_step
from diffusers_supreme_init.pictures import fit_to_square, to_pixel_values
from diffusers_supreme_init.templates import OBJECT_TEMPLATES

TOYBOX = Path(__file__).resolve().parent.parent / "examples" / "toybox"
PICTURE = TOYBOX / "concepts" / "mug.png"
LEARNING_RATE = 1e-4
"""Low: random weights should not diverge."""

SIZES = {"toybox": "Toybox", "sd15": "SD 1.5", "sdxl": "SDXL", "flux": "Flux.1-dev"}
"""Names of models on the command line, and in `real_sizes.py`."""
RESOLUTIONS = {"toybox": 64, "sd15": 512, "sdxl": 1024, "flux": 1024}
PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""Dtypes of the frozen parts, and what diffusers' script calls them."""


@dataclass(frozen=True)
class Setup:
    """What all variants have in common.

    Attributes:
        size: Of the model, a key of `SIZES`.
        folder: Where the model is saved; None: it is built with random weights.
        resolution: Side of the pictures, in pixels.
        batch: Samples a step.
        dtype: Of the frozen parts.
        compiled: Whether the denoiser's repeated blocks are compiled.
        checkpointed: Whether the denoiser recomputes its activations.
        script: Path of diffusers' script.
    """

    size: str
    folder: str | None
    resolution: int
    batch: int
    dtype: str
    compiled: bool
    checkpointed: bool
    script: str | None

    @property
    def words(self) -> str:
        """Five words that are a token each, from which the rows start."""
        return {"toybox": "a red mug with stripes", "sd15": "a b c d e"}.get(self.size, CAPTION)


@dataclass
class Clock:
    """Reads the time after `warmup` steps and after `steps` more."""

    warmup: int
    steps: int
    count: int = 0
    readings: list[tuple[float, float]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The steps that a variant has to make."""
        return self.warmup + self.steps

    def tick(self, *_: Any) -> None:
        """Count a step; a hook of optimizers, which pass arguments."""
        self.count += 1
        if self.count in (self.warmup, self.total):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.readings.append((time.perf_counter(), time.process_time()))

    def per_step(self) -> dict[str, float]:
        """Return the seconds of a step, on the wall and of processors."""
        if len(self.readings) != 2:
            raise RuntimeError(f"expected {self.total} steps, got {self.count}")
        (wall, processor), (later, processor_later) = self.readings
        return {
            "seconds": (later - wall) / self.steps,
            "processor_seconds": (processor_later - processor) / self.steps,
        }


def load(setup: Setup, device: torch.device) -> Any:
    """Return the pipeline, on the CPU; random weights are made on the device."""
    if setup.folder is not None:
        pipe = DiffusionPipeline.from_pretrained(setup.folder, dtype=getattr(torch, setup.dtype))
    else:
        [case] = [case for case in CASES if case.name == SIZES[setup.size]]
        pipe = build(replace(case, dtype=setup.dtype), device).to("cpu")
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    if setup.checkpointed:
        denoiser.enable_gradient_checkpointing()
    return pipe


def save_stable_diffusion(folder: str) -> None:
    """Save a Stable Diffusion 1.5 of random weights, with a tokenizer that diffusers' script can load."""
    [case] = [case for case in CASES if case.name == SIZES["sd15"]]
    pipe = build(replace(case, dtype="float32"), torch.device("cpu"))
    _, tokenizer = clip(768)
    tokenizer.model_max_length = 77
    pipe.register_modules(tokenizer=tokenizer)
    pipe.save_pretrained(folder)


def with_text_of_its_own(pipe: Any) -> Any:
    """Return a pipeline with copies of what loops change, and otherwise the same models."""
    changed = {
        name: copy.deepcopy(part)
        for name, part in pipe.components.items()
        if name.startswith("tokenizer") or type(part).__name__.startswith("CLIPText")
    }
    other = copy.copy(pipe)
    other.register_modules(**changed)
    return other


def ours(pipe: Any, setup: Setup, clock: Clock, device: torch.device) -> int:
    """Train with the package; return the bytes of what `save` writes."""
    config = SupremeInitConfig(
        max_train_steps=clock.total,
        train_batch_size=setup.batch,
        resolution=setup.resolution,
        learning_rate=LEARNING_RATE,
        validation_samples=0,
        compile=setup.compiled,
    )
    trainer = SupremeInitTextualInversionTrainer(pipe, PICTURE, "<mug>", setup.words, config=config)
    trainer.train()
    with tempfile.TemporaryDirectory() as folder:
        trainer.save(folder)
        return bytes_in(folder)


def whole_matrix(
    pipe: Any, setup: Setup, clock: Clock, device: torch.device, *, encode_once: bool = False
) -> int | None:
    """Train the whole embedding matrices of the text encoders that the package trains, as diffusers' script does."""
    backbone = backbone_for(pipe)
    encoders = [pair.encoder for pair in backbone.trained]
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    with frozen(modules), compiled_blocks(backbone.denoiser, enabled=setup.compiled):
        placeholder, new_ids = add_tokens(backbone, setup.words)
        pipe.to(device)
        for encoder in encoders:
            encoder.float()  # what is trained stays in float32 and is computed under autocast
        matrices = [encoder.get_input_embeddings().weight.requires_grad_(True) for encoder in encoders]
        before = [matrix.detach().clone() for matrix in matrices]
        optimizer = torch.optim.AdamW(matrices, lr=LEARNING_RATE, weight_decay=0.0)
        pixels = picture(setup.resolution).to(device)
        pixels = torch.stack([pixels, pixels.flip(-1)])
        both = backbone.encode_pictures(pixels)
        for _ in range(clock.total):
            flips = torch.randint(2, (setup.batch,))
            if encode_once:
                mean, std = both.mean[flips], both.std[flips]
            else:
                encoded = backbone.encode_pictures(pixels[flips])
                mean, std = encoded.mean, encoded.std
            latents = mean + std * torch.randn_like(mean)
            noise = torch.randn_like(latents)
            size = (latents.shape[-2], latents.shape[-1])
            timesteps = [backbone.timestep_at(quantile, size) for quantile in torch.rand(setup.batch).tolist()]
            prompts = [random.choice(OBJECT_TEMPLATES).format(placeholder) for _ in range(setup.batch)]
            with torch.autocast(device.type, getattr(torch, setup.dtype), enabled=setup.dtype != "float32"):
                conditioning = backbone.encode_prompts(prompts)
            loss(backbone, latents, noise, torch.tensor(timesteps, device=device), conditioning).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for matrix, old, ids in zip(matrices, before, new_ids, strict=True):
                    others = torch.ones(len(matrix), dtype=torch.bool)
                    others[ids] = False
                    matrix[others] = old[others]
    return None


def whole_matrix_encoded_once(pipe: Any, setup: Setup, clock: Clock, device: torch.device) -> int | None:
    """Train the whole matrices on latents that were encoded beforehand."""
    return whole_matrix(pipe, setup, clock, device, encode_once=True)


def script(pipe: Any, setup: Setup, clock: Clock, device: torch.device) -> int:
    """Run diffusers' script; return the bytes that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder, "data"), Path(folder, "output")
        data.mkdir()
        (data / PICTURE.name).write_bytes(PICTURE.read_bytes())
        arguments: dict[str, Any] = {
            "pretrained_model_name_or_path": setup.folder,
            "train_data_dir": data,
            "output_dir": output,
            "placeholder_token": "<mug>",
            "initializer_token": "a",
            "num_vectors": len(setup.words.split()),
            "resolution": setup.resolution,
            "train_batch_size": setup.batch,
            "max_train_steps": clock.total,
            "repeats": setup.batch * clock.total,  # one epoch
            "learning_rate": LEARNING_RATE,
            "adam_weight_decay": 0.0,
            "mixed_precision": PRECISIONS[setup.dtype],
            "save_steps": 10 * clock.total,  # never
            "checkpointing_steps": 10 * clock.total,
        }
        words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        with torchvision_stand_in(), mock.patch.object(sys, "argv", [setup.script, *words]):
            runpy.run_path(str(setup.script), run_name="__main__")
        return bytes_in(output)


def floor(pipe: Any, setup: Setup, clock: Clock, device: torch.device) -> int | None:
    """Make the passes of the frozen modules that no training of rows can do without."""
    backbone = backbone_for(pipe)
    prompts = [
        f"photo {index // 2} of {setup.words}" for index in range(setup.batch)
    ]  # the samples of a pair share one
    side = setup.resolution // pipe.vae_scale_factor
    latents = torch.randn(setup.batch, backbone.autoencoder.config.latent_channels, side, side, device=device)
    timesteps = [backbone.timestep_at(quantile, (side, side)) for quantile in torch.rand(len(prompts)).tolist()]
    inputs = (latents, torch.randn_like(latents), torch.tensor(timesteps, device=device))
    with contextlib.ExitStack() as stack:
        stack.enter_context(ready_to_step(backbone, device, prompts, compiling=setup.compiled))
        for pair in backbone.pairs:
            stack.enter_context(tokenizing_once(pair.tokenizer))
        for pair in backbone.trained:
            pair.embedding.register_forward_hook(lambda module, args, output: output.requires_grad_())
        for _ in range(clock.total):
            loss(backbone, *inputs, encode_each_once(backbone, prompts)).backward()
            clock.tick()
    return None


VARIANTS: dict[str, Callable[[Any, Setup, Clock, torch.device], int | None]] = {
    "ours": ours,
    "whole matrix": whole_matrix,
    "whole matrix, picture encoded once": whole_matrix_encoded_once,
    "diffusers' script": script,
    "floor": floor,
}
"""Each makes the steps that its clock wants, and returns the bytes that it wrote, if it writes any."""


def add_tokens(backbone: Backbone, words: str) -> tuple[str, list[list[int]]]:
    """Give every trained text encoder a token and a row for each word; return the placeholder and the rows' ids."""
    tokens = [f"<mug>_{index}" for index in range(len(words.split()))]
    all_ids = []
    for pair in backbone.trained:
        initial_ids = pair.tokenizer.convert_tokens_to_ids(pair.tokenizer.tokenize(words))
        pair.tokenizer.add_tokens(tokens)
        ids = pair.tokenizer.convert_tokens_to_ids(tokens)
        length = max(max(ids) + 1, pair.embedding.num_embeddings)
        pair.encoder.resize_token_embeddings(length, mean_resizing=False)
        matrix = pair.encoder.get_input_embeddings().weight
        with torch.no_grad():
            matrix[ids] = matrix[initial_ids[: len(ids)]]
        all_ids.append(ids)
    return " ".join(tokens), all_ids


def loss(backbone: Backbone, latents: Tensor, noise: Tensor, timesteps: Tensor, conditioning: Any) -> Tensor:
    """Return the mean squared error of a batch."""
    side = float(latents.shape[-1] * backbone.pipe.vae_scale_factor)
    geometry = latents.new_tensor([[side, side, 0, 0, side, side]]).expand(len(latents), -1)
    noisy = backbone.add_noise(latents, noise, timesteps)
    prediction = backbone.predict(noisy, timesteps, conditioning, geometry)
    return nn.functional.mse_loss(prediction.float(), backbone.target(latents, noise, timesteps).float())


def picture(resolution: int) -> Tensor:
    """Return the picture, ``(3, resolution, resolution)`` in [-1, 1]."""
    with Image.open(PICTURE) as image:
        return to_pixel_values(fit_to_square(image.convert("RGB"), resolution, center_crop=True))


def bytes_in(folder: str | Path) -> int:
    """Return the size of all files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


@contextlib.contextmanager
def tokenizing_once(tokenizer: Any) -> Iterator[None]:
    """Let a tokenizer answer from memory what it was asked before."""
    kind, known = type(tokenizer), {}

    def remembering(method: Callable[..., Any]) -> Callable[..., Any]:
        def ask(self: Any, *args: Any, **options: Any) -> Any:
            key = (method, id(self), repr(args), repr(options))
            if key not in known:
                known[key] = method(self, *args, **options)
            return known[key]

        return ask

    # Pipelines call it, and for each prompt `tokenize`, to look for tokens of several vectors.
    changed = {name: remembering(getattr(kind, name)) for name in ("__call__", "tokenize")}
    with mock.patch.multiple(kind, **changed):
        yield


@contextlib.contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Offer `RandomHorizontalFlip` as torchvision's, unless that is installed."""
    # transformers remembers this answer. Asked later, it would find the stand-in and import what that does not have.
    if transformers.utils.import_utils.is_torchvision_available():
        yield
        return

    class RandomHorizontalFlip:
        def __init__(self, p: float) -> None:
            self.p = p

        def __call__(self, image: Image.Image) -> Image.Image:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < self.p else image

    package: Any = ModuleType("torchvision")
    package.__spec__ = ModuleSpec("torchvision", None)
    package.transforms = ModuleType("torchvision.transforms")
    package.transforms.RandomHorizontalFlip = RandomHorizontalFlip
    with mock.patch.dict(sys.modules, {"torchvision": package, "torchvision.transforms": package.transforms}):
        yield
