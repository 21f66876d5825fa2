"""Stateless randomness: every draw of a run is a pure function of its seed, concept, step, sample and purpose.

No generator state has to be saved. A resumed run, a run on more processes and a run that trains several concepts
together draw the same numbers for a concept as a plain run.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")


def generator_for(seed: int, key: str, step: int, sample_index: int, purpose: str) -> torch.Generator:
    """Return a CPU generator seeded by a hash of the arguments.

    Args:
        seed: Seed of the run.
        key: Key of the concept, usually its name; ``""`` for draws that all concepts share.
        step: Optimizer step, from 0.
        sample_index: Global index of the sample within the step, independent of processes and passes.
        purpose: Purpose of the draw, e.g. ``"noise"``. Draws for different purposes are independent.
    """
    text = "\x1f".join((str(seed), key, str(step), str(sample_index), purpose))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)  # torch takes a signed 64-bit seed


def choose(items: Sequence[Item], generator: torch.Generator) -> Item:
    """Return one of `items`, all with equal probability."""
    return items[int(torch.randint(len(items), (), generator=generator))]
