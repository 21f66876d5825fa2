"""`ConceptProgress`: one concept in a run, from before its first step to its result."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..objective.latents import PictureLatents
from ..text.tokenization import InitializerTokens


@dataclass(frozen=True, kw_only=True)
class ConceptProgress:
    """One concept in a run, after a number of steps. Each step makes a new one; the last one is the result.

    Attributes:
        placeholder_token: The concept's name.
        description: The words the rows start from; ``""`` if unknown (an embedding file of another program).
        initializer_tokens: The tokens the rows start from, by text encoder; encoders that continue a saved embedding
            have no entry.
        initial_rows: ``{name of the text encoder: (num_vectors, hidden_size)}``, float32 (float64 in a float64
            encoder).
        prompts: Training prompts.
        validation_prompt: Prompt of the fixed-noise loss.
        random_key: Key of all random draws: the placeholder token, unless paired comparisons share another key.
        latents: The encoded pictures.
        thumbnails: What it is learned from, for people to look at: of a region the first picture, pale around the
            object; then the square that is trained on.
        region_record: The regions and `train_on`, as JSON values; None without regions.
        initializer_record: How describers found the words: method, models, candidates with losses; None if the words
            were given.
        rows: The current rows, shaped like `initial_rows`; after training, the result, on the CPU.
        last_good_rows: The rows that gave the last finite training loss.
        step: Number of optimizer steps made.
        losses: Mean training loss of each step.
        validation_losses: ``{step: fixed-noise loss of each validation sample}``.
        status: ``"running"``, ``"finished"``, ``"stopped early"`` (no more gain), ``"stopped"`` (by `stop` of the
            trainer) or ``"diverged"``.
        best_rows: The rows of the lowest mean fixed-noise loss; None without early stopping.
        num_validations_without_gain: Validations since `best_rows` was set.
    """

    placeholder_token: str
    description: str
    initializer_tokens: Mapping[str, InitializerTokens]
    initial_rows: dict[str, Tensor] = field(repr=False)
    prompts: tuple[str, ...] = field(repr=False)
    validation_prompt: str
    random_key: str
    latents: PictureLatents = field(repr=False)
    rows: dict[str, Tensor] = field(repr=False)
    last_good_rows: dict[str, Tensor] = field(repr=False)
    thumbnails: tuple[Image.Image, ...] = field(default=(), repr=False)
    region_record: dict[str, Any] | None = field(default=None, repr=False)
    initializer_record: dict[str, Any] | None = field(default=None, repr=False)
    step: int = 0
    losses: list[float] = field(default_factory=list, repr=False)
    validation_losses: dict[int, list[float]] = field(default_factory=dict, repr=False)
    status: str = "running"
    best_rows: dict[str, Tensor] | None = field(default=None, repr=False)
    num_validations_without_gain: int = 0

    @property
    def initializer(self) -> Mapping[str, InitializerTokens]:
        """Older name of `initializer_tokens`."""
        return self.initializer_tokens

    @property
    def is_running(self) -> bool:
        """Whether the concept still takes part in the steps."""
        return self.status == "running"

    def mean_validation_losses(self) -> dict[int, float]:
        """Return ``{step: mean fixed-noise loss}``."""
        return {step: sum(losses) / len(losses) for step, losses in self.validation_losses.items()}

    def on_cpu(self) -> "ConceptProgress":
        """Return the concept with its rows on the CPU."""

        def moved(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: one.cpu() for name, one in rows.items()}

        best_rows = None if self.best_rows is None else moved(self.best_rows)
        return replace(self, rows=moved(self.rows), last_good_rows=moved(self.last_good_rows), best_rows=best_rows)

    def validated(self, losses: list[float], *, patience: int) -> "ConceptProgress":
        """Return the concept with fixed-noise losses of this step.

        With `patience`, it keeps the best rows, and stops after that many validations without gain.
        """
        after = replace(self, validation_losses={**self.validation_losses, self.step: losses})
        if not all(math.isfinite(loss) for loss in losses):
            return replace(after, status="diverged")
        if not patience:
            return after
        means = after.mean_validation_losses()
        if means[self.step] <= min(means.values()):
            return replace(after, best_rows=self.rows, num_validations_without_gain=0)
        num_without_gain = self.num_validations_without_gain + 1
        status = "stopped early" if num_without_gain >= patience else self.status
        return replace(after, num_validations_without_gain=num_without_gain, status=status)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the JSON values that a checkpoint stores."""
        kinds = {"rows": self.rows, "last_good_rows": self.last_good_rows, "best_rows": self.best_rows or {}}
        return {f"{kind}/{name}": rows for kind, by_encoder in kinds.items() for name, rows in by_encoder.items()}, {
            "step": self.step,
            "losses": self.losses,
            "validation_losses": self.validation_losses,
            "status": self.status,
            "num_validations_without_gain": self.num_validations_without_gain,
            "initializer_record": self.initializer_record,
        }

    def restored(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> "ConceptProgress":
        """Return the concept with the values that `state` returned."""

        def of_kind(kind: str) -> dict[str, Tensor]:
            return {name: tensors[f"{kind}/{name}"] for name in self.rows}

        has_best = any(key.startswith("best_rows/") for key in tensors)
        return replace(
            self,
            rows=of_kind("rows"),
            last_good_rows=of_kind("last_good_rows"),
            best_rows=of_kind("best_rows") if has_best else None,
            step=numbers["step"],
            losses=list(numbers["losses"]),
            validation_losses={int(step): losses for step, losses in numbers["validation_losses"].items()},
            status=numbers["status"],
            num_validations_without_gain=numbers["num_validations_without_gain"],
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that differ if this concept cannot continue another concept's checkpoint."""
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
            "tokens": {name: list(tokens.token_ids) for name, tokens in self.initializer_tokens.items()},
        }


def _digest(tensor: Tensor) -> str:
    # A weighted sum is enough to tell runs apart. It notices reordered values, and every process gets the same one.
    values = tensor.detach().cpu().double().flatten()
    return f"{float(values @ torch.linspace(1, 2, len(values), dtype=torch.float64)):.9e}"
