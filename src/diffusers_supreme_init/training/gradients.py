"""Before the first step: do the gradients of the rows say how the loss changes?

Quantised activations, custom kernels and patched modules may pass no gradient, or a wrong one. The run would end as
"finished", and its rows would have learned nothing.
"""

import math
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import SupremeInitWarning, TrainingError, one_line
from .rows import Rows, TrainableRows

_RELATIVE_STEPS = (0.1, 0.03, 0.3, 0.01)
"""Lengths of the steps, as fractions of the rows' norm. The loss is nearly linear up to 0.1, and the rounding of half
precision hides shorter ones; measured on the toybox, in float32 and bfloat16: 0.93 to 1.14 of the expected change."""
_LOWEST, _HIGHEST = 0.5, 2.0
_DOUBTFUL = 0.1
"""In half precision, steep models are measured too coarsely to tell a gradient of the wrong length. AdamW does not
depend on its length, so one that at least points the right way is only warned of."""
_SURE = 20
"""A change of the loss has to be so many times larger than the rounding that is expected, or nothing is concluded."""

_ADVICE = "train on a pipeline whose denoiser and text encoder compute without quantised activations"


def check_gradient(
    loss: Callable[[], Tensor],
    rows: TrainableRows,
    placeholder_token: str,
    *,
    dtype: torch.dtype,
    num_terms: int,
    loss_scale: float = 1.0,
) -> None:
    """Compare the gradient of a concept's rows with a finite difference along it; the rows stay as they were.

    Args:
        loss: Returns the loss of fixed samples, a number.
        rows: The rows, as parameters.
        placeholder_token: The concept.
        dtype: Dtype in which the model computes.
        num_terms: Number of errors that the loss is the mean of.
        loss_scale: Factor of the loss in the backward pass.

    Raises:
        TrainingError: There is no gradient, or the loss changes by less than half or more than twice what it says.

    Warns:
        SupremeInitWarning: In half precision, it changes in the right direction by another amount.
    """
    value, gradients = _gradient(loss, rows, placeholder_token, loss_scale)
    if not torch.isfinite(value) or not all(torch.isfinite(gradient).all() for gradient in gradients.values()):
        return  # diverged, or too large for half precision: the steps deal with both
    check_not_zero({placeholder_token: gradients})
    before = rows.read(placeholder_token)
    # The errors of single numbers are independent of each other and mostly cancel in the mean.
    smallest = _SURE * torch.finfo(dtype).eps / math.sqrt(num_terms) * abs(float(value))

    def loss_at(name: str, change: Tensor) -> float:
        rows.write(placeholder_token, before | {name: before[name] + change.to(before[name])})
        with torch.no_grad():
            return float(loss())

    try:
        # One text encoder at a time: the right gradient of one would hide a wrong one of another.
        for name, gradient in gradients.items():
            ratios, exact = [], gradient.cpu().double()
            for relative in _RELATIVE_STEPS:
                step = relative * before[name].cpu().double().norm().item() / exact.norm().item()
                expected = 2 * step * exact.square().sum().item()
                measured = loss_at(name, step * gradient) - loss_at(name, -step * gradient)
                if max(expected, abs(measured)) >= smallest:
                    ratios.append(measured / expected)
                    if _LOWEST <= ratios[-1] <= _HIGHEST:
                        break
            else:
                if not ratios:
                    continue
                found = f"along it, the loss changes by {ratios[0]:.2g} times what it says"
                if torch.finfo(dtype).bits >= 32 or max(ratios) < _DOUBTFUL:
                    raise TrainingError(
                        f"{placeholder_token}: the gradient of its rows in {name} is wrong: {found}; {_ADVICE}"
                    )
                warnings.warn(
                    f"{placeholder_token}: the gradient of its rows in {name} is doubtful: {found}, in "
                    f"{str(dtype).removeprefix('torch.')}; if the loss does not fall, train in float32",
                    SupremeInitWarning,
                    stacklevel=2,
                )
    finally:
        rows.write(placeholder_token, before)


def check_not_zero(gradients: Mapping[str, Rows]) -> None:
    """Check that the rows of concepts have gradients, ``{placeholder_token: gradients}``.

    Raises:
        TrainingError: Those of a text encoder are all zero.
    """
    for token, of_concept in gradients.items():
        if missing := [name for name, gradient in of_concept.items() if not gradient.any()]:
            raise TrainingError(
                f"{token}: no gradient reaches its rows in {', '.join(missing)}, so they would not learn; {_ADVICE}"
            )


def _gradient(
    loss: Callable[[], Tensor], rows: TrainableRows, placeholder_token: str, loss_scale: float
) -> tuple[Tensor, Rows]:
    try:
        value = loss()
        if value.requires_grad:
            (value * loss_scale).backward()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        raise TrainingError(
            f"{placeholder_token}: no gradient can be computed ({one_line(error)}); {_ADVICE}"
        ) from error
    gradients = rows.split(rows.take_gradients())[placeholder_token]
    return value.detach(), {name: gradient / loss_scale for name, gradient in gradients.items()}
