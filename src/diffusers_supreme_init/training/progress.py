"""`ConceptProgress`: what a run knows of one concept, while it trains and afterwards."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..objective.latents import PictureLatents
from ..text.placeholders import InitializerTokens


@dataclass(kw_only=True)
class ConceptProgress:
    """One concept of a run.

    Attributes:
        placeholder_token: Its name.
        description: The words the rows start from; ``""`` if unknown (a foreign embedding file).
        initializer: The tokens the rows start from, by text encoder; none for one that continues a saved embedding.
        initial_rows: ``{name of the text encoder: (num_vectors, hidden_size)}``, float32 (float64 in a float64
            encoder).
        prompts: Training prompts.
        validation_prompt: Prompt of the fixed-noise loss.
        random_key: Stands for it in all random draws: its name, unless it is compared with others in pairs.
        latents: Its pictures, encoded.
        region_record: What was selected in its pictures, and what of them was trained on; None: all of them.
        initializer_record: How describers found the words: method, models, candidates with losses; None if they were
            given.
        rows: As `initial_rows`, now: after training, the result. On the CPU.
        step: Steps it has made.
        losses: Mean training loss of each step.
        validation_losses: ``{step: fixed-noise loss of each validation sample}``.
        status: ``"running"``, ``"finished"``, ``"stopped early"`` (no more gain), ``"stopped"`` (by `stop` of the
            trainer) or ``"diverged"``.
        best_rows: The rows of the lowest mean validation loss (only with early stopping).
        num_validations_without_gain: Since then.
        last_good_rows: The rows that gave the last finite training loss.
    """

    placeholder_token: str
    description: str
    initializer: Mapping[str, InitializerTokens]
    initial_rows: dict[str, Tensor] = field(repr=False)
    prompts: tuple[str, ...] = field(repr=False)
    validation_prompt: str
    random_key: str
    latents: PictureLatents = field(repr=False)
    rows: dict[str, Tensor] = field(repr=False)
    region_record: dict[str, Any] | None = field(default=None, repr=False)
    initializer_record: dict[str, Any] | None = field(default=None, repr=False)
    step: int = 0
    losses: list[float] = field(default_factory=list, repr=False)
    validation_losses: dict[int, list[float]] = field(default_factory=dict, repr=False)
    status: str = "running"
    best_rows: dict[str, Tensor] | None = field(default=None, repr=False)
    num_validations_without_gain: int = 0
    last_good_rows: dict[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.last_good_rows = self.rows

    @property
    def is_running(self) -> bool:
        """Whether it still takes part in the steps."""
        return self.status == "running"

    def mean_validation_losses(self) -> dict[int, float]:
        """Return ``{step: mean fixed-noise loss}``."""
        return {step: sum(losses) / len(losses) for step, losses in self.validation_losses.items()}

    def record_validation(self, losses: list[float], *, patience: int) -> None:
        """Note a fixed-noise loss; with `patience`, keep the best rows and stop after so many without gain."""
        self.validation_losses[self.step] = losses
        if not all(math.isfinite(loss) for loss in losses):
            self.status = "diverged"
            return
        if not patience:
            return
        means = self.mean_validation_losses()
        if means[self.step] <= min(means.values()):
            self.best_rows = _copy(self.rows)
            self.num_validations_without_gain = 0
            return
        self.num_validations_without_gain += 1
        if self.num_validations_without_gain >= patience:
            self.status = "stopped early"

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint has to hold: tensors and JSON values."""
        kinds = {"rows": self.rows, "last_good_rows": self.last_good_rows, "best_rows": self.best_rows or {}}
        return {f"{kind}/{name}": rows for kind, by_encoder in kinds.items() for name, rows in by_encoder.items()}, {
            "step": self.step,
            "losses": self.losses,
            "validation_losses": self.validation_losses,
            "status": self.status,
            "num_validations_without_gain": self.num_validations_without_gain,
            "initializer_record": self.initializer_record,
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        names = list(self.rows)
        self.rows = {name: tensors[f"rows/{name}"].clone() for name in names}
        self.last_good_rows = {name: tensors[f"last_good_rows/{name}"].clone() for name in names}
        has_best = any(key.startswith("best_rows/") for key in tensors)
        self.best_rows = {name: tensors[f"best_rows/{name}"].clone() for name in names} if has_best else None
        self.step = numbers["step"]
        self.losses = list(numbers["losses"])
        self.validation_losses = {int(step): losses for step, losses in numbers["validation_losses"].items()}
        self.status = numbers["status"]
        self.num_validations_without_gain = numbers["num_validations_without_gain"]

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that differ when a checkpoint of this concept cannot be continued."""
        latents = self.latents
        return {
            "placeholder_token": self.placeholder_token,
            "random_key": self.random_key,
            "initializer": self.description,
            "num_vectors": {name: len(rows) for name, rows in self.initial_rows.items()},
            "initial_rows": {name: _digest(rows) for name, rows in self.initial_rows.items()},
            "pictures": _digest(latents.mean)
            + _digest(latents.std)
            + ("" if latents.mask is None else _digest(latents.mask)),
            "prompts": list(self.prompts),
            "tokens": {name: list(tokens.token_ids) for name, tokens in self.initializer.items()},
        }


def _copy(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in rows.items()}


def _digest(tensor: Tensor) -> str:
    # A weighted sum is enough to tell runs apart, and the same in every process.
    values = tensor.detach().double().flatten().cpu()
    return f"{float(values @ torch.linspace(1, 2, len(values), dtype=torch.float64)):.9e}"
