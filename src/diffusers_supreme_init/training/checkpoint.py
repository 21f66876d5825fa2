"""The checkpoint of a run: one small file, replaced atomically; a resumed run gives the same bytes."""

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..errors import CheckpointError, TrainingError
from ..file_names import CHECKPOINT_NAME
from ..files import write_atomically
from ..objective.adapters import active_loras
from .progress import ConceptProgress
from .rows import MOMENTS, RowOptimizer

FREE_SETTINGS = frozenset(
    {
        "max_forward_batch_size",
        "validation_prompt",
        "num_validation_images",
        "snapshot_steps",
        "checkpointing_steps",
        "resume_from_checkpoint",
        "output_dir",
        "logging_dir",
        "report_to",
        "gradient_checkpointing",
        "train_text_encoders",  # compared as part of the model instead
    }
)
"""Settings that may differ when a run is resumed, because no learned number depends on them."""

_PARTS = {
    "pictures": "pictures or masks",
    "prompts": "templates",
    "num_vectors": "numbers of rows",
    "initial_rows": "initial rows",
    "tokens": "initial rows",
    "random_key": "random_key",
}
"""Parts of a concept's fingerprint, in words."""


def find_checkpoint(config: SupremeInitConfig) -> Path | None:
    """Return the checkpoint to resume from; None to start a new run, also if ``"latest"`` finds no checkpoint.

    Raises:
        CheckpointError: `resume_from_checkpoint` is a path that does not exist.
    """
    if config.resume_from_checkpoint is None:
        return None
    if config.resume_from_checkpoint == "latest":
        path = Path(config.output_dir or "") / CHECKPOINT_NAME
        return path if path.is_file() else None
    path = Path(config.resume_from_checkpoint)
    path = path / CHECKPOINT_NAME if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(
            f"resume_from_checkpoint: expected a checkpoint, got {str(path)!r}, which does not exist"
        )
    return path


def write_checkpoint(
    output_dir: str | os.PathLike[str],
    run: Mapping[str, Any],
    concepts: Sequence[ConceptProgress],
    optimizers: Mapping[str, RowOptimizer],
    seconds: float | None = None,
) -> Path:
    """Write the state of a run to `output_dir`, replacing the previous checkpoint.

    Args:
        output_dir: Folder of the checkpoint.
        run: Fingerprint of the run, from `fingerprint`.
        concepts: All concepts of the run.
        optimizers: Their optimizers, by placeholder token.
        seconds: How long the run has taken so far, see `read_seconds`; None: unknown.

    Raises:
        OutputError: The folder cannot be written; the previous checkpoint is untouched.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for concept in concepts:
        token = concept.placeholder_token
        own_tensors, own_numbers = concept.state()
        moments, optimizer_numbers = optimizers[token].state_dict()
        # Copies: safetensors refuses tensors that share memory, and the rows are views of one parameter.
        tensors |= {
            f"{token}/{name}": tensor.detach().cpu().clone() for name, tensor in (own_tensors | moments).items()
        }
        numbers[token] = {"concept": own_numbers, "optimizer": optimizer_numbers}
    metadata = {"run": json.dumps(run), "numbers": json.dumps(numbers), "seconds": json.dumps(seconds)}
    return write_atomically(Path(output_dir) / CHECKPOINT_NAME, safetensors.torch.save(tensors, metadata))


def restore_checkpoint(
    path: Path,
    run: Mapping[str, Any],
    concepts: Sequence[ConceptProgress],
    optimizers: Mapping[str, RowOptimizer],
) -> dict[str, ConceptProgress]:
    """Restore optimizers from a checkpoint, and return the concepts as they were, by placeholder token.

    Raises:
        CheckpointError: The file is damaged, of an earlier version, or belongs to another model, seed, initializer or
            setting; nothing was changed.
    """
    saved_run, numbers, tensors = _read(path)
    if "settings" in saved_run and "draws" not in saved_run["settings"]:
        raise CheckpointError(
            f"{str(path)!r} is of an earlier version, which drew other samples for the same seed; pass another "
            "output_dir to start a new run"
        )
    # JSON turns tuples into lists, so this run is sent through JSON too before the two are compared.
    current = json.loads(json.dumps(run))
    differences = _concept_differences(saved_run.pop("concepts", {}), current.pop("concepts", {}))
    differences += _differences(saved_run, current)
    if differences:
        raise CheckpointError(
            f"{str(path)!r} belongs to another run: {'; '.join(differences)}; pass the settings it was made with, "
            "or another output_dir to start a new run"
        )
    of_concept, restored = _by_concept(tensors), {}
    for concept in concepts:
        token = concept.placeholder_token
        own = of_concept[token]
        restored[token] = concept.restored(own, numbers[token]["concept"])
        moments = {key: tensor for key, tensor in own.items() if key.partition("/")[0] in MOMENTS}
        optimizers[token].load_state_dict(moments, numbers[token]["optimizer"])
    return restored


def read_found_words(path: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the words that describers found when a run began, so that a resumed run need not ask again.

    Returns:
        ``{placeholder_token: (words, record of how they were found)}``, without the concepts whose words were given.

    Raises:
        CheckpointError: The file is damaged.
    """
    saved_run, numbers, _ = _read(path)
    records = {token: number["concept"].get("initializer_record") for token, number in numbers.items()}
    return {
        token: (saved_run["concepts"][token]["initializer"], record)
        for token, record in records.items()
        if record is not None
    }


def read_seconds(path: Path) -> float | None:
    """Return how long the run had taken when a checkpoint was written; None if unknown, as in older checkpoints.

    Raises:
        CheckpointError: The file is damaged.
    """
    with _undamaged(path), safe_open(path, framework="pt") as file:
        seconds = json.loads((file.metadata() or {}).get("seconds", "null"))
        return None if seconds is None else float(seconds)


def _by_concept(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Split ``{token/kind/encoder: tensor}`` into ``{token: {kind/encoder: tensor}}``."""
    split: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        # Split from the right, because a token may contain a slash; the kind and the text encoder never do.
        token, kind, name = key.rsplit("/", 2)
        split[token][f"{kind}/{name}"] = tensor
    return split


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    with _undamaged(path), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
        return json.loads(metadata["run"]), json.loads(metadata["numbers"]), tensors


@contextlib.contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Let errors of reading a checkpoint say that it is damaged."""
    try:
        yield
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{str(path)!r}: expected an undamaged checkpoint of this package, got another file ({error})"
        ) from error


def fingerprint(backbone: Backbone, config: SupremeInitConfig, concepts: Sequence[ConceptProgress]) -> dict[str, Any]:
    """Return JSON values that are equal exactly when a run may continue another run's checkpoint."""
    settings = {name: value for name, value in asdict(config).items() if name not in FREE_SETTINGS}
    settings["learning_rate"] = backbone.learning_rate(config)
    if config.lr_scheduler in ("constant", "constant_with_warmup"):
        # These schedules do not depend on it, so a finished run may be resumed with more steps.
        del settings["max_train_steps"]
    loras = active_loras(backbone.pipe)
    return {
        "settings": settings,
        **({"loras": loras} if loras else {}),
        "model": {
            "trained": [pair.encoder_name for pair in backbone.trained],
            **{pair.encoder_name: _model_digest(pair.encoder) for pair in backbone.pairs},
            "denoiser": _model_digest(backbone.denoiser),
        },
        "concepts": {concept.placeholder_token: concept.fingerprint() for concept in concepts},
    }


def check_agreement(runs: Sequence[Mapping[str, Any]]) -> None:
    """Check that all processes of a run have the same fingerprint: their gradients are summed.

    Raises:
        TrainingError: The seeds, settings, pictures or weights of some differ.
    """
    for number, run in enumerate(runs):
        if found := _differences(runs[0], run, whose=("process 0", f"process {number}")):
            raise TrainingError(
                f"expected equal settings, pictures and weights in all processes, got others: {'; '.join(found[:5])}"
            )


def _model_digest(module: nn.Module) -> str:
    """Return a short text that differs between models, from the number of tensors and the sum of the small ones.

    The vectors (biases and norms) and the matrices of LoRAs are enough to tell models apart, and cheap to sum.
    """
    named = [(name, weight.detach()) for name, weight in module.named_parameters()]
    weights = [weight for _, weight in named]
    small = [weight for name, weight in named if weight.ndim == 1 or "lora_" in name]
    total = sum(float(weight.cpu().double().abs().sum()) for weight in small)
    return f"{type(module).__name__}/{weights[0].dtype}/{len(weights)} tensors/{total:.6e}"


def _concept_differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Say in words which concepts are new, gone or changed."""
    new, gone = ([token for token in one if token not in other] for one, other in ((current, saved), (saved, current)))
    texts = [
        f"{', '.join(tokens[:10])}{f' and {len(tokens) - 10} more' if len(tokens) > 10 else ''} "
        f"{'is' if len(tokens) == 1 else 'are'} {what}"
        for tokens, what in ((new, "new in this run"), (gone, "only in the checkpoint"))
        if tokens
    ]
    for token in (token for token in current if token in saved):
        if saved[token].get("initializer") != current[token]["initializer"]:
            words = saved[token].get("initializer"), current[token]["initializer"]
            texts += _differences(*words, where=f"concepts.{token}.initializer")
            continue
        changed = [what for name, what in _PARTS.items() if saved[token].get(name) != current[token].get(name)]
        texts += [f"{token} has other {', '.join(dict.fromkeys(changed))}"] if changed else []
    return texts


def _differences(
    saved: Any, current: Any, where: str = "", *, whose: tuple[str, str] = ("the checkpoint", "this run")
) -> list[str]:
    if isinstance(saved, dict) and isinstance(current, dict):
        keys = dict.fromkeys([*saved, *current])
        return [
            text
            for key in keys
            for text in _differences(
                saved.get(key), current.get(key), f"{where}.{key}" if where else str(key), whose=whose
            )
        ]
    return [] if saved == current else [f"{where}: {whose[0]} has {_short(saved)}, {whose[1]} {_short(current)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
