"""What determines the rows of all concepts of a run: the model, LoRAs in it and the settings."""

from typing import Any

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..training.checkpoint import fingerprint

_GENERATION = 1
"""Raised when the same pictures, words and settings give other rows than before.

Versions of other packages are not among the facts: a thousand concepts are not trained anew because one of them got a
new number. They stand in each concept's record.
"""


def facts_of_run(backbone: Backbone, config: SupremeInitConfig) -> dict[str, Any]:
    """Return model, LoRAs and settings as JSON values."""
    found = fingerprint(backbone, config, [])
    del found["concepts"]
    settings = {**found["settings"], "max_train_steps": config.max_train_steps}
    return {**found, "generation": _GENERATION, "settings": settings}
