"""How long a training step takes, beside loops that train the whole matrix, and beside what no loop can go below.

    python benchmarks/training.py                                                        # the toybox, batch 4
    python benchmarks/training.py --size sd15 --batch 1 --steps 3 --warmup 1 --rounds 2  # random weights, 8 GB
    python benchmarks/training.py --diffusers_script diffusers/examples/textual_inversion/textual_inversion.py

The variants (`training_variants.py`), each on the same weights, picture and settings:

- ``ours``: `SupremeInitTextualInversionTrainer`, without validation, checkpoints and previews;
- ``whole matrix``: a straight-line loop that does what diffusers' script does. It encodes the picture in each step,
  makes the whole embedding matrix a parameter of AdamW, and puts all other rows back afterwards;
- ``whole matrix, picture encoded once``: the same, but the picture is encoded before the first step;
- ``diffusers' script``, with ``--diffusers_script``: the file itself, unchanged; Stable Diffusion 1 only. Where
  torchvision is missing, it gets a stand-in for the one transform that it uses. It keeps its logs for TensorBoard;
- ``floor``: forward and backward passes of the frozen modules and nothing else. The text encoders read token ids that
  were made beforehand, one prompt for two samples as in ``ours``, with gradient to the output of their embedding; the
  denoiser predicts from noisy latents, timesteps and sizes that are on the device already; mean squared error;
  backward. No rows, no draws, no tokenizer, no optimizer, no loss on the CPU.

A step's time is that between two steps of PyTorch's optimizer, averaged over ``--steps`` of them after ``--warmup``;
no variant waits for the device in between because of it. In every round all variants run one after the other, in
alternating order. Ratios are computed within each round; given are the median, and the smallest and largest.

Each run is a process of its own, so that its peak memory is its own: what is resident (Linux), from start to end. With
``--one_process``, for GPUs, the models are built once for all but the script, and the peak is that of the CUDA
allocator in a run. GB are 10^9 bytes. Large sizes have random weights. How many samples equal quality takes is not
measured here: that is `examples/reproduce_paper.py`.
"""

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from memory import table
from torch.optim.optimizer import register_optimizer_step_post_hook
from training_variants import (
    PRECISIONS,
    RESOLUTIONS,
    SIZES,
    TOYBOX,
    VARIANTS,
    Clock,
    Setup,
    load,
    save_stable_diffusion,
    with_text_of_its_own,
)

SCRIPT = "diffusers' script"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OUT_OF_MEMORY = "out of memory"

Figures = dict[str, float | None]
"""Of a run: ``seconds`` and ``processor_seconds`` of a step, ``peak_bytes``, ``written_bytes`` if it writes files."""


class RunError(Exception):
    """A variant failed; the message is its reason, in a line."""


def run_here(pipe: Any, setup: Setup, variant: str, clock: Clock) -> Figures:
    """Run a variant in this process."""
    torch.manual_seed(0)
    random.seed(0)
    hook = register_optimizer_step_post_hook(clock.tick)
    try:
        written = VARIANTS[variant](pipe, setup, clock, DEVICE)
    finally:
        hook.remove()
    return clock.per_step() | {"peak_bytes": peak_bytes(), "written_bytes": written}


def run_in_turn(pipe: Any, setup: Setup, variant: str, clock: Clock) -> Figures:
    """Run a variant in this process on models that others use too.

    Raises:
        RunError: It failed.
    """
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        return run_here(with_text_of_its_own(pipe), setup, variant, clock)
    except torch.OutOfMemoryError:
        raise RunError(OUT_OF_MEMORY) from None
    except Exception as error:
        raise RunError(f"{type(error).__name__}: {error}") from error
    finally:
        pipe.to("cpu")


def run_alone(setup: Setup, variant: str, clock: Clock) -> Figures:
    """Run a variant in a process of its own.

    Raises:
        RunError: It failed.
    """
    words = ["--alone", json.dumps(asdict(setup)), "--variants", variant]
    words += ["--steps", str(clock.steps), "--warmup", str(clock.warmup)]
    done = subprocess.run(
        [sys.executable, __file__, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = done.stdout.strip().splitlines() or ["no output"]
    if done.returncode:
        raise RunError(OUT_OF_MEMORY if "OutOfMemoryError" in done.stdout else lines[-1])
    return json.loads(lines[-1])


def peak_bytes() -> int:
    """Return the peak memory of this process: of the CUDA allocator, else what was resident."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    # Not that of `getrusage`, which a process inherits from the one that started it.
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


class Rounds:
    """The figures of all variants, round by round.

    Attributes:
        figures: By variant; as many as there are rounds.
        errors: Why variants failed, which are then left out of further rounds.
    """

    def __init__(self, variants: Sequence[str]) -> None:
        self.figures: dict[str, list[Figures]] = {variant: [] for variant in variants}
        self.errors: dict[str, str] = {}

    def measure(self, num_rounds: int, run: Callable[[str], Figures]) -> None:
        """Run all variants in each round, in alternating order."""
        variants = list(self.figures)
        for number in range(num_rounds):
            for variant in reversed(variants) if number % 2 else variants:
                if variant in self.errors:
                    continue
                try:
                    found = run(variant)
                except RunError as error:
                    self.errors[variant] = outcome = str(error)
                else:
                    self.figures[variant].append(found)
                    outcome = f"{found['seconds']:.3f} s a step, {found['processor_seconds']:.3f} of processors"
                print(f"round {number + 1}: {variant}: {outcome}", file=sys.stderr, flush=True)

    def has(self, variant: str) -> bool:
        """Whether a variant was measured in all rounds."""
        return variant in self.figures and variant not in self.errors

    def ratios(self, variant: str, name: str, beside: str) -> list[float]:
        """Return a variant's figures over another's."""
        pairs = zip(self.figures[variant], self.figures[beside], strict=True)
        return [one[name] / other[name] for one, other in pairs]

    def row(self, variant: str) -> list[str]:
        """Return a row of the table."""
        if variant in self.errors:
            return [variant, self.errors[variant].replace("|", "/")[:100], *[""] * 6]
        names = ("seconds", "processor_seconds", "peak_bytes")
        wall, processor, peak = (statistics.median(one[name] for one in self.figures[variant]) for name in names)
        written = self.figures[variant][0]["written_bytes"]
        row = [variant, f"{wall:.3f}", f"{processor:.3f}", f"{peak / 1e9:.2f}"]
        row.append("" if written is None else f"{written / 1e3:.1f}")
        if variant == "ours" or not self.has("ours"):
            return [*row, *["1" if variant == "ours" else ""] * 3]
        return [*row, *(spread(self.ratios(variant, name, "ours")) for name in names)]

    def report(self) -> str:
        """Return the table in Markdown, and the overhead over the floor."""
        header = ["", "seconds a step", "processor seconds a step", "peak memory, GB", "written, kB"]
        header += ["seconds / ours", "processor seconds / ours", "memory / ours"]
        text = table(header, [self.row(variant) for variant in self.figures])
        if self.has("ours") and self.has("floor"):
            wall, processor = (
                [100 * (ratio - 1) for ratio in self.ratios("ours", name, "floor")]
                for name in ("seconds", "processor_seconds")
            )
            text += f"\nOurs over the floor: {spread(wall, '+.1f')} % of the seconds, "
            text += f"{spread(processor, '+.1f')} % of the processor seconds.\n"
        return text


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Return the median of some values, and the smallest and largest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def title(setup: Setup, options: argparse.Namespace) -> str:
    """Return what a table is about, in one line."""
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    parts = [SIZES[setup.size], setup.dtype, f"{setup.resolution} px", f"batch {setup.batch}"]
    parts += ["compiled"] * setup.compiled + ["gradient checkpointing"] * setup.checkpointed
    parts += [f"{options.rounds} rounds of {options.steps} steps after {options.warmup}"]
    return ", ".join([*parts, where, f"torch {torch.__version__}"])


@contextmanager
def folder_of(size: str) -> Iterator[str | None]:
    """Give the folder of a model: the toybox's, or that of a Stable Diffusion 1.5 that is saved for the time."""
    if size == "toybox":
        yield str(TOYBOX / "pipeline")
    elif size == "sd15":
        with tempfile.TemporaryDirectory() as folder:
            save_stable_diffusion(folder)
            yield folder
    else:
        yield None


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="toybox", help="Which model.")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="Which variants; all that can be run.")
    parser.add_argument("--diffusers_script", metavar="PATH", help="diffusers' textual_inversion.py.")
    parser.add_argument("--resolution", type=int, help="Side of the pictures in pixels; the model's own by default.")
    parser.add_argument("--batch", type=int, default=4, help="Samples a step.")
    parser.add_argument("--dtype", choices=PRECISIONS, default="float32", help="Of the frozen parts.")
    parser.add_argument("--steps", type=int, default=40, help="Steps that are measured, at least 1.")
    parser.add_argument("--warmup", type=int, default=3, help="Steps before them, at least 1.")
    parser.add_argument("--rounds", type=int, default=5, help="How often everything is repeated, at least 1.")
    parser.add_argument("--compile", action="store_true", help="Compile the repeated blocks of the denoiser.")
    parser.add_argument("--gradient_checkpointing", action="store_true", help="Of the denoiser, in all variants.")
    parser.add_argument("--one_process", action="store_true", help="Build the models once; for GPUs.")
    parser.add_argument("--alone", help=argparse.SUPPRESS)  # in the process of a single run: its setup
    options = parser.parse_args(words)
    if min(options.steps, options.warmup, options.rounds) < 1:
        parser.error("expected at least 1 for --steps, --warmup and --rounds")
    if options.diffusers_script and options.size not in ("toybox", "sd15"):
        parser.error("diffusers' script trains Stable Diffusion 1; pass --size toybox or sd15")
    return options


def main() -> int:
    """Measure and print a table in Markdown; return 1 if a variant failed, for another reason than memory."""
    options = parse_arguments()
    transformers.logging.set_verbosity_error()
    if options.alone:
        setup, [variant] = Setup(**json.loads(options.alone)), options.variants
        pipe = None if variant == SCRIPT else load(setup, DEVICE)
        print(json.dumps(run_here(pipe, setup, variant, Clock(options.warmup, options.steps))))
        return 0
    rounds = Rounds(options.variants or [one for one in VARIANTS if one != SCRIPT or options.diffusers_script])
    with folder_of(options.size) as folder:
        setup = Setup(
            size=options.size,
            folder=folder,
            resolution=options.resolution or RESOLUTIONS[options.size],
            batch=options.batch,
            dtype=options.dtype,
            compiled=options.compile,
            checkpointed=options.gradient_checkpointing,
            script=options.diffusers_script,
        )
        pipe = load(setup, DEVICE) if options.one_process else None

        def run(variant: str) -> Figures:
            clock = Clock(options.warmup, options.steps)
            if pipe is None or variant == SCRIPT:
                return run_alone(setup, variant, clock)
            return run_in_turn(pipe, setup, variant, clock)

        rounds.measure(options.rounds, run)
    print(f"{title(setup, options)}\n\n{rounds.report()}", flush=True)
    return int(any(error != OUT_OF_MEMORY for error in rounds.errors.values()))


if __name__ == "__main__":
    sys.exit(main())
