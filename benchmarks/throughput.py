"""How many concepts an hour a device learns, when some are trained together.

    python benchmarks/throughput.py --dtype bfloat16      # Stable Diffusion 1.5 with random weights
    python benchmarks/throughput.py --size toybox --concepts 1 2 --steps 10

A run is all that a user waits for once the pipeline is loaded: the pictures are encoded, the concepts trained with the
default settings, validation included, and saved without sample pictures. Each concept has a picture and five rows.
Peak memory is that of the CUDA allocator, in GB of 10^9 bytes.
"""

import argparse
import tempfile
import time
from typing import Any

import torch
import transformers
from memory import table
from training import DEVICE, folder_of
from training_variants import LEARNING_RATE, PICTURE, PRECISIONS, RESOLUTIONS, SIZES, Setup, load, with_text_of_its_own

from diffusers_supreme_init import Concept, SupremeInitConfig, SupremeInitTextualInversionTrainer


def seconds(pipe: Any, setup: Setup, num_concepts: int, num_steps: int, max_forward_batch_size: int | None) -> float:
    """Train some concepts together and save them; return how long it took."""
    config = SupremeInitConfig(
        max_train_steps=num_steps,
        train_batch_size=setup.batch,
        max_forward_batch_size=max_forward_batch_size,
        resolution=setup.resolution,
        learning_rate=LEARNING_RATE,
    )
    concepts = [
        Concept(images=PICTURE, placeholder_token=f"<mug-{number}>", initializer=setup.words)
        for number in range(num_concepts)
    ]
    started = time.perf_counter()
    trainer = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=config)
    trainer.train()
    with tempfile.TemporaryDirectory() as folder:
        trainer.save(folder)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd15", help="Which model.")
    parser.add_argument("--concepts", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="How many at once.")
    parser.add_argument("--steps", type=int, default=SupremeInitConfig.max_train_steps, help="Of each concept.")
    parser.add_argument("--batch", type=int, default=4, help="Samples of a concept in a step.")
    parser.add_argument("--max_forward_batch_size", type=int, default=32, help="Limit of the trainer's memory.")
    parser.add_argument("--dtype", choices=PRECISIONS, default="float32", help="Of the frozen parts.")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    rows = []
    with folder_of(options.size) as folder:
        setup = Setup(
            size=options.size,
            folder=folder,
            resolution=RESOLUTIONS[options.size],
            batch=options.batch,
            dtype=options.dtype,
            compiled=False,
            checkpointed=False,
            script=None,
        )
        pipe = load(setup, DEVICE).to(DEVICE)
    seconds(with_text_of_its_own(pipe), setup, 1, 2, None)  # the first kernels of a process take long
    for number in options.concepts:
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        taken = seconds(with_text_of_its_own(pipe), setup, number, options.steps, options.max_forward_batch_size)
        peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if DEVICE.type == "cuda" else ""
        rows.append([str(number), f"{taken:.1f}", f"{3600 * number / taken:,.0f}", peak])
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    about = f"{options.dtype}, {setup.resolution} px, {options.steps} steps of {options.batch} a concept"
    print(f"{SIZES[options.size]}, {about}, {where}, torch {torch.__version__}\n")
    print(table(["concepts together", "seconds", "concepts an hour", "peak memory, GB"], rows))


if __name__ == "__main__":
    main()
