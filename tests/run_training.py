"""A training run in a process of its own, which may be told to kill itself; not a test: see `training_processes`.

python run_training.py OUTPUT_DIR '{"max_train_steps": 6}' [--kill-at-step N | --kill-at-save N] [--stop-after N]
    [--float64] [--pipeline FOLDER] [--resolution N] [--catalogue FOLDER [--kill PLACE N] [--shard INDEX COUNT]]
python run_training.py --fork
"""

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import run_catalogue
import torch
from conftest import build_tiny_pipeline, random_picture
from diffusers import DiffusionPipeline
from tiny.language_tokenizers import without_video

from diffusers_supreme_init import (
    Concept,
    DescriberConfig,
    Describers,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
)
from diffusers_supreme_init.training import loop

CONCEPTS = [
    Concept(images=random_picture(seed=1), placeholder_token="<a>", initializer="a red mug with white stripes"),
    Concept(images=[random_picture(seed=2), random_picture(seed=3)], placeholder_token="<b>", initializer="*"),
    Concept(images=random_picture(seed=4), placeholder_token="<c>", initializer="an orange umbrella"),
]


def kill_at_step(step_to_die: int) -> None:
    """Die by SIGKILL when a step begins."""
    original = loop.TrainingLoop.train_step

    def train_step(self: Any, step: int) -> Any:
        if step == step_to_die:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, step)

    loop.TrainingLoop.train_step = train_step  # type: ignore[method-assign]


def kill_at_save(save_to_die: int) -> None:
    """Die by SIGKILL in the middle of writing a checkpoint: half of its bytes are on disk, under a temporary name."""
    original, saves = os.fsync, []

    def fsync(descriptor: int) -> None:
        saves.append(descriptor)
        if len(saves) == save_to_die:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        original(descriptor)

    os.fsync = fsync


def fork_for_each_line() -> None:
    """For each line of JSON, ``[output file, arguments, environment]``, run in a fork, and print how it ended."""
    for line in sys.stdin:
        output_path, arguments, environment = json.loads(line)
        if (process := os.fork()) == 0:
            output = os.open(output_path, os.O_WRONLY | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.environ |= environment
            try:
                main(arguments)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--kill-at-step", type=int)
    parser.add_argument("--kill-at-save", type=int)
    parser.add_argument("--stop-after", type=int, help="the last process asks to stop after this step")
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--pipeline", type=Path, help="folder of a pipeline; default: a tiny Stable Diffusion")
    parser.add_argument("--resolution", type=int, help="of the pictures; default: that of the settings")
    parser.add_argument("--describers", type=json.loads, help="folders of describers; the words are found by them")
    parser.add_argument("--catalogue", type=Path, help="train what is listed there, rather than three concepts")
    parser.add_argument("--kill", nargs=2, help="see `run_catalogue`")
    parser.add_argument("--shard", nargs=2, type=int, default=(0, 1), help="which part of a catalogue, of how many")
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    pipe = build_tiny_pipeline()
    if arguments.catalogue is not None:
        run_catalogue.train(pipe, arguments)
        return
    if arguments.pipeline is not None:
        parts = DiffusionPipeline.load_config(arguments.pipeline)
        absent = {name: None for name, part in parts.items() if part == [None, None]}
        with without_video():
            pipe = DiffusionPipeline.from_pretrained(arguments.pipeline, **absent)
    if arguments.float64:
        pipe.to(torch.float64)
    if arguments.kill_at_step is not None:
        kill_at_step(arguments.kill_at_step)
    if arguments.kill_at_save is not None:
        kill_at_save(arguments.kill_at_save)
    settings = {} if arguments.resolution is None else {"resolution": arguments.resolution}
    config = SupremeInitConfig(output_dir=str(arguments.output_dir), **settings, **arguments.settings)
    concepts, describers = CONCEPTS, None
    if arguments.describers is not None:
        concepts = [replace(concept, initializer="auto") for concept in CONCEPTS]
        describers = Describers(DescriberConfig(**arguments.describers, max_caption_tokens=5, score_samples=2))
    trainer = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, describers=describers, config=config)

    def after_step(step: int, _: Any) -> None:
        accelerator = trainer.accelerator
        if step == arguments.stop_after and accelerator.process_index == accelerator.num_processes - 1:
            trainer.stop()

    results = trainer.train(after_step)
    trainer.save(arguments.output_dir)
    if trainer.accelerator.is_main_process:
        rows = {f"{one.placeholder_token}/{name}": rows for one in results for name, rows in one.rows.items()}
        torch.save(
            {"rows": rows, "processes": trainer.accelerator.num_processes}, arguments.output_dir / "exact_rows.pt"
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["--fork"]:
        fork_for_each_line()
    else:
        main()
