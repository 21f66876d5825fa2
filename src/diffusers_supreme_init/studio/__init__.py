"""The studio: a page on which one points at a thing, watches a model learn the word for it, and takes it home.

Only `calls`, `page`, `server` and the rooms of `steps` know gradio; the other modules say what happens at each step.
"""

from .server import StudioServer, open_studio
from .settings import StudioSettings

__all__ = ["StudioServer", "StudioSettings", "open_studio"]
