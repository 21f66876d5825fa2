"""The rows of a run: add them to the pipeline, train them as its only parameters, and write them back.

Text encoders that are not trained read the description in place of the rows.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..backbones import Backbone
from ..config import SupremeInitConfig
from ..text.changes import Change, changed, changing
from ..text.text_pairs import TextPair
from ..text.trained_rows import TrainedRows
from ..text.vocabulary import ConceptVocabulary
from ..triggers import check_trigger_is_free
from .progress import ConceptProgress

_FIRST_LOSS_SCALE = 2.0**16
_SMALLEST_LOSS_SCALE = 2.0**-8
_GROWTH_INTERVAL = 2000

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""The state that AdamW keeps for each parameter."""


Rows: TypeAlias = dict[str, Tensor]
"""Rows of one concept: ``{name of the text encoder: (num_vectors, hidden_size)}``, in the pipeline's order."""


class TrainableRows:
    """The rows of loaded concepts in all trained text encoders; the encoders' own weights stay frozen.

    Attributes:
        of_concept: ``{placeholder_token: {name of the text encoder: parameter}}``.
    """

    def __init__(self, pairs: Sequence[TextPair], initial_rows: Mapping[str, Rows]) -> None:
        """Let the encoders' embeddings look the rows up here; `detach` undoes it.

        Args:
            pairs: Trained text encoders, whose vocabularies already hold the concepts.
            initial_rows: ``{placeholder_token: rows}``, at least float32; a half-precision encoder holds them rounded.
        """
        self._encoders: dict[str, _EncoderRows] = {}
        try:
            for pair in pairs:
                of_pair = {token: rows[pair.encoder_name] for token, rows in initial_rows.items()}
                self._encoders[pair.encoder_name] = _EncoderRows(pair, of_pair)
        except BaseException:
            # Not even Ctrl-C may leave a hook in an encoder of the user.
            self.detach()
            raise
        self.of_concept = {
            token: {name: encoder.of_concept[token] for name, encoder in self._encoders.items()}
            for token in initial_rows
        }

    def read(self, placeholder_token: str) -> Rows:
        """Return a copy of a concept's current rows, on their device."""
        return {name: rows.detach().clone() for name, rows in self.of_concept[placeholder_token].items()}

    @torch.no_grad()
    def write(self, placeholder_token: str, rows: Rows) -> None:
        """Overwrite a concept's rows."""
        for name, parameter in self.of_concept[placeholder_token].items():
            parameter.copy_(rows[name])

    def take_gradients(self) -> Rows:
        """Return and clear the gradients of all concepts' rows, by text encoder; zeros if there are none."""
        return {name: encoder.take_gradient() for name, encoder in self._encoders.items()}

    def split(self, gradients: Rows) -> dict[str, Rows]:
        """Split the result of `take_gradients` into ``{placeholder_token: gradients}``."""
        parts = {name: encoder.split(gradients[name]) for name, encoder in self._encoders.items()}
        return {token: {name: part[token] for name, part in parts.items()} for token in self.of_concept}

    def detach(self) -> None:
        """Let the encoders' embeddings look up their own rows again, which training has not changed."""
        for encoder in self._encoders.values():
            encoder.detach()


class _EncoderRows:
    """The rows of one text encoder, trainable.

    Attributes:
        rows: All rows, ``(sum of num_vectors, hidden_size)``, float32 (float64 in a float64 encoder): half precision
            would round small steps and AdamW's epsilon to zero.
        of_concept: ``{placeholder_token: parameter}``; each is a view of its part of `rows`.
    """

    def __init__(self, pair: TextPair, initial_rows: Mapping[str, Tensor]) -> None:
        device = pair.embedding.weight.device
        self.rows = nn.Parameter(torch.cat([rows.to(device) for rows in initial_rows.values()]))
        self._sizes = [len(rows) for rows in initial_rows.values()]
        # Each concept needs its own optimizer, so that it can skip, clip and stop alone; views need no copying back.
        views = self.rows.data.split(self._sizes)
        self.of_concept = {token: nn.Parameter(view) for token, view in zip(initial_rows, views, strict=True)}
        token_ids = [token_id for token in initial_rows for token_id in pair.row_ids(token)]
        self._in_place = TrainedRows(pair, token_ids, self.rows)

    def take_gradient(self) -> Tensor:
        gradient = self.rows.grad if self.rows.grad is not None else torch.zeros_like(self.rows)
        self.rows.grad = None
        return gradient

    def split(self, gradient: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.of_concept, gradient.split(self._sizes), strict=True))

    def detach(self) -> None:
        self._in_place.detach()


class RowOptimizer:
    """AdamW for the rows of one concept in all text encoders, with a loss scale, clipping and norm preservation.

    The loss scale is not that of `torch.amp.GradScaler`, which has one for all: an overflow in one concept must not
    skip the steps of the others.

    Attributes:
        loss_scale: Factor by which the concept's loss is multiplied; 1 unless the model computes in fp16.
        num_skipped: Number of steps skipped because gradients overflowed.
    """

    def __init__(self, rows: Mapping[str, nn.Parameter], config: SupremeInitConfig, *, scaled: bool) -> None:
        self._rows = rows
        self._config = config
        self._initial_norms = {name: _norms(one.detach()) for name, one in rows.items()}
        self._adamw = torch.optim.AdamW(
            list(rows.values()),
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=0.0,
        )
        self._scaled = scaled
        self.loss_scale = _FIRST_LOSS_SCALE if scaled else 1.0
        self._steps_since_growth = 0
        self.num_skipped = 0

    @torch.no_grad()
    def step(self, gradients: Rows | None, learning_rate: float) -> bool:
        """Update the rows.

        Args:
            gradients: Gradients of the rows by text encoder, multiplied by `loss_scale`; None: they are not finite.
            learning_rate: Learning rate of this step.

        Returns:
            Whether training can continue. False if the gradient is not finite, and fp16 is not the reason.
        """
        if gradients is None:
            self.loss_scale /= 2
            self._steps_since_growth = 0
            self.num_skipped += 1
            return self._scaled and self.loss_scale >= _SMALLEST_LOSS_SCALE
        gradients = {name: gradient / self.loss_scale for name, gradient in gradients.items()}
        if self._config.max_grad_norm is not None:
            norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
            factor = (self._config.max_grad_norm / (norm + 1e-6)).clamp(max=1)
            gradients = {name: gradient * factor for name, gradient in gradients.items()}
        for name, rows in self._rows.items():
            rows.grad = gradients[name]
        self._adamw.param_groups[0]["lr"] = learning_rate
        self._adamw.step()
        for name, rows in self._rows.items():
            rows.grad = None
            if self._config.preserve_norm:
                initial, norms = self._initial_norms[name], _norms(rows)
                rows.mul_(torch.where((initial > 0) & (norms > 0), initial / norms, 1.0))
        self._grow_loss_scale()
        return True

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the numbers from which this optimizer continues exactly."""
        tensors = {
            f"{moment}/{name}": self._adamw.state[rows][moment]
            for name, rows in self._rows.items()
            for moment in MOMENTS
            if moment in self._adamw.state[rows]
        }
        numbers = {
            "loss_scale": self.loss_scale,
            "steps_since_growth": self._steps_since_growth,
            "num_skipped": self.num_skipped,
        }
        return tensors, numbers

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Restore the values that `state_dict` returned."""
        for name, rows in self._rows.items() if tensors else ():
            moments = {moment: tensors[f"{moment}/{name}"].to(rows.device) for moment in MOMENTS}
            # AdamW keeps its step counter on the CPU by default.
            self._adamw.state[rows] = {**moments, "step": moments["step"].cpu()}
        self.loss_scale = numbers["loss_scale"]
        self._steps_since_growth = numbers["steps_since_growth"]
        self.num_skipped = numbers["num_skipped"]

    def _grow_loss_scale(self) -> None:
        self._steps_since_growth += 1
        if self._scaled and self._steps_since_growth == _GROWTH_INTERVAL:
            self.loss_scale *= 2
            self._steps_since_growth = 0


def is_finite(gradients: Rows) -> Tensor:
    """Return whether all gradients of a concept's rows are finite, a boolean on their device."""
    return torch.stack([torch.isfinite(gradient).all() for gradient in gradients.values()]).all()


def check_can_add(backbone: Backbone) -> None:
    """Check that rows can be added to all trained text encoders.

    Raises:
        ConceptLoadError: An encoder is already being trained, has embeddings that cannot be reached (offloading) or is
            quantised, or its tokenizers disagree.
    """
    for pair in backbone.trained:
        ConceptVocabulary(pair).check_can_change()


def _norms(rows: Tensor) -> Tensor:
    return rows.norm(dim=1, keepdim=True)


def check_triggers_are_free(backbone: Backbone, tokens: Sequence[str]) -> None:
    """Check again that no tokenizer knows a placeholder token: the user may have loaded one since the first check.

    Raises:
        PlaceholderTokenError: A tokenizer already knows one of the tokens.
    """
    for pair in backbone.pairs:
        for token in tokens:
            check_trigger_is_free(token, pair.tokenizer)


def concepts_added(
    backbone: Backbone, concepts: Sequence[ConceptProgress], *, lasting: bool = True
) -> contextlib.AbstractContextManager[None]:
    """Add concepts to a pipeline; remove them again if training fails or is interrupted, or at the end if not lasting.

    All are added and removed at once, because every change of a tokenizer takes as long as its vocabulary is large.
    """
    words = {concept.placeholder_token: concept.description for concept in concepts if concept.description}
    changes = {pair.encoder_name: Change(descriptions=words) for pair in backbone.described}
    for pair in backbone.trained:
        name = pair.encoder_name
        changes[name] = Change({concept.placeholder_token: concept.initial_rows[name] for concept in concepts})
    return changed(backbone.pipe, [*backbone.trained, *backbone.described], changes, lasting=lasting)


def write_learned(backbone: Backbone, concepts: Sequence[ConceptProgress]) -> None:
    """Write the current rows into the text encoders."""
    with changing:
        for pair in backbone.trained:
            vocabulary = ConceptVocabulary(pair)
            for concept in concepts:
                vocabulary.write(concept.placeholder_token, concept.rows[pair.encoder_name])
