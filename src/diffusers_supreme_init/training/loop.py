"""The training loop, readable from top to bottom."""

import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeVar

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor
from tqdm.auto import tqdm

from ..backbones import Backbone
from ..config import SupremeInitConfig, is_scheduled
from ..objective.draws import DenoisingSample, draw_training_sample, draw_validation_sample
from ..objective.losses import autocast_dtype, denoising_losses
from .gradients import check_gradient, check_not_zero
from .progress import ConceptProgress
from .rows import RowOptimizer, Rows, TrainableRows, is_finite

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_VALIDATION_BATCH_SIZE = 8
_CHECKED_SAMPLES = 4
_SHOWN_STEPS = 20
"""Of which the progress bar shows the mean loss."""


class TrainingLoop:
    """Trains the rows of all concepts together, each as if it were trained alone.

    The loss of a step is the sum of the concepts' mean losses, and their rows are disjoint. Every concept therefore
    gets the gradient it would get alone. Its samples are split over passes and processes; gradients are summed.

    Attributes:
        progress: The concepts as they are now, by placeholder token; their rows may be on the device.
        optimizers: Their optimizers, by placeholder token.
    """

    def __init__(
        self,
        backbone: Backbone,
        concepts: Sequence[ConceptProgress],
        rows: TrainableRows,
        config: SupremeInitConfig,
        accelerator: Accelerator,
    ) -> None:
        """Give each concept its optimizer.

        Args:
            backbone: Backbone of the pipeline, which holds the concepts.
            concepts: The concepts as they are before the first step.
            rows: Their rows, as parameters.
            config: Settings of the run.
            accelerator: Accelerator with the device and the processes.
        """
        self.backbone = backbone
        self.progress = {concept.placeholder_token: concept for concept in concepts}
        self.rows = rows
        self.config = config
        self.accelerator = accelerator
        self.autocast_dtype = autocast_dtype(config, accelerator)
        self.learning_rate = backbone.learning_rate(config)
        computes_in_half = torch.float16 in (self.autocast_dtype, backbone.compute_dtype)
        self.optimizers = {
            concept.placeholder_token: RowOptimizer(
                rows.of_concept[concept.placeholder_token], config, scaled=computes_in_half
            )
            for concept in concepts
        }
        self._learning_rate_factor = _learning_rate_factor(config)
        self._has_stepped = False

    @property
    def concepts(self) -> list[ConceptProgress]:
        """The concepts as they are now, their rows on the CPU."""
        return [concept.on_cpu() for concept in self.progress.values()]

    @property
    def running(self) -> list[ConceptProgress]:
        """The concepts that are still training."""
        return [concept for concept in self.progress.values() if concept.is_running]

    def run(
        self,
        after_step: Callable[[int, Mapping[str, float]], None],
        *,
        stop_requested: Callable[[], bool] = lambda: False,
        before_stop: Callable[[], None] = lambda: None,
        checks_gradient: bool = True,
    ) -> None:
        """Train until `max_train_steps`, until every concept has stopped, or until any process requests a stop.

        Args:
            after_step: Called with the number of steps made and the step's mean losses by placeholder token. The first
                call, before any step, gets the step to start from and no losses.
            stop_requested: Called before each step in every process; if any returns True, all stop together.
            before_stop: Called on a requested stop, before the concepts change status or take their best rows back, so
                that a checkpoint written here continues like an uninterrupted run.
            checks_gradient: Whether the first concept's gradient is compared with differences of its loss first. Once
                is enough for a pipeline.

        Raises:
            TrainingError: The model passes no gradient to the rows, or a wrong one.
        """
        config = self.config
        for concept in self.concepts:
            self._keep(concept, concept.rows)
        first = max((concept.step for concept in self.concepts), default=0)
        if checks_gradient and first < config.max_train_steps and self.running:
            self._check_gradient()
        if first == 0 and (is_scheduled(config.validation_steps, 0) or config.max_train_steps == 0):
            self.validate()
        after_step(first, {})
        steps = tqdm(
            range(first, config.max_train_steps),
            initial=first,
            total=config.max_train_steps,
            desc="training",
            unit="step",
            disable=not self.accelerator.is_local_main_process,
        )
        recent: deque[float] = deque(maxlen=_SHOWN_STEPS)  # the loss of a single step jumps with its timesteps
        for step in steps:
            if not self.running:
                break
            if self._is_any_process(stop_requested()):
                before_stop()
                self._finish("stopped")
                return
            losses = self.train_step(step)
            recent.append(sum(losses.values()) / len(losses))
            steps.set_postfix(loss=f"{sum(recent) / len(recent):.4f}")
            if is_scheduled(config.validation_steps, step + 1) or step + 1 == config.max_train_steps:
                self.validate()
            after_step(step + 1, losses)
        self._finish("finished")

    def train_step(self, step: int) -> dict[str, float]:
        """Make one optimizer step; return the mean loss of each running concept.

        A concept whose loss is not finite stops with the rows of its last finite loss; the others continue.
        """
        concepts, config = self.running, self.config
        index_of = {concept.placeholder_token: index for index, concept in enumerate(concepts)}
        num_samples = config.samples_per_step
        loss_scales = [self.optimizers[concept.placeholder_token].loss_scale for concept in concepts]
        table = self._empty_table(len(concepts), num_samples)
        for chunk in self._my_chunks([(concept, index) for index in range(num_samples) for concept in concepts]):
            samples = [draw_training_sample(self.backbone, concept, step, index, config) for concept, index in chunk]
            owners = [index_of[concept.placeholder_token] for concept, _ in chunk]
            losses = self._losses(samples)
            scales = losses.new_tensor([loss_scales[owner] / num_samples for owner in owners])
            (losses * scales).sum().backward()
            table[owners, [index for _, index in chunk]] = losses.detach().to(table)
        # Summed once per step. DDP would sync in every backward pass, whose number may differ between processes.
        gradients = self.rows.split(
            {name: self._sum_over_processes(one) for name, one in self.rows.take_gradients().items()}
        )
        are_finite = torch.stack([is_finite(gradients[concept.placeholder_token]) for concept in concepts])
        # The host waits for the device here, once in a step.
        means, flags = torch.stack([self._sum_over_processes(table.mean(dim=1)), are_finite.to(table)]).tolist()
        if not self._has_stepped:
            finite = [
                concept.placeholder_token for concept, loss in zip(concepts, means, strict=True) if math.isfinite(loss)
            ]
            check_not_zero({token: gradients[token] for token in finite})
            self._has_stepped = True
        learning_rate = self.learning_rate * self._learning_rate_factor(step)
        for concept, loss, flag in zip(concepts, means, flags, strict=True):
            gradient = gradients[concept.placeholder_token] if flag else None
            self._update(concept, loss, gradient, learning_rate)
        return {concept.placeholder_token: loss for concept, loss in zip(concepts, means, strict=True)}

    def _update(self, concept: ConceptProgress, loss: float, gradient: Rows | None, learning_rate: float) -> None:
        is_good, token = math.isfinite(loss), concept.placeholder_token
        good_rows = concept.rows if is_good else concept.last_good_rows
        concept = replace(concept, losses=[*concept.losses, loss], last_good_rows=good_rows)
        if is_good and self.optimizers[token].step(gradient, learning_rate):
            self.progress[token] = replace(concept, rows=self.rows.read(token), step=concept.step + 1)
        else:
            self._keep(replace(concept, status="diverged"), good_rows)

    @torch.no_grad()
    def validate(self) -> None:
        """Measure the fixed-noise loss of every running concept."""
        concepts, config = self.running, self.config
        if not config.validation_samples:
            return
        items = list(itertools.product(range(len(concepts)), range(config.validation_samples)))
        batch_size = config.max_forward_batch_size or max(
            _VALIDATION_BATCH_SIZE, config.train_batch_size * len(concepts)
        )
        table = self._empty_table(len(concepts), config.validation_samples)
        for chunk in self._shares(items, batch_size):
            samples = [draw_validation_sample(self.backbone, concepts[owner], index, config) for owner, index in chunk]
            table[[owner for owner, _ in chunk], [index for _, index in chunk]] = self._losses(samples).to(table)
        table = self._sum_over_processes(table)
        for concept, losses in zip(concepts, table.tolist(), strict=True):
            after = concept.validated(losses, patience=config.early_stopping_patience)
            self._keep(after, after.last_good_rows if after.status == "diverged" else after.rows)

    def _check_gradient(self) -> None:
        """Check the gradient of the first concept; every process checks the same samples."""
        concept, config = self.running[0], self.config
        limit = config.max_forward_batch_size or config.train_batch_size * len(self.running)
        samples = [
            draw_training_sample(self.backbone, concept, 0, index, config)
            for index in range(min(limit, _CHECKED_SAMPLES))
        ]
        check_gradient(
            lambda: self._losses(samples).mean(),
            self.rows,
            concept.placeholder_token,
            dtype=self.autocast_dtype or self.backbone.compute_dtype,
            num_terms=sum(sample.latents.numel() for sample in samples),
            loss_scale=self.optimizers[concept.placeholder_token].loss_scale,
        )

    def _losses(self, samples: Sequence[DenoisingSample]) -> Tensor:
        with self._autocast():
            return denoising_losses(self.backbone, samples, self.accelerator.device, snr_gamma=self.config.snr_gamma)

    def _autocast(self) -> AbstractContextManager[None]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, self.autocast_dtype)

    def _my_chunks(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """Yield this process's share of a step's samples, split into passes and those into forward batches."""
        num_passes = self.config.gradient_accumulation_steps
        per_pass = len(items) // num_passes
        for start in range(0, len(items), per_pass):
            one_pass = items[start : start + per_pass]
            yield from self._shares(one_pass, self.config.max_forward_batch_size or per_pass)

    def _shares(self, items: Sequence[Item], batch_size: int) -> Iterator[Sequence[Item]]:
        mine = items[self.accelerator.process_index :: self.accelerator.num_processes]
        for start in range(0, len(mine), batch_size):
            yield mine[start : start + batch_size]

    def _empty_table(self, num_concepts: int, num_samples: int) -> Tensor:
        """Return zeros for each sample's loss; each process fills in its share, and the sum of all is the table."""
        device = self.accelerator.device
        return torch.zeros(num_concepts, num_samples, dtype=_widest_float(device), device=device)

    def _sum_over_processes(self, tensor: Tensor) -> Tensor:
        return self.accelerator.reduce(tensor, reduction="sum")

    def _is_any_process(self, flag: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return flag  # reading a tensor back would make every step wait for the device
        return bool(self._sum_over_processes(torch.tensor(float(flag), device=self.accelerator.device)))

    def _keep(self, concept: ConceptProgress, rows: Rows) -> None:
        """Store a concept with these rows, here and in the parameters."""
        self.progress[concept.placeholder_token] = replace(concept, rows=rows)
        self.rows.write(concept.placeholder_token, rows)

    def _finish(self, status: str) -> None:
        for concept in self.concepts:
            num_skipped = self.optimizers[concept.placeholder_token].num_skipped
            if num_skipped and self.accelerator.is_main_process:
                logger.warning("%s: fp16 gradients overflowed in %d steps", concept.placeholder_token, num_skipped)
            ended = replace(concept, status=status) if concept.is_running else concept
            self._keep(ended, concept.rows if concept.best_rows is None else concept.best_rows)


def _learning_rate_factor(config: SupremeInitConfig) -> Callable[[int], float]:
    """Return diffusers' schedule as a pure function of the step, so that checkpoints need no scheduler state."""
    # `get_scheduler` needs an optimizer, but only the schedule's function of the step is used.
    unused = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(
        config.lr_scheduler,
        optimizer=unused,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    return scheduler.lr_lambdas[0]


def _widest_float(device: torch.device) -> torch.dtype:
    # Apple's GPUs have no float64.
    return torch.float32 if device.type == "mps" else torch.float64
