"""Files in any `EmbeddingFormat` -> `LearnedEmbedding`, one per text encoder.

The keys are those of other programs: ``embedding_key`` of ComfyUI's tokenizers, ``string_to_param`` of A1111 and
rinongal, ``emb_params`` of sd-scripts and invoke-training, ``emp_params``, ``t5`` and ``gemma`` of OneTrainer,
``text_encoders_0`` of cog-sdxl, ``bundle_emb.<mug>.clip_l`` in LoRA files of OneTrainer, and the multi-vector names of
diffusers, ``<mug>_1``. `writers` writes the formats.
"""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import EmbeddingFileError, shown
from ..file_names import PICKLE_SUFFIXES, WEIGHT_NAME, WEIGHT_NAMES
from ..files import read_safetensors
from ..inputs.file_kinds import PICKLE, SAFETENSORS, kind_of_file
from ..inputs.paths import expanded
from .embedding_file import METADATA_KEY, LearnedEmbedding, checked_rows, own_embedding, own_fields, read_embedding
from .picture_file import PICTURE_SUFFIXES, read_picture

logger = logging.getLogger(__name__)

EmbeddingFormat: TypeAlias = Literal["diffusers", "comfyui", "kohya", "onetrainer", "a1111", "per-token"]
"""Embedding formats, with the programs that read each and its contents:

* ``"diffusers"``: `load_textual_inversion` and this package. ``{placeholder_token: (num_vectors, hidden_size)}`` in
  ``learned_embeds.safetensors``; the rows of a second text encoder are in ``learned_embeds_2.safetensors``.
* ``"comfyui"``: ComfyUI; for SDXL also A1111, Forge, SD.Next, InvokeAI, sd-scripts, diffusers' advanced scripts.
  One file, one ``(num_vectors, hidden_size)`` per text encoder under its key, ``clip_l``, ``clip_g``, ``t5xxl`` ...
* ``"kohya"``: sd-scripts, invoke-training, InvokeAI, Forge and SD.Next (SD 1 and 2). ``{"emb_params": (num_vectors,
  hidden_size)}``, without a name.
* ``"onetrainer"``: OneTrainer. ``{"emp_params": (num_vectors, hidden_size)}`` for SD 1 and 2; for all others ComfyUI's
  contents, but under ``t5`` and ``gemma`` instead of ``t5xxl`` and ``gemma2_2b``. Without a name.
* ``"a1111"``: A1111 and rinongal's original code. A pickle of ``{"string_to_param": {"*": (num_vectors,
  hidden_size)}, "name": name, ...}``; for SDXL what ``"comfyui"`` is.
* ``"per-token"``: the paper's own code and diffusers. One ``(hidden_size,)`` per row, under the keys ``<0>``, ``<1>``
  ... (the paper's own code), ``_v0``, ``_v1`` ..., or ``<mug>``, ``<mug>_1`` ... (diffusers' names of rows, the first
  of which names the concept).
"""

ENCODER_WIDTHS = {
    "clip_l": 768,
    "clip_g": 1280,
    "clip_h": 1024,
    "t5xxl": 4096,
    "llama": 4096,
    "gemma2_2b": 2304,
    "umt5xxl": 4096,
    "t5base": 768,
    "pile_t5xl": 2048,
    "mt5xl": 2048,
    "qwen25_7b": 3584,
    "qwen3_4b": 2560,
}
"""``{key of a text encoder: width of its rows}``; embeddings are returned in this order."""

KOHYA_KEY, ONETRAINER_KEY = "emb_params", "emp_params"

NAMELESS_TOKENS = ("<0>", "_v0")
"""Keys of the first row in per-token files that do not name their concept."""

ONETRAINER_NAMES = {"t5xxl": "t5", "gemma2_2b": "gemma"}
"""ComfyUI's keys -> OneTrainer's, if they differ."""

_ALIASES = {
    **{name: key for key, name in ONETRAINER_NAMES.items()},
    "text_encoders_0": "clip_l",  # cog-sdxl
    "text_encoders_1": "clip_g",
}
"""Keys of other programs -> ComfyUI's."""

_BUNDLE = "bundle_emb."
"""Start of the keys of embeddings in a LoRA file, ``bundle_emb.<mug>.clip_l``."""
_BUNDLED_PICKLE = ".string_to_param.*"
"""End of such a key if an embedding of A1111 was bundled."""

_PARAMETER = re.compile(r"\w\.(weight|bias|alpha|dora_scale|(lora|lokr|hada|oft)_\w+)\Z")
"""Keys of the parameters of a model or an adapter; a file that has one is no embedding, even if it has no other."""
_OF_A_LORA = re.compile(r"lora|lokr|hada|oft_|alpha\Z|dora", re.IGNORECASE)

_PLAIN_WORDS = ("llama", "gemma")
"""Keys that may also be the name of a concept. A lone one counts as a key only if its rows have that key's width."""


def read_embeddings(
    source: str | os.PathLike[str] | Mapping[str, Any], *, allow_pickle: bool = False
) -> tuple[LearnedEmbedding, ...]:
    """Read one concept in any `EmbeddingFormat`, which is recognised by the keys; rows keep their dtype.

    Args:
        source: A file, a folder with ``learned_embeds.safetensors`` (and ``_2`` ...), a picture in which A1111 saved
            an embedding, a LoRA file with one in it, or the contents of a file.
        allow_pickle: Whether pickles (``.pt``, ``.bin``) may be opened. Even then only tensors and plain values are
            loaded, and no code in the pickle runs.

    Returns:
        One embedding per text encoder, rows ``(num_vectors, hidden_size)``.

    Raises:
        EmbeddingFileError: The source is missing, damaged, a pickle without `allow_pickle`, in none of the formats, or
            a LoRA file with several concepts.
    """
    concepts = read_concepts(source, allow_pickle=allow_pickle)
    if len(concepts) > 1:
        where = "the given state dict" if isinstance(source, Mapping) else repr(str(source))
        names = [str(embeddings[0].placeholder_token) for embeddings in concepts]
        raise EmbeddingFileError(
            f"{where}: expected one concept, got {len(names)} ({', '.join(names[:6])}); load them with "
            f"pipe.load_multitoken_inversion, or one of them with only=[{names[0]!r}]"
        )
    return concepts[0]


def read_concepts(
    source: str | os.PathLike[str] | Mapping[str, Any], *, allow_pickle: bool = False
) -> list[tuple[LearnedEmbedding, ...]]:
    """Read all concepts of a source as `read_embeddings` does; only a LoRA file can hold more than one.

    Raises:
        EmbeddingFileError: See `read_embeddings`.
    """
    if isinstance(source, Mapping):
        return _read_all(dict(source), {}, "the given state dict")
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise EmbeddingFileError(f"expected a file, a folder or a state dict, got {shown(source)}")
    path = expanded(source)
    where = repr(str(path))
    if os.path.isdir(path):  # Path.is_dir raises an error on texts that are too long for a path
        files = [path / name for name in WEIGHT_NAMES if (path / name).is_file()]
        if not files:
            raise EmbeddingFileError(
                f"expected {WEIGHT_NAME} in {where}, got no such file; name the file itself{pickle_advice(path)}"
            )
        return [tuple(read_embedding(file) for file in files)]
    if path.suffix.lower() in PICKLE_SUFFIXES and os.path.isfile(path):
        return _read_all(_unpickle(path, allow_pickle, where), {}, where)
    if path.suffix.lower() in PICTURE_SUFFIXES and os.path.isfile(path):
        return [_read(read_picture(path), {}, where)]
    tensors, metadata = read_safetensors(path)
    return _read_all(tensors, metadata, where)


def _read_all(
    content: Mapping[Any, Any], metadata: Mapping[str, str], where: str
) -> list[tuple[LearnedEmbedding, ...]]:
    bundles = _bundles(content, where)
    if not bundles:
        return [_read(content, metadata, where)]
    others = len(content) - sum(len(tensors) for tensors in bundles.values())
    if others:
        logger.warning(
            "%s is a LoRA: only the embeddings in it are read (%s); load its other %d tensors with load_lora_weights",
            where,
            ", ".join(bundles),
            others,
        )
    return [
        tuple(replace(one, placeholder_token=name) for one in _read(tensors, {}, f"{where}, {name}"))
        for name, tensors in bundles.items()
    ]


def _bundles(content: Mapping[Any, Any], where: str) -> dict[str, dict[str, Any]]:
    """Return ``{placeholder_token: {key: tensor}}`` of the embeddings in a LoRA file; empty if there are none."""
    bundles: dict[str, dict[str, Any]] = {}
    for full_key, value in content.items():
        if not isinstance(full_key, str) or not full_key.startswith(_BUNDLE):
            continue
        rest = full_key.removeprefix(_BUNDLE)
        if rest.endswith(_BUNDLED_PICKLE):
            name, key = rest.removesuffix(_BUNDLED_PICKLE), KOHYA_KEY
        else:
            name, _, key = rest.rpartition(".")
        if not name or key.removesuffix("_out") not in {*ENCODER_WIDTHS, *_ALIASES, KOHYA_KEY, ONETRAINER_KEY}:
            raise EmbeddingFileError(
                f"{where}: expected keys such as 'bundle_emb.<mug>.clip_l' for the embeddings in a LoRA file, got "
                f"{full_key[:80]!r}"
            )
        bundles.setdefault(name, {})[key] = value
    return bundles


def _read(content: Mapping[Any, Any], metadata: Mapping[str, str], where: str) -> tuple[LearnedEmbedding, ...]:
    for key in content:
        if not isinstance(key, str) or re.search("[\ud800-\udfff]", key):
            raise EmbeddingFileError(f"{where}: expected texts as keys, got {str(key)[:40]!r}")
    if "string_to_param" in content:
        return (_read_a1111(content, where),)
    if METADATA_KEY in metadata:
        return (own_embedding(content, metadata, where),)
    _refuse_output_embeddings(content, where)
    if set(content) in ({KOHYA_KEY}, {ONETRAINER_KEY}):
        ((key, rows),) = content.items()
        return (_foreign(rows, metadata.get(f"{METADATA_KEY}.{key}"), where),)
    keys = _encoder_keys(content, metadata, where)
    if keys:
        return tuple(
            _foreign(content[key], metadata.get(f"{METADATA_KEY}.{key}"), f"{where}, {key}", encoder_key=encoder_key)
            for encoder_key, key in keys.items()
        )
    parameter = next((key for key in content if _PARAMETER.search(key)), None)
    if parameter is not None:
        is_lora = _OF_A_LORA.search(parameter) is not None
        got = "a LoRA without one in it; load it with load_lora_weights" if is_lora else "the weights of a model"
        raise EmbeddingFileError(f"{where}: expected an embedding, got {got} ({shown(parameter)})")
    tokens, name = _tokens_in_order(content)
    if tokens:
        rows = torch.cat([checked_rows(content[token], f"{where}, {token}") for token in tokens])
        return (_foreign(rows, metadata.get(f"{METADATA_KEY}.{tokens[0]}"), where, name=name),)
    return (own_embedding(content, metadata, where),)


def _foreign(
    rows: Any, own: Any, where: str, *, encoder_key: str | None = None, name: str | None = None
) -> LearnedEmbedding:
    """Return the embedding of `rows`, with this package's JSON object `own` if the file has one.

    `encoder_key` and `name` come from the file's keys, and take precedence over `own`.
    """
    rows = checked_rows(rows, where)
    fields = own_fields(own, rows, where)
    del fields["dtype"]
    said = {"placeholder_token": name, "encoder_key": encoder_key}
    return LearnedEmbedding(**{**fields, **{key: value for key, value in said.items() if value}, "rows": rows})


def _read_a1111(content: Mapping[str, Any], where: str) -> LearnedEmbedding:
    params = content["string_to_param"]
    if isinstance(params, nn.ParameterDict):
        params = vars(params).get("_parameters")  # every version of torch keeps them here
    if not isinstance(params, Mapping) or len(params) != 1:
        got = f"{len(params)} entries" if isinstance(params, Mapping) else type(params).__name__
        raise EmbeddingFileError(
            f"{where}: expected one entry in string_to_param, got {got}; pass one of them as a state dict"
        )
    ((key, rows),) = params.items()
    name = content.get("name") if key == "*" else key
    if name is not None and (not isinstance(name, str) or re.search("[\ud800-\udfff]", name)):
        raise EmbeddingFileError(f"{where}: expected a text as name, got {str(name)[:40]!r}")
    embedding = _foreign(rows, content.get(METADATA_KEY), where, name=name if name and name.strip() else None)
    step = content.get("step")
    if not embedding.training and type(step) is int:
        return replace(embedding, training={"steps": step})
    return embedding


def _refuse_output_embeddings(content: Mapping[str, Any], where: str) -> None:
    known = {*ENCODER_WIDTHS, *_ALIASES, ONETRAINER_KEY}
    outputs = [key for key in content if key.endswith("_out") and key.removesuffix("_out") in known]
    if outputs:
        raise EmbeddingFileError(
            f"{where}: expected rows of a text encoder's input, got also OneTrainer's output embeddings "
            f"({', '.join(outputs)}), which are added behind the encoder; train without them, or pass the rows alone "
            "as a state dict"
        )


def _encoder_keys(content: Mapping[str, Any], metadata: Mapping[str, str], where: str) -> dict[str, str]:
    """Return ``{encoder_key: key}`` in the order of `ENCODER_WIDTHS`; empty unless all keys name text encoders.

    Raises:
        EmbeddingFileError: Two names of one text encoder, ``t5`` and ``t5xxl``, hold different rows.
    """
    found: dict[str, str] = {}
    for key in content:
        first = found.setdefault(_ALIASES.get(key, key), key)
        if first != key and not _hold_the_same(content[first], content[key]):
            raise EmbeddingFileError(
                f"{where}: expected the same rows under {first!r} and {key!r}, two names of one text encoder, got "
                "different ones; pass one of them as a state dict"
            )
    if not set(found) <= set(ENCODER_WIDTHS):
        return {}
    if len(content) == 1:
        ((encoder_key, key),) = found.items()
        is_noted = f"{METADATA_KEY}.{key}" in metadata
        if key in _PLAIN_WORDS and not is_noted and _shape(content[key])[-1:] != (ENCODER_WIDTHS[encoder_key],):
            return {}
    return {key: found[key] for key in ENCODER_WIDTHS if key in found}


def _tokens_in_order(content: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """Return the keys of a per-token file in the order of its rows, and the concept's name or None.

    The keys are an empty list if the file has another format.
    """
    shapes = {key: _shape(value) for key, value in content.items()}
    kinds = {(shape[-1:], content[key].dtype) for key, shape in shapes.items() if shape}
    if len(kinds) != 1 or not all(len(shape) == 1 or (len(shape) == 2 and shape[0] == 1) for shape in shapes.values()):
        return [], None
    if len(content) == 1 and [len(shape) for shape in shapes.values()] == [2]:
        return [], None  # diffusers' format, with one row
    first = min(content, key=len)  # the shortest is <mug>, all others are <mug>_1 ...
    stock = [first, *(f"{first}_{index}" for index in range(1, len(content)))]
    if set(stock) == set(content) and first not in NAMELESS_TOKENS:
        return stock, first
    # <cat1> and <cat2> are the names of two concepts: only numbers without a word are numbers of rows.
    numbered = {key: re.fullmatch(r"(<|_v)(0|[1-9][0-9]{0,5})(>?)", key) for key in content}
    parts = {key: (match[1], match[3], int(match[2])) for key, match in numbered.items() if match}
    if len(parts) != len(content) or len({part[:2] for part in parts.values()}) != 1:
        return [], None
    tokens = sorted(parts, key=lambda key: parts[key][2])
    start = parts[tokens[0]][2]
    is_consecutive = [parts[token][2] for token in tokens] == list(range(start, start + len(tokens)))
    return (tokens, None) if is_consecutive else ([], None)


def _hold_the_same(one: Any, other: Any) -> bool:
    are_dense = bool(_shape(one)) and bool(_shape(other))
    return are_dense and one.dtype == other.dtype and torch.equal(one, other)


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a dense tensor; empty for anything else, which `checked_rows` reports as an error."""
    is_dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
    return tuple(value.shape) if is_dense else ()


def pickle_advice(folder: Path) -> str:
    """Return the part of a message that names the pickles of a folder, and how to load one; empty without any."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLE_SUFFIXES)
    return f": {', '.join(names[:6])}, with allow_pickle=True where you trust it" if names else ""


def _unpickle(path: Path, allow_pickle: bool, where: str) -> dict[Any, Any]:
    kind = kind_of_file(path)
    if kind not in (None, PICKLE):
        rename = "; give it the suffix .safetensors" if kind == SAFETENSORS else ""
        raise EmbeddingFileError(f"{where}: expected a pickle of tensors and plain values, got {kind}{rename}")
    if not allow_pickle:
        raise EmbeddingFileError(
            f"{where} is a pickle, a kind of file that can run code when it is opened; where you trust it, pass "
            "allow_pickle=True, or convert it once with `supreme-init convert --allow_pickle`"
        )
    try:
        # rinongal's files hold a ParameterDict. torch refuses it by default, but it is safe: it only holds tensors.
        with torch.serialization.safe_globals([nn.ParameterDict]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise almost anything
        if "Only persistent_load of storage" in str(error):
            raise EmbeddingFileError(
                f"{where}: expected a pickle of tensors and plain values, got one in torch's old format with a module "
                "in it (a ParameterDict), which cannot be opened without running code; where you trust it, load it "
                "once with torch.load(..., weights_only=False), and pass its rows as a state dict {'<mug>': rows}"
            ) from error
        forbidden = re.search(r"GLOBAL ([\w.]+) (?:was not|whose module)", str(error))
        got = f"one that asks for {forbidden[1]}" if forbidden else f"a damaged one ({type(error).__name__})"
        raise EmbeddingFileError(f"{where}: expected a pickle of tensors and plain values, got {got}") from error
    if not isinstance(content, Mapping):
        raise EmbeddingFileError(f"{where}: expected a pickle of a dict, got {type(content).__name__}")
    return dict(content)
