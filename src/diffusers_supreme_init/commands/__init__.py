"""The command `supreme-init`, also ``python -m diffusers_supreme_init``."""

from .main import main
from .toybox import TOYBOX_GUIDANCE_SCALE, TOYBOX_TRAINING, toybox_folder

__all__ = ["TOYBOX_GUIDANCE_SCALE", "TOYBOX_TRAINING", "main", "toybox_folder"]
