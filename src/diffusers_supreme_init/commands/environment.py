"""`supreme-init env`: what a bug report needs."""

import importlib.metadata
import os
import platform

import torch
from huggingface_hub import constants

from ..errors import ConfigError
from ..version import versions
from .parser import Parsed
from .toybox import toybox_folder

_OTHERS = ("huggingface_hub", "safetensors", "tokenizers", "torchvision", "bitsandbytes", "torchao", "optimum-quanto")


def run(parsed: Parsed) -> None:
    """Print versions, devices and folders; no name, token or path of the user's files."""
    facts = {"system": platform.platform(), **versions()}
    for name in _OTHERS:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    facts["processor threads"] = str(torch.get_num_threads())
    facts["devices"] = ", ".join(_devices())
    facts["Hub"] = "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else constants.ENDPOINT
    facts["models are kept in"] = constants.HF_HUB_CACHE.replace(os.path.expanduser("~"), "~", 1)
    try:
        facts["toybox"] = str(toybox_folder()).replace(os.path.expanduser("~"), "~", 1)
    except ConfigError:
        facts["toybox"] = "not installed"
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")


def _devices() -> list[str]:
    found = [
        f"{torch.cuda.get_device_name(number)} ({torch.cuda.get_device_properties(number).total_memory / 1e9:.0f} GB)"
        for number in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found or ["cpu"]
