"""The command `supreme-init`, also ``python -m diffusers_supreme_init``."""

from .main import main
from .toybox import toybox_folder

__all__ = ["main", "toybox_folder"]
