"""The loop that all stages share: cosine schedule, moving average of the weights, resumption after any kill."""

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

SAVE_EVERY_SECONDS = 240
MAX_GRADIENT_NORM = 1.0


def pick_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def step_generator(step: int) -> torch.Generator:
    """Randomness of one step: a function of its number alone, so that a resumed run draws what it would have drawn."""
    return torch.Generator().manual_seed(step)


def train(
    module: nn.Module,
    compute_loss: Callable[[int], torch.Tensor],
    *,
    num_steps: int,
    learning_rate: float,
    work_path: Path,
    ema_decay: float = 0.999,
    warmup_steps: int = 200,
    weight_decay: float = 0.01,
    on_save: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Train a module in place and return the moving average of its weights.

    Args:
        module: What to train, already on its device.
        compute_loss: Gives the loss of a step from the step's number.
        num_steps: Length of the schedule. A work file of a shorter run is continued up to this step.
        learning_rate: Peak of the cosine schedule.
        work_path: Where the state is kept between runs.
        ema_decay: Share of the moving average that a step keeps.
        warmup_steps: Steps in which the learning rate grows from zero.
        weight_decay: On matrices only; rows of an embedding that never occur must not shrink.
        on_save: Called with the averaged module whenever the state is saved.

    Returns:
        The averaged module, in evaluation mode.
    """
    device_type = next(module.parameters()).device.type
    average = copy.deepcopy(module).eval().requires_grad_(False)
    groups = _parameter_groups(module, weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), fused=True)
    parameters: list[torch.Tensor] = list(module.parameters())
    averaged: list[torch.Tensor] = list(average.parameters())
    first_step = 0
    if work_path.exists():
        state = torch.load(work_path, map_location=device_type, weights_only=True)
        module.load_state_dict(state["module"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first_step = state["step"]

    saved_at, smooth_loss = time.monotonic(), math.nan
    progress = tqdm(
        range(first_step, num_steps), initial=first_step, total=num_steps, desc=work_path.stem, mininterval=10
    )
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step, num_steps, warmup_steps)
        with torch.autocast(device_type, torch.bfloat16):
            loss = compute_loss(step)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - min(ema_decay, (step + 1) / (step + 10)))
            for ours, theirs in zip(average.buffers(), module.buffers(), strict=True):
                ours.copy_(theirs)
        smooth_loss = loss.item() if math.isnan(smooth_loss) else 0.98 * smooth_loss + 0.02 * loss.item()
        progress.set_postfix(loss=f"{smooth_loss:.4f}", refresh=False)
        if step + 1 == num_steps or time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
            _save(work_path, step + 1, module, average, optimizer)
            saved_at = time.monotonic()
            if on_save is not None:
                on_save(average)
    return average


def load_as_float32(config_path: Path) -> None:
    """Make `from_pretrained` widen half-precision weights by default.

    transformers loads a model in the type that its configuration names, diffusers always in float32; a pipeline
    whose text encoder stayed in half precision would stop at the first matrix product of the UNet.
    """
    config = json.loads(config_path.read_text())
    config["dtype"] = "float32"
    for part in config.values():
        if isinstance(part, dict) and "dtype" in part:
            part["dtype"] = "float32"
    config_path.write_text(json.dumps(config, indent=2) + "\n")


def _schedule(step: int, num_steps: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / warmup_steps) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / num_steps)))


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    embeddings = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    decayed = [p for p in module.parameters() if p.ndim > 1 and id(p) not in embeddings]
    others = [p for p in module.parameters() if p.ndim <= 1 or id(p) in embeddings]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _save(work_path: Path, step: int, module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = {
        "step": step,
        "module": module.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    # A kill while writing must leave the previous file whole.
    partial_path = work_path.with_suffix(".partial")
    torch.save(state, partial_path)
    partial_path.rename(work_path)
