"""The rows under training: the only parameters of a run."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import TrainableTokensConfig
from peft.tuners.trainable_tokens import TrainableTokensModel
from torch import Tensor, nn

from .config import SupremeInitConfig
from .text_pairs import TextPair

_ADAPTER = "default"
_FIRST_LOSS_SCALE = 2.0**16
_SMALLEST_LOSS_SCALE = 2.0**-8
_GROWTH_INTERVAL = 2000


class TrainableRows:
    """Rows of loaded concepts, made trainable with PEFT's `TrainableTokensConfig` while the encoder stays frozen.

    Attributes:
        delta: All rows, ``(sum of num_vectors, hidden_size)``, float32 (float64 in a float64 encoder).
        of_concept: ``{placeholder_token: parameter}``; each is a view of its part of `delta`.
    """

    def __init__(self, pair: TextPair, initial_rows: Mapping[str, Tensor]) -> None:
        """Wrap the encoder's embedding; undo it with `unwrap`.

        Args:
            pair: The concepts are already in its vocabulary.
            initial_rows: ``{placeholder_token: (num_vectors, hidden_size)}``, more precise than a half-precision
                encoder can hold them.
        """
        token_ids = [token_id for token in initial_rows for token_id in pair.row_ids(token)]
        self._tuner = TrainableTokensModel(pair.encoder, TrainableTokensConfig(token_indices=token_ids), _ADAPTER)
        wrapped: Any = pair.embedding
        # PEFT makes the rows in the encoder's dtype. In half precision small steps would vanish, and so would
        # AdamW's epsilon; PEFT casts whatever it finds here to the encoder's dtype when it looks rows up.
        rows = torch.cat([rows.to(pair.embedding.weight.device) for rows in initial_rows.values()])
        self.delta = wrapped.trainable_tokens_delta[_ADAPTER] = nn.Parameter(rows)
        sizes = [len(rows) for rows in initial_rows.values()]
        # Views, so that each concept has an optimizer of its own (to skip, clip and stop alone) without a copy.
        views = self.delta.data.split(sizes)
        self.of_concept = {token: nn.Parameter(view) for token, view in zip(initial_rows, views, strict=True)}
        self._sizes = sizes

    def take_gradients(self) -> Tensor:
        """Return the gradient of `delta`, zero where nothing flowed, and clear it."""
        gradient = self.delta.grad if self.delta.grad is not None else torch.zeros_like(self.delta)
        self.delta.grad = None
        return gradient

    def split(self, gradient: Tensor) -> dict[str, Tensor]:
        """Split a gradient of `delta` into ``{placeholder_token: gradient}``."""
        return dict(zip(self.of_concept, gradient.split(self._sizes), strict=True))

    def unwrap(self) -> None:
        """Give the encoder its own embedding back; the rows in it are those of before."""
        self._tuner.unload()


class RowOptimizer:
    """AdamW on the rows of one concept, with its own loss scale, clipping and norm preservation.

    Attributes:
        loss_scale: Factor of the concept's loss; 1 unless the model computes in fp16.
        num_skipped: Steps left out because fp16 gradients overflowed.
    """

    def __init__(self, rows: nn.Parameter, config: SupremeInitConfig, *, scaled: bool) -> None:
        self._rows = rows
        self._config = config
        self._initial_norms = rows.detach().norm(dim=1, keepdim=True)
        self._adamw = torch.optim.AdamW(
            [rows],
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=0.0,
        )
        self._scaled = scaled
        self.loss_scale = _FIRST_LOSS_SCALE if scaled else 1.0
        self._steps_since_growth = 0
        self.num_skipped = 0

    @torch.no_grad()
    def step(self, gradient: Tensor, learning_rate: float) -> bool:
        """Update the rows.

        Args:
            gradient: ``(num_vectors, hidden_size)``, times `loss_scale`.
            learning_rate: For this step.

        Returns:
            Whether training can go on; False if the gradient is not finite for another reason than fp16.
        """
        gradient = gradient / self.loss_scale
        if not torch.isfinite(gradient).all():
            self.loss_scale /= 2
            self._steps_since_growth = 0
            self.num_skipped += 1
            return self._scaled and self.loss_scale >= _SMALLEST_LOSS_SCALE
        if self._config.max_grad_norm is not None:
            gradient = gradient * (self._config.max_grad_norm / (gradient.norm() + 1e-6)).clamp(max=1)
        self._rows.grad = gradient
        self._adamw.param_groups[0]["lr"] = learning_rate
        self._adamw.step()
        self._rows.grad = None
        if self._config.preserve_norm:
            self._rows.mul_(self._initial_norms / self._rows.norm(dim=1, keepdim=True).clamp(min=1e-12))
        self._grow_loss_scale()
        return True

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the numbers that continue this optimizer exactly."""
        moments = self._adamw.state[self._rows]
        tensors = {name: moments[name] for name in ("exp_avg", "exp_avg_sq", "step") if name in moments}
        numbers = {
            "loss_scale": self.loss_scale,
            "steps_since_growth": self._steps_since_growth,
            "num_skipped": self.num_skipped,
        }
        return tensors, numbers

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        if tensors:
            moments = {name: tensor.to(self._rows.device) for name, tensor in tensors.items() if name != "step"}
            self._adamw.state[self._rows] = {"step": tensors["step"].cpu(), **moments}
        self.loss_scale = numbers["loss_scale"]
        self._steps_since_growth = numbers["steps_since_growth"]
        self.num_skipped = numbers["num_skipped"]

    def _grow_loss_scale(self) -> None:
        self._steps_since_growth += 1
        if self._scaled and self._steps_since_growth == _GROWTH_INTERVAL:
            self.loss_scale *= 2
            self._steps_since_growth = 0
