"""The names of all files and folders that this package writes, and the name that a file gives its concept."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from .errors import PlaceholderTokenError, shown

WEIGHT_NAME = "learned_embeds.safetensors"
WEIGHT_NAMES = (WEIGHT_NAME, *(f"learned_embeds_{number}.safetensors" for number in (2, 3, 4)))
"""Names of the embedding files of a concept, one per text encoder."""

SAFETENSORS_SUFFIXES = (".safetensors", ".pti")  # cog-sdxl writes .pti
PICKLE_SUFFIXES = (".pt", ".bin", ".pth", ".ckpt")

CARD_NAME = "README.md"
RECORD_NAME = "training.json"
EVALUATION_NAME = "evaluation.json"
REPORT_NAME = "report.html"
SHEET_NAME = "sheet.png"
RUN_NAME = "run.yaml"
SOFTWARE = "diffusers-supreme-init"
"""What files that no record lists say of themselves, so that nobody else's is replaced."""
PAGE_NAME = "index.html"
TABLE_NAME = "summary.csv"
CHECKPOINT_NAME = "checkpoint.safetensors"

_PACK = re.compile(r"pack-\d+-of-\d+\.safetensors")
_NUMBERED_IMAGE = re.compile(r"(images|pictures)/\d+\.png")
_IS_NO_NAME = re.compile(r"learned_embeds|(embeddings?|(\w+_)?model|pytorch_lora_weights)\Z", re.IGNORECASE)
_LONGEST_NAME = 60
"""In characters. At four bytes each, they and the digest still fit into the 255 bytes of a file name."""
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})
"""Names that Windows reserves for devices, in every folder."""


def folder_name(placeholder_token: str) -> str:
    """Return the name of a concept's folder: ``mug`` for ``<mug>``, ``mug-`` and a digest for similar tokens.

    The name depends only on the token, so a concept keeps its folder whatever is saved beside it, here or on the Hub.
    Different tokens get different names, even on disks that ignore case or normalise Unicode. The names are allowed
    everywhere: they contain only letters, digits, ``-`` and ``_``, and Windows does not reserve them for devices.
    """
    if not isinstance(placeholder_token, str):
        raise PlaceholderTokenError(f"expected a placeholder token such as '<mug>', got {shown(placeholder_token)}")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", placeholder_token).casefold())
    plain = re.sub(r"[^\w-]", "", folded)[:_LONGEST_NAME].strip("-")
    could_be_digest = re.search(r"-[0-9a-f]{12}\Z", plain) is not None
    if placeholder_token == f"<{plain}>" and plain and plain not in _DEVICES and not could_be_digest:
        return plain
    digest = hashlib.sha256(placeholder_token.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{plain or 'concept'}-{digest}"


def weight_name_for(encoder_name: str) -> str:
    """Return the file name for a text encoder: ``learned_embeds_2.safetensors`` for ``text_encoder_2``."""
    number = re.search(r"_(\d+)$", encoder_name)
    return f"learned_embeds_{number[1]}.safetensors" if number else WEIGHT_NAME


def snapshot_name(name: str, step: int) -> str:
    """Return the name that the embedding file `name` has in a snapshot: ``learned_embeds-steps-20.safetensors``."""
    return name.replace(".safetensors", f"-steps-{step}.safetensors")


def preview_name(step: int) -> str:
    """Return the path of a step's preview sheet, relative to the `output_dir` of the run."""
    return f"previews/step-{step}.png"


def sample_name(index: int) -> str:
    """Return the path of sample image number `index`, relative to the card that shows it."""
    return f"images/{index}.png"


def picture_name(index: int) -> str:
    """Return the path of training picture number `index`, relative to the concept's card."""
    return f"pictures/{index}.png"


def is_numbered_image(name: str) -> bool:
    """Whether a name is one that `sample_name` or `picture_name` gives."""
    return _NUMBERED_IMAGE.fullmatch(name) is not None


def pack_name(index: int, count: int) -> str:
    """Return the name of a pack of a library: no concept's folder has a dot."""
    return f"pack-{index}-of-{count}.safetensors"


def is_pack_name(name: str) -> bool:
    """Whether a name is one that `pack_name` gives."""
    return _PACK.fullmatch(name) is not None


def concept_file_names(
    encoder_names: Sequence[str], *, num_samples: int, num_pictures: int, is_evaluated: bool
) -> list[str]:
    """Return the names of all files of a saved concept, relative to its folder.

    Args:
        encoder_names: The text encoders it was trained for.
        num_samples: Number of sample images on its card.
        num_pictures: Number of training pictures saved with it.
        is_evaluated: Whether an evaluation is saved with it.
    """
    weights = [weight_name_for(name) for name in encoder_names]
    samples = [sample_name(index) for index in range(num_samples)]
    pictures = [picture_name(index) for index in range(num_pictures)]
    return sorted([*weights, CARD_NAME, RECORD_NAME, *samples, *pictures, *[EVALUATION_NAME] * is_evaluated])


def token_from_name(path: str | os.PathLike[str]) -> str | None:
    """Return ``<mug>`` for ``mug.pt``, as other programs name concepts; None if any concept could have the name."""
    stem = unicodedata.normalize("NFC", Path(path).stem)  # macOS returns names of files in decomposed letters
    core = re.sub(r"[<>|\s\x00-\x1f\x7f]+", "-", stem).strip("-")
    return None if not core or _IS_NO_NAME.match(core) else f"<{core}>"
