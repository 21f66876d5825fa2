"""The toybox, a small Stable Diffusion that draws toys: where it is, and how to train on it."""

import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..inputs.paths import expanded
from .arguments import ToyboxArguments
from .parser import Parsed

NAME = "toybox"
"""As ``--model``."""
_PACKAGE = "diffusers_supreme_init_toybox"
_IN_A_CLONE = Path(__file__).resolve().parents[3] / "examples" / NAME

TOYBOX_GUIDANCE_SCALE = 2.0
"""More makes its colors glaring, as with all models of velocity that end in pure noise."""
TOYBOX_TRAINING: dict[str, Any] = {"snr_gamma": 5.0, "flip_probability": 0.0}
"""How to train on it: less from the noisiest timesteps, so that prompts can still change colors and background, as
with the paper's model, which predicts noise; and never mirrored, as its toys never are."""

PROMPTS = ("a photo of a {}", "a photo of a {} with yellow trim", "a photo of a {} on a gray background")
"""Sentences that it has words for, instead of the usual ones on cards and in reports."""
GALLERY_PROMPTS = (
    "a photo of a {}",
    "a photo of a {} on a gray background",
    "a photo of a {} on a mint background",
    "a photo of a {} with yellow trim",
    "a photo of a {} with green trim",
    "a photo of a {} with white spots",
)
"""Six of them for the studio, in place of `EDITING_PROMPTS`."""


def toybox_folder() -> Path:
    """Return the folder of the toybox: that of its installed package, or of the clone that this file is in.

    Raises:
        ConfigError: There is neither.
    """
    spec = find_spec(_PACKAGE)
    found = [Path(folder) for folder in (spec.submodule_search_locations or () if spec else ())]
    for folder in (*found, _IN_A_CLONE):
        if (folder / "pipeline" / "model_index.json").is_file():
            return folder
    raise ConfigError(
        "the toybox is not installed; pip install diffusers-supreme-init-toybox (22 MB), or run from a clone"
    )


def path_of(name: str) -> str:
    """Return the folder of the toybox for its name, and any other name as it is."""
    return str(toybox_folder() / "pipeline") if is_toybox(name) else name


def is_toybox(name: str | None) -> bool:
    """Whether a pipeline is asked for that is the toybox: by its name, or as its folder."""
    if name is None or name == NAME:
        return name is not None
    try:
        return Path(name).resolve() == (toybox_folder() / "pipeline").resolve()
    except (ConfigError, OSError):
        return False


def toybox_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what other defaults apply with the toybox as the model: its own describers, and how it likes to be used.

    Raises:
        ConfigError: It is asked for and not installed.
    """
    if not is_toybox(given.get("pretrained_model_name_or_path")):
        return {}
    folder = toybox_folder()
    # Labels of one's own are compared by CLIP, which the toybox does not have.
    names = ("captioner", "segmenter") if given.get("candidate_labels") else ("captioner", "segmenter", "classifier")
    return {**{name: str(folder / name) for name in names}, **TOYBOX_TRAINING}


def run(parsed: Parsed) -> None:
    """Say where the toybox is, and what can be done with it; copy its pictures if asked to.

    Raises:
        ConfigError: It is not installed, or the pictures would replace files.
    """
    folder, target = toybox_folder(), parsed.of(ToyboxArguments).output_dir
    pictures = sorted([*(folder / "concepts").glob("*.png"), *(folder / "scenes").glob("*.png")])
    if target is not None:
        wanted = expanded(target)
        if taken := [path.name for path in pictures if (wanted / path.name).exists()]:
            raise ConfigError(f"output_dir: expected a folder without {taken[0]}, got {target!r}")
        wanted.mkdir(parents=True, exist_ok=True)
        pictures = [Path(shutil.copy(path, wanted)) for path in pictures]
    at = {path.stem: path for path in pictures}
    print(
        f"The toybox is a small Stable Diffusion that draws toys at 64 pixels, in {folder}.\n"
        f"Pictures to learn from: {', '.join(at)}. Try:\n\n"
        f'  supreme-init train {at["mug"]} --model toybox --token "<mug>"\n'
        '  supreme-init generate "a photo of <mug>" "a photo of <mug> with green trim" --concepts out/mug\n'
        f'  supreme-init train {at["scene_2"]} --model toybox --token "<car>" --points 79,195\n'
        f"  supreme-init compare {at['mug']} {at['car']} --model toybox"
        + ("" if target else "\n\nsupreme-init toybox --output_dir toys copies the pictures, for shorter paths.")
    )
