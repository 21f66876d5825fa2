"""The format that another program reads: it depends on the text encoders that a concept has rows for.

What each program reads was taken from its code: the probe and ``TextualInversionModelRaw`` of InvokeAI,
``create_embedding_from_data`` of A1111 and Forge, ``modules/textual_inversion.py`` of SD.Next, ``load_weights`` and
``gen_img.py`` of sd-scripts, ``initial_embedding_file`` and ``base_embeddings`` of invoke-training. The table for
users is in ``docs/formats.md``; ``tests/programs.py`` holds the reading rules.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from ..errors import EmbeddingFileError, shown
from .embedding_file import LearnedEmbedding
from .readers import EmbeddingFormat

EmbeddingProgram: TypeAlias = Literal["forge", "sdnext", "invokeai", "sd-scripts", "invoke-training"]
"""Programs to write for that read one format for Stable Diffusion 1 and 2 and another for SDXL.

``"diffusers"``, ``"comfyui"``, ``"onetrainer"`` and ``"a1111"`` of `EmbeddingFormat` are names of programs too.
"""

_SD_FORMATS: dict[str, EmbeddingFormat] = {
    "a1111": "a1111",
    "forge": "kohya",
    "sdnext": "kohya",
    "invokeai": "kohya",  # its probe takes the number of rows in diffusers' and ComfyUI's files for their width
    "sd-scripts": "kohya",
    "invoke-training": "diffusers",  # `initial_embedding_file` looks for the placeholder token
}
"""``{program: its format for Stable Diffusion 1 and 2}``. Their format for SDXL is ComfyUI's."""

_SD_WIDTHS = (768, 1024)
_SD_ARCHITECTURE = re.compile(r"stable-diffusion(-v[12][^/]*)?/")
_XL_ARCHITECTURE = re.compile(r"stable-diffusion-xl")
_XL_KEYS = ("clip_l", "clip_g")


def format_for(
    name: str, path: Path, embeddings: Sequence[LearnedEmbedding], keys: Sequence[str | None]
) -> EmbeddingFormat:
    """Return the format to write for a format or a program.

    Args:
        name: An `EmbeddingFormat` or `EmbeddingProgram`.
        path: The target.
        embeddings: The concept, one embedding per text encoder.
        keys: The key of each embedding's text encoder; None if it is unknown.

    Raises:
        EmbeddingFileError: There is no such format or program, or the program cannot read this concept.
    """
    formats: tuple[EmbeddingFormat, ...] = get_args(EmbeddingFormat)
    if not isinstance(name, str) or name not in _SD_FORMATS:
        for known in formats:
            if name == known:
                return known
        names = ", ".join((*formats, *get_args(EmbeddingProgram)))
        raise EmbeddingFileError(f"format: expected one of {names}, got {shown(name)}")
    if is_stable_diffusion(embeddings, keys):
        if name == "sdnext" and path.suffix.lower() != ".safetensors":
            raise EmbeddingFileError(
                f"sdnext: expected a target that ends in .safetensors, got {str(path)!r}; the only pickles that it "
                "reads are A1111's"
            )
        return _SD_FORMATS[name]
    _check_is_xl(name, embeddings, keys)
    return "comfyui"


def is_stable_diffusion(embeddings: Sequence[LearnedEmbedding], keys: Sequence[str | None]) -> bool:
    """Whether a concept is one of Stable Diffusion 1 or 2, which have a single text encoder, a CLIP."""
    if len(embeddings) != 1:
        return False
    if embeddings[0].architecture is not None:
        return _SD_ARCHITECTURE.match(embeddings[0].architecture) is not None
    return keys[0] in ("clip_l", "clip_h") or (keys[0] is None and embeddings[0].hidden_size in _SD_WIDTHS)


def check_has_both_of_xl(name: str, embeddings: Sequence[LearnedEmbedding], keys: Sequence[str | None]) -> None:
    """Check that a concept of SDXL has rows for both text encoders, which a program needs.

    Raises:
        EmbeddingFileError: Those for one of them are missing.
    """
    is_xl = any(_XL_ARCHITECTURE.match(one.architecture or "") for one in embeddings)
    if is_xl and set(keys) != set(_XL_KEYS):
        raise EmbeddingFileError(
            f"{name}: expected rows for both text encoders of SDXL, got them for {_list(keys)} alone, which it cannot "
            "read; train both (train_text_encoders), or write format='comfyui'"
        )


def _check_is_xl(name: str, embeddings: Sequence[LearnedEmbedding], keys: Sequence[str | None]) -> None:
    check_has_both_of_xl(name, embeddings, keys)
    if set(keys) != set(_XL_KEYS) or len(keys) != len(_XL_KEYS):
        raise EmbeddingFileError(
            f"{name}: expected a concept of Stable Diffusion 1, 2 or XL, whose embeddings it reads, got rows for "
            f"{_list(keys)}; write format='comfyui' for ComfyUI, 'onetrainer' or 'diffusers'"
        )
    counts = [one.num_vectors for one in embeddings]
    if len(set(counts)) > 1 and name != "invokeai":
        raise EmbeddingFileError(
            f"{name}: expected as many rows for {keys[0]} as for {keys[1]}, since it reads one number for both, got "
            f"{counts[0]} and {counts[1]}; train both from the same words, or write format='comfyui'"
        )


def _list(keys: Sequence[str | None]) -> str:
    return ", ".join(key or "an unknown text encoder" for key in keys) or "no text encoder"
