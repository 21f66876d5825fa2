"""The versions that results depend on, ours in one place: packaging, embedding files and model cards read it here."""

import functools
import platform
from importlib import metadata

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions that results depend on, by package."""
    packages = ("accelerate", "diffusers", "peft", "torch", "transformers")
    own = {"python": platform.python_version(), "diffusers_supreme_init": __version__}
    return own | {name: _version_of(name) for name in packages}


@functools.cache
def _version_of(package: str) -> str:
    return metadata.version(package)  # reads a file
