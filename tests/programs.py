"""What other programs take from an embedding file: their reading rules, written from the facts of their code.

Each function returns ``{width: rows}``, the rows that the program would put into its text encoders; where it would
take too few rows, or none, so does the function. `UnreadableError` stands for an error or a skipped file. The facts
come from snapshots of their repositories, the newest of August 2026:

* ComfyUI: ``load_embed`` and the ``embedding_key`` of its tokenizers (``comfy/sd1_clip.py``, ``comfy/text_encoders``).
* A1111: ``EmbeddingDatabase.load_from_file``; Forge: ``create_embedding_from_data`` and each engine's expected width.
* SD.Next: ``open_embeddings``, ``load_diffusers_embedding``, ``insert_vectors`` (``modules/textual_inversion.py``).
* InvokeAI: the probe ``TI_Config_Base`` and ``TextualInversionModelRaw.from_checkpoint``.
* sd-scripts: ``load_weights`` of both trainers, and ``gen_img.py``.
* invoke-training: ``initial_embedding_file`` (SD) and ``base_embeddings`` (SDXL).
* OneTrainer: ``__load_embedding`` and the ``Base*Setup`` of each model.
"""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

Rows = dict[int, Tensor]


class UnreadableError(Exception):
    """The program refuses or skips the file."""


def need(holds: bool, why: str) -> None:
    """Raise `UnreadableError` unless a condition of the program holds."""
    if not holds:
        raise UnreadableError(why)


def contents(path: Path) -> dict[str, Any]:
    """Return what both kinds of files hold; no program asks more of a pickle than tensors and plain values."""
    if path.suffix == ".safetensors":
        return dict(safetensors.torch.load_file(path))
    return dict(torch.load(path, weights_only=True))


def first(values: dict[str, Any]) -> Tensor:
    """Return the first tensor; a single vector is one row."""
    value = next(iter(values.values()))
    return value[None] if value.ndim == 1 else value


COMFYUI_KEYS = {
    "sd1": {"clip_l": 768},
    "sd2": {"clip_h": 1024},
    "sdxl": {"clip_l": 768, "clip_g": 1280},
    "sd3": {"clip_l": 768, "clip_g": 1280, "t5xxl": 4096},
    "flux": {"clip_l": 768, "t5xxl": 4096},
    "pixart": {"t5xxl": 4096},
    "hidream": {"clip_l": 768, "clip_g": 1280, "t5xxl": 4096, "llama": 4096},
    "hunyuan_video": {"clip_l": 768, "llama": 4096},
    "lumina2": {"gemma2_2b": 2304},
}
"""``{family: {key that a tokenizer looks for: width of its text encoder}}``."""


def comfyui(path: Path, family: str) -> dict[str, Tensor]:
    """Return ``{key: rows}``: each tokenizer takes its key, or else the first tensor, whatever it is."""
    content = contents(path)
    if "string_to_param" in content:
        content = content["string_to_param"]
    taken = {}
    for key, width in COMFYUI_KEYS[family].items():
        rows = content.get(key, next(iter(content.values())))
        rows = rows[None] if rows.ndim == 1 else rows
        need(rows.shape[1] == width, f"{key}: rows of width {rows.shape[1]} are left out with a warning")
        taken[key] = rows
    return taken


def webui(path: Path, family: str, *, is_forge: bool = False) -> Rows:
    """Return the rows that A1111, or Forge, takes; both number the vectors of SDXL by those of clip_g."""
    need(path.suffix in (".pt", ".bin", ".safetensors"), "ending")
    content = contents(path)
    if "string_to_param" in content:
        need(len(content["string_to_param"]) == 1, "several terms")
        taken = {"": first(content["string_to_param"])}
        shape = taken[""].shape[1]
    elif {"clip_l", "clip_g"} <= set(content):
        taken = {key: content[key] for key in ("clip_l", "clip_g")}
        shape = sum(rows.shape[1] for rows in taken.values())
        need(len({rows.shape[0] for rows in taken.values()}) == 1, "rows of one encoder overlap the next words")
    else:
        need(len(content) == 1, "several terms")
        taken = {"": first(content)}
        shape = taken[""].shape[1]
    expected = {"sd1": {768}, "sd2": {1024}, "sdxl": {2048}}
    if is_forge:
        expected |= {"sd3": {768, 1280}, "flux": {768}}
    need(family in expected and shape in expected[family], f"width {shape} is skipped")
    return {rows.shape[1]: rows for rows in taken.values()}


def sdnext(path: Path, family: str) -> Rows:
    """Return the rows that SD.Next takes: by width, and as many of each as the first tensor has."""
    widths = {"sd1": [768], "sd2": [1024], "sdxl": [768, 1280]}
    need(family in widths, "a model without embeddings")
    if path.suffix == ".safetensors":
        vectors = list(contents(path).values())
    else:
        try:
            vectors = [contents(path)["string_to_param"]["*"]]
        except KeyError:
            raise UnreadableError("string_to_param") from None
    sizes = [vector.shape[-1] for vector in vectors]
    need(all(size in widths[family] for size in sizes) and len(sizes) == len(widths[family]), "another model's")
    count = len(vectors[0])
    return {vector.shape[-1]: torch.stack(list(vector.unbind())[:count]) for vector in vectors}


def invokeai(path: Path, family: str) -> Rows:
    """Return the rows that InvokeAI takes, after its probe said which model they are for."""
    content = contents(path)
    if "string_to_token" in content:
        width = first(content["string_to_param"]).shape[-1]
    elif "emb_params" in content:
        width = content["emb_params"].shape[-1]
    elif "clip_g" in content:
        width = content["clip_g"].shape[-1]
    else:
        width = next(iter(content.values())).shape[0]
    need({768: "sd1", 1024: "sd2", 1280: "sdxl"}.get(width) == family, f"taken for a model of width {width}")
    if "string_to_param" in content:
        taken = [first(content["string_to_param"])]
    elif "emb_params" in content:
        taken = [content["emb_params"]]
    elif {"clip_g", "clip_l"} <= set(content):
        taken = [content["clip_g"], content["clip_l"]]
    else:
        taken = [first(content)]
    need(family != "sdxl" or len(taken) == 2, "a text encoder of another width")
    return {rows.shape[1]: rows for rows in taken}


def sd_scripts(path: Path, family: str) -> Rows:
    """Return the rows that sd-scripts takes, for training on and for ``gen_img.py``."""
    content = contents(path)
    if family == "sdxl":
        need({"clip_l", "clip_g"} <= set(content), "KeyError")
        taken = [content["clip_l"], content["clip_g"]]
        need(taken[0].shape[0] == taken[1].shape[0], "more rows than tokens are left out")
    else:
        need(family in ("sd1", "sd2"), "another trainer")
        taken = [first(content.get("string_to_param", content))]
    return {rows.shape[1]: rows for rows in taken}


def invoke_training(path: Path, family: str, token: str = "<mug>") -> Rows:
    """Return the rows that invoke-training takes."""
    content = contents(path)
    if family == "sdxl":
        need({"clip_l", "clip_g"} <= set(content), "KeyError")
        return {rows.shape[1]: rows for rows in (content["clip_l"], content["clip_g"])}
    need(family in ("sd1", "sd2") and token in content, "no embedding for the placeholder token")
    return {content[token].shape[1]: content[token]}


ONETRAINER_KEYS = {
    "sd1": ["emp_params"],
    "sd2": ["emp_params"],
    "sdxl": ["clip_l", "clip_g"],
    "sd3": ["clip_l", "clip_g", "t5"],
    "flux": ["clip_l", "t5"],
    "pixart": ["t5"],
    "sana": ["gemma"],
    "chroma": ["t5"],
    "hidream": ["clip_l", "clip_g", "t5", "llama"],
    "hunyuan_video": ["llama", "clip_l"],
    "wuerstchen": ["clip_g"],
}
_MAY_BE_MISSING = ("sd3", "flux", "hidream", "hunyuan_video", "chroma")
"""Families whose setup takes a missing key for "no embedding", without a word; the others stop at it."""


def onetrainer(path: Path, family: str) -> dict[str, Tensor]:
    """Return ``{OneTrainer's key: rows}``."""
    content = contents(path)
    found = {key: content[key] for key in ONETRAINER_KEYS[family] if key in content}
    need(family in _MAY_BE_MISSING or len(found) == len(ONETRAINER_KEYS[family]), "None has no attribute to")
    return found
