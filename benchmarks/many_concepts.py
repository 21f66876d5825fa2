"""How long thousands of concepts take: loading them from open dictionaries, unloading them, resuming their training.

    python benchmarks/many_concepts.py

Tiny CLIPs (one layer; width 32, and 64 for the second one) with a vocabulary of the real size; 4 rows a concept. Ten
times as many concepts should take about ten times as long.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from loading import clip
from torch import nn

from diffusers_supreme_init import LearnedEmbedding, SupremeInitConfig
from diffusers_supreme_init.loading.matching import ConceptRequest, plan_load
from diffusers_supreme_init.objective.latents import PictureLatents
from diffusers_supreme_init.text.text_pairs import find_text_pairs
from diffusers_supreme_init.training.checkpoint import restore_checkpoint, write_checkpoint
from diffusers_supreme_init.training.progress import ConceptProgress
from diffusers_supreme_init.training.rows import RowOptimizer

NUM_VECTORS, WIDTH = 4, 32


def text_half() -> StableDiffusionXLPipeline:
    """Return a pipeline with nothing but its text half; rows of `WIDTH` fit its first text encoder only."""
    (first, tokenizer), (second, tokenizer_2) = clip(WIDTH), clip(2 * WIDTH)
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=None,
        scheduler=DDIMScheduler(),
    )


def concept(number: int) -> ConceptProgress:
    """Return a concept under training, with a picture of 8 x 8 latents."""
    rows, latents = {"text_encoder": torch.randn(NUM_VECTORS, WIDTH)}, torch.randn(1, 4, 8, 8)
    return ConceptProgress(
        placeholder_token=f"<concept-{number}>",
        description=f"a thing with the number {number}",
        initializer_tokens={},
        initial_rows=rows,
        prompts=(f"a photo of <concept-{number}>",),
        validation_prompt=f"a photo of <concept-{number}>",
        random_key=f"<concept-{number}>",
        latents=PictureLatents(latents, latents, None, torch.zeros(1, 6)),
        rows=rows,
        last_good_rows=rows,
    )


def seconds(action: Callable[[], object]) -> float:
    """Return the processor time of an action, which others on the machine do not lengthen."""
    start = time.process_time()
    action()
    return time.process_time() - start


def measure(num_concepts: int) -> dict[str, float]:
    """Return seconds by what was done."""
    pipe = text_half()
    sources = [{f"<concept-{number}>": torch.randn(NUM_VECTORS, WIDTH)} for number in range(num_concepts)]
    requests = [
        ConceptRequest(
            embeddings=(LearnedEmbedding(placeholder_token=token, rows=rows),),
            description=f"a thing with the number {number}",
        )
        for number, source in enumerate(sources)
        for token, rows in source.items()
    ]
    half = [token for source in sources[::2] for token in source]
    times = {
        "plan, a description each for the other encoder": seconds(lambda: plan_load(find_text_pairs(pipe), requests)),
        "plan and load": seconds(lambda: pipe.load_multitoken_inversion(sources, description=False)),
        "load again (nothing changes)": seconds(lambda: pipe.load_multitoken_inversion(sources, description=False)),
        "100 prompts": seconds(lambda: [pipe.tokenizer("a photo of <concept-7>, blue") for _ in range(100)]),
        "unload every second one": seconds(lambda: pipe.unload_multitoken_inversion(half)),
        "unload the rest": seconds(lambda: pipe.unload_multitoken_inversion()),
    }
    return times | measure_checkpoint(num_concepts)


def measure_checkpoint(num_concepts: int) -> dict[str, float]:
    """Return seconds to write a checkpoint and to resume from it."""
    concepts = [concept(number) for number in range(num_concepts)]
    optimizers = {}
    for one in concepts:
        parameters = {name: nn.Parameter(rows) for name, rows in one.rows.items()}
        optimizers[one.placeholder_token] = RowOptimizer(parameters, SupremeInitConfig(), scaled=False)
        optimizers[one.placeholder_token].step({name: torch.ones_like(rows) for name, rows in one.rows.items()}, 1e-3)

    def run() -> dict[str, object]:
        return {"concepts": {one.placeholder_token: one.fingerprint() for one in concepts}}

    with tempfile.TemporaryDirectory() as folder:
        writing = seconds(lambda: write_checkpoint(folder, run(), concepts, optimizers))
        path = next(Path(folder).iterdir())
        return {
            "write a checkpoint": writing,
            "resume from it": seconds(lambda: restore_checkpoint(path, run(), concepts, optimizers)),
        }


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, nargs="*", default=[1_000, 10_000], help="How many.")
    options = parser.parse_args()
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    measured = [measure(number) for number in options.concepts]
    print("| CPU s | " + " | ".join(f"{number:,} concepts" for number in options.concepts) + " |")
    print("|:---|" + "---:|" * len(measured))
    for what in measured[0]:
        print(f"| {what} | " + " | ".join(f"{times[what]:.2f}" for times in measured) + " |")


if __name__ == "__main__":
    main()
