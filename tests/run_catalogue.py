"""A catalogue trained in a process of its own, which may be told to kill itself; see `run_training`.

Places to die, each at its Nth time: ``words`` (before a concept is described), ``step`` (before a step), ``rename``
(between the temporary folder and its rename), ``ledger`` (in the middle of a line).
"""

import argparse
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny.describers  # noqa: F401 - imports here, once, what describers are made of
from conftest import TOYBOX

from diffusers_supreme_init import DescriberConfig, SupremeInitConfig, train_catalogue
from diffusers_supreme_init.catalogue import chunk, folders
from diffusers_supreme_init.catalogue.ledger import Ledger
from diffusers_supreme_init.training.loop import TrainingLoop

sys.path.insert(0, str(TOYBOX))
import world

PLACES = ("words", "step", "rename", "ledger")


def draw_catalogue(folder: Path, seeds: range, **columns: Any) -> Path:
    """Draw toys, one for each seed, and list them with their words; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for seed in seeds:
        toy = world.random_toy(random.Random(seed))
        world.render(toy).save(folder / f"{seed}.png")
        words = f"a {toy.category}" + " with white stripes" * (seed % 3 == 0)
        lines.append(
            {"file_name": f"{seed}.png", "placeholder_token": f"<toy-{seed}>", "initializer": words} | columns
        )
    write_list(folder, lines)
    return folder


def write_list(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_list(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def library_files(folder: Path) -> dict[str, bytes]:
    """Return all files of a library but its ledgers and locks."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if not path.name.startswith((".", "ledger-"))
    }


def die_at(place: str, number: int) -> None:
    """Die by SIGKILL the Nth time that a place is reached."""
    owner, name = {
        "words": (chunk, "find_regions_of"),
        "step": (TrainingLoop, "train_step"),
        "rename": (folders.os, "rename"),
        "ledger": (Ledger, "append"),
    }[place]
    original: Callable[..., Any] = getattr(owner, name)
    calls = []

    def reached(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) < number:
            return original(*arguments, **options)
        if place == "ledger":
            path = arguments[0]._path
            size = path.stat().st_size
            original(*arguments, **options)
            os.truncate(path, (size + path.stat().st_size) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(owner, name, reached)


def train(pipe: Any, arguments: argparse.Namespace) -> None:
    """Train the catalogue that `run_training` was asked for; print what was done, as JSON."""
    if arguments.kill is not None:
        die_at(arguments.kill[0], int(arguments.kill[1]))
    describers = None
    if arguments.describers is not None:
        describers = DescriberConfig(**arguments.describers, max_caption_tokens=5, score_samples=2)
    index, count = arguments.shard
    result = train_catalogue(
        pipe,
        arguments.catalogue,
        arguments.output_dir,
        config=SupremeInitConfig(**arguments.settings),
        describers=describers,
        num_shards=count,
        shard_index=index,
    )
    print(json.dumps({"trained": result.trained, "done": len(result.done), "failed": list(map(str, result.failed))}))
