"""The reports of a run: log lines, and the losses for accelerate's trackers."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from ..backbones import Backbone
from ..config import SupremeInitConfig
from .progress import ConceptProgress
from .trackers import name_of_concept, send

logger = logging.getLogger(__name__)


def log_start(
    backbone: Backbone, config: SupremeInitConfig, concepts: Sequence[ConceptProgress], accelerator: Accelerator
) -> None:
    """Log each concept's rows, the readers of its description, and the resolution, rate, dtype and device."""
    if not accelerator.is_main_process:
        return
    for concept in concepts:
        rows = ", ".join(f"{len(rows)} row{'s' * (len(rows) > 1)} in {name}" for name, rows in concept.rows.items())
        readers = ", ".join(pair.encoder_name for pair in backbone.described) if concept.description else ""
        reads = f"; {readers} read{'' if ',' in readers else 's'} {concept.description!r}" if readers else ""
        logger.info("%s: %s%s", concept.placeholder_token, rows, reads)
    logger.info(
        "%d px, learning rate %g, %s, %s",
        config.resolution or backbone.resolution,
        backbone.learning_rate(config),
        str(backbone.compute_dtype).removeprefix("torch."),
        accelerator.device,
    )


def log_losses(
    accelerator: Accelerator, step: int, losses: Mapping[str, float], validated: Sequence[ConceptProgress]
) -> None:
    """Log the fixed-noise losses of the concepts validated at this step; send these and all losses to the trackers."""
    curves = {("train_loss", token): loss for token, loss in losses.items()}
    for concept in validated:
        mean = concept.mean_validation_losses()[step]
        curves["validation_loss", concept.placeholder_token] = mean
        if accelerator.is_main_process:
            logger.info("%s: fixed-noise loss %.4f after %d steps", concept.placeholder_token, mean, step)

    def log(tracker: Any) -> None:
        values = {f"{curve}/{name_of_concept(tracker, token)}": loss for (curve, token), loss in curves.items()}
        tracker.log(values, step=step)

    if curves:
        send(accelerator, log)
