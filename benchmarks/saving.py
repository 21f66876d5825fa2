"""How long many concepts take to save to one folder, to merge into it, and to read again; files only, no training.

    python benchmarks/saving.py

One concept of the toybox is trained for two steps. Each concept of the table is a copy of it under another name, with
48 x 128 numbers, as many as 8 rows of CLIP-L, and the record of 100 steps. "save" writes embedding, card and record of
each, beside the card and the index of all; "save again" finds them there, and changes nothing; "merge one" adds one
concept to them; "read" finds the files of all and reads the rows; "read five" takes five of them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from diffusers_supreme_init import (
    Concept,
    ConceptProgress,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    read_embeddings,
)
from diffusers_supreme_init.loading.options import SourceOptions
from diffusers_supreme_init.loading.sources import find_concepts

TOYBOX = Path(__file__).resolve().parent.parent / "examples" / "toybox"
NUM_VECTORS, HIDDEN_SIZE, NUM_STEPS = 48, 128, 100
COLUMNS = ("save", "save again", "merge one", "read", "read five")


def trained() -> SupremeInitTextualInversionTrainer:
    """Return a trainer with one concept."""
    trainer = SupremeInitTextualInversionTrainer(
        DiffusionPipeline.from_pretrained(TOYBOX / "pipeline"),
        TOYBOX / "concepts" / "mug.png",
        "<mug>",
        "a red mug with white stripes",
        config=SupremeInitConfig(max_train_steps=2, validation_samples=2),
    )
    trainer.train()
    return trainer


def rename(
    trainer: SupremeInitTextualInversionTrainer, tokens: list[str], pattern: tuple[Concept, ConceptProgress]
) -> None:
    """Give a trainer copies of a concept and its result, one for each token."""
    concept, result = pattern
    rows = torch.randn(len(tokens), NUM_VECTORS, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))
    losses = [float(step) for step in torch.rand(NUM_STEPS, generator=torch.Generator().manual_seed(0))]
    trainer.concepts = [replace(concept, placeholder_token=token) for token in tokens]
    trainer.results = [
        replace(result, placeholder_token=token, rows={"text_encoder": own}, losses=losses)
        for token, own in zip(tokens, rows, strict=True)
    ]


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Add the seconds of a block to a list."""
    start = time.monotonic()
    yield
    seconds.append(time.monotonic() - start)


def read(folder: Path, only: list[str] | None = None) -> int:
    """Read the concepts of a library; return their number."""
    options = SourceOptions(None, None, None, None, local_files_only=True, hub_token=None)
    return sum(len(read_embeddings(file)) for files in find_concepts(folder, options, only) for file in files)  # type: ignore[arg-type]


def measure(trainer: SupremeInitTextualInversionTrainer, number: int, make_folder: Callable[[], Path]) -> list[float]:
    """Return the seconds of each of `COLUMNS` for so many concepts."""
    pattern = trainer.concepts[0], trainer.results[0]
    folder, seconds, tokens = make_folder(), [], [f"<toy-{index}>" for index in range(number)]
    for names in (tokens, tokens, ["<one-more>"]):
        rename(trainer, names, pattern)
        with timed(seconds):
            trainer.save(folder)
    with timed(seconds):
        assert read(folder) == number + 1
    with timed(seconds):
        assert read(folder, only=tokens[:5]) == 5
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", type=int, nargs="+", default=[1_000, 10_000], help="Concepts in the folder.")
    options = parser.parse_args()
    trainer = trained()
    print(f"| concepts | {' | '.join(COLUMNS)} |", f"|---:{'|---:' * len(COLUMNS)}|", sep="\n")
    for number in options.numbers:
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(trainer, number, lambda folder=folder: Path(folder, "library"))  # type: ignore[misc]
        print(f"| {number:,} | {' | '.join(f'{one:.2f} s' for one in seconds)} |", flush=True)


if __name__ == "__main__":
    main()
