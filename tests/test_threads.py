"""Several threads that load and unload at once leave what one thread would have left."""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from conftest import HIDDEN_SIZE, assert_same, snapshot_of
from diffusers import StableDiffusionPipeline

from diffusers_supreme_init.text.text_pairs import find_text_pairs

NUM_THREADS, NUM_CONCEPTS = 4, 6


@pytest.fixture(autouse=True)
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def rows(thread: int, number: int) -> torch.Tensor:
    seed = torch.Generator().manual_seed(100 * thread + number)
    return torch.randn(1 + number % 3, HIDDEN_SIZE, generator=seed) * 0.1


def in_threads(work: Callable[[int], None]) -> None:
    together = threading.Barrier(NUM_THREADS)

    def started(thread: int) -> None:
        together.wait()
        work(thread)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for done in [pool.submit(started, thread) for thread in range(NUM_THREADS)]:
            done.result()


@pytest.mark.parametrize("shares", ["pipeline", "parts"])
def test_threads_that_load_into_shared_parts(pipe: Any, shares: str) -> None:
    before = snapshot_of(pipe)
    pipes = [pipe] * NUM_THREADS
    if shares == "parts":
        pipes = [StableDiffusionPipeline(**pipe.components, requires_safety_checker=False) for _ in pipes]

    def load(thread: int) -> None:
        for number in range(NUM_CONCEPTS):
            pipes[thread].load_multitoken_inversion({f"<c{thread}-{number}>": rows(thread, number)})
            if number % 2:
                pipes[thread].unload_multitoken_inversion(f"<c{thread}-{number - 1}>")

    in_threads(load)
    (pair,) = find_text_pairs(pipe)
    for thread in range(NUM_THREADS):
        for number in range(1, NUM_CONCEPTS, 2):
            assert torch.equal(pair.rows(f"<c{thread}-{number}>"), rows(thread, number))
    with torch.no_grad():
        together = pipe.encode_prompt("<c0-1> and <c3-5>", "cpu", 1, False)[0]
        pipe.unload_multitoken_inversion()
        pipe.load_multitoken_inversion([{"<c0-1>": rows(0, 1)}, {"<c3-5>": rows(3, 5)}])
        assert torch.equal(pipe.encode_prompt("<c0-1> and <c3-5>", "cpu", 1, False)[0], together)
    pipe.unload_multitoken_inversion()
    assert_same(before, snapshot_of(pipe))


def test_a_thread_that_fails_disturbs_no_other(pipe: Any) -> None:
    def load(thread: int) -> None:
        for number in range(NUM_CONCEPTS):
            if thread % 2:
                with pytest.raises(ValueError, match="width 33"):
                    pipe.load_multitoken_inversion({f"<c{thread}-{number}>": torch.ones(1, HIDDEN_SIZE + 1)})
            else:
                pipe.load_multitoken_inversion({f"<c{thread}-{number}>": rows(thread, number)})

    in_threads(load)
    (pair,) = find_text_pairs(pipe)
    for thread in range(0, NUM_THREADS, 2):
        for number in range(NUM_CONCEPTS):
            assert torch.equal(pair.rows(f"<c{thread}-{number}>"), rows(thread, number))
