"""The reports of a run: log lines, and the losses for accelerate's trackers."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from ..backbones import Backbone
from ..config import SupremeInitConfig
from .progress import ConceptProgress

logger = logging.getLogger(__name__)


def make_accelerator(config: SupremeInitConfig) -> Accelerator:
    """Return an accelerator with the trackers of `report_to`."""
    if config.report_to is None or config.output_dir is None:
        return Accelerator()
    logging_dir = Path(config.output_dir) / config.logging_dir
    project = ProjectConfiguration(project_dir=config.output_dir, logging_dir=str(logging_dir))
    return Accelerator(log_with=config.report_to, project_config=project)


@contextlib.contextmanager
def tracking(accelerator: Accelerator, config: SupremeInitConfig) -> Iterator[None]:
    """Start the trackers of `report_to`, and finish all trackers at the end, even of a failed run."""
    if config.report_to is not None:
        # Scalars are the only settings that all trackers accept.
        scalars = {
            name: value if isinstance(value, int | float | str | bool) else str(value)
            for name, value in asdict(config).items()
        }
        accelerator.init_trackers("textual_inversion", config=scalars)
    try:
        yield
    finally:
        # `accelerator.end_training` would also destroy the process group, which the user may still need.
        for tracker in accelerator.trackers:
            tracker.finish()


def log_start(
    backbone: Backbone, config: SupremeInitConfig, concepts: Sequence[ConceptProgress], accelerator: Accelerator
) -> None:
    """Log each concept's rows, the readers of its description, and the resolution, rate, dtype and device."""
    if not accelerator.is_main_process:
        return
    for concept in concepts:
        rows = ", ".join(f"{len(rows)} rows in {name}" for name, rows in concept.rows.items())
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
    values = {f"train_loss/{token}": loss for token, loss in losses.items()}
    for concept in validated:
        mean = concept.mean_validation_losses()[step]
        values[f"validation_loss/{concept.placeholder_token}"] = mean
        if accelerator.is_main_process:
            logger.info("%s: fixed-noise loss %.4f after %d steps", concept.placeholder_token, mean, step)
    if accelerator.trackers and values:
        accelerator.log(values, step=step)
