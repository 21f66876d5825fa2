"""The pipeline that a command works with: which one, is it there, and loaded as asked for."""

import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig
from diffusers.quantizers import auto as quantizers
from huggingface_hub import constants
from transformers.quantizers import auto as encoder_quantizers

from ..backbones import family_defaults
from ..errors import ConfigError, one_line
from .arguments import DrawingArguments, ModelArguments
from .toybox import NAME, TOYBOX_GUIDANCE_SCALE, is_toybox, path_of

_MODELS = (
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "2.1 GB"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "6.9 GB"),
    ("stabilityai/stable-diffusion-3.5-large", "27.4 GB"),
    ("black-forest-labs/FLUX.1-dev", "33.7 GB"),
    ("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "10.9 GB"),
    ("Efficient-Large-Model/Sana_1600M_1024px_diffusers", "9.1 GB"),
)
"""Pipelines of supported families, and all of their weights in 16 bits, computed from `benchmarks/real_sizes.py`."""


def check_model(model: ModelArguments) -> dict[str, Any]:
    """Check that a model is named and there, before anything is loaded.

    Returns:
        The content of its ``model_index.json``.

    Raises:
        ConfigError: There is none of that name, or the Hub cannot be reached.
    """
    name = model.pretrained_model_name_or_path
    if name is None:
        listed = "".join(f"\n  {known}, {size}" for known, size in _MODELS)
        raise ConfigError(
            f"expected --model, a Hub id or a folder. Models that can be trained, with their 16-bit weights:{listed}\n"
            f"  {NAME}, 22 MB: draws toys at 64 pixels, to try everything without a network or a GPU"
        )
    return _config_of(path_of(name), model.revision)


def load_pipeline(model: ModelArguments) -> Any:
    """Return the pipeline, on the CPU.

    Raises:
        ConfigError: There is none of that name, or it cannot be quantised as asked for.
    """
    config = check_model(model)
    options: dict[str, Any] = {"revision": model.revision, "variant": model.variant}
    if model.components_to_leave_out:
        _check_components(config, "components_to_leave_out", model.components_to_leave_out)
        options |= dict.fromkeys(model.components_to_leave_out)
    if model.quant_backend is None:
        if model.components_to_quantize or model.quant_kwargs != "{}":
            raise ConfigError("quant_backend: expected one with components_to_quantize or quant_kwargs, got none")
        return _load(model, config, options)
    try:
        quantized = PipelineQuantizationConfig(quant_mapping=_quantised(model, config))
        return _load(model, config, options | {"quantization_config": quantized})
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"quant_backend {model.quant_backend!r}: {one_line(error, 200)}") from error


def as_typed(model: ModelArguments) -> str:
    """Return the name of a model as it is typed after ``--model``."""
    name = str(model.pretrained_model_name_or_path)
    return NAME if is_toybox(name) else name


def sampling_of(drawing: DrawingArguments, model: ModelArguments) -> dict[str, Any]:
    """Return arguments of the pipeline; those left open are its own, or what suits the toybox."""
    usual = {"guidance_scale": TOYBOX_GUIDANCE_SCALE} if is_toybox(model.pretrained_model_name_or_path) else {}
    return usual | {name: value for name, value in vars(drawing).items() if value is not None}


def _load(model: ModelArguments, config: dict[str, Any], options: dict[str, Any]) -> Any:
    name = str(model.pretrained_model_name_or_path)
    try:
        pipe = DiffusionPipeline.from_pretrained(path_of(name), dtype=_dtype(model.dtype, config), **options)
    except (OSError, ValueError) as error:
        raise _no_pipeline(name, error) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def device() -> str:
    """Return where pictures are drawn."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(name: str, config: dict[str, Any]) -> torch.dtype:
    """Return the precision of the weights; ``"auto"``: on a GPU the usual one of the model's family, else float32."""
    if name == "auto":
        defaults = family_defaults(str(config["_class_name"]))
        name = defaults.dtype if defaults is not None and torch.cuda.is_available() else "float32"
        if name == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = "float16"
    return getattr(torch, name)


def _config_of(name: str, revision: str | None) -> dict[str, Any]:
    try:
        return dict(DiffusionPipeline.load_config(name, revision=revision))
    except (OSError, ValueError) as error:
        raise _no_pipeline(name, error) from error


def _quantised(model: ModelArguments, config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of each component that is quantised: diffusers and transformers have their own."""
    configs = {"diffusers": quantizers.AUTO_QUANTIZATION_CONFIG_MAPPING}
    configs["transformers"] = encoder_quantizers.AUTO_QUANTIZATION_CONFIG_MAPPING
    if any(model.quant_backend not in known for known in configs.values()):
        common = sorted(set.intersection(*map(set, configs.values())))
        raise ConfigError(f"quant_backend: expected one of {', '.join(common)}, got {model.quant_backend!r}")
    try:
        arguments = json.loads(model.quant_kwargs)
    except ValueError as error:
        raise ConfigError(f"quant_kwargs: expected JSON, got {model.quant_kwargs!r} ({error})") from error
    wanted = model.components_to_quantize or ["transformer", "unet"]
    libraries = _check_components(config, "components_to_quantize", model.components_to_quantize)
    try:
        return {
            name: configs[libraries[name]][model.quant_backend](**arguments) for name in wanted if name in libraries
        }
    except (TypeError, ValueError) as error:
        raise ConfigError(f"quant_kwargs: {one_line(error, 200)}") from error


def _check_components(config: dict[str, Any], option: str, names: Sequence[str]) -> dict[str, str]:
    """Return the library of each component of the pipeline."""
    libraries = {name: part[0] for name, part in config.items() if isinstance(part, list) and part[0] is not None}
    if unknown := [name for name in names if name not in libraries]:
        raise ConfigError(f"{option}: expected some of {', '.join(libraries)}, got {', '.join(unknown)}")
    return libraries


def _no_pipeline(name: str, error: Exception) -> ConfigError:
    reason = one_line(error, 200)
    if constants.HF_HUB_OFFLINE and not os.path.exists(name):
        reason = "it is not downloaded yet, and HF_HUB_OFFLINE forbids it"
    return ConfigError(f"model: expected a folder or Hub id of a pipeline, got {name!r}: {reason}")
