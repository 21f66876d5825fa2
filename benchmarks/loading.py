"""How long a concept takes to load, beside diffusers' own loader, at the sizes of real text encoders.

    python benchmarks/loading.py

Text encoders have random weights, one layer, and the matrix and vocabulary of the real ones: CLIP-L 49,408 x 768
(Stable Diffusion 1), CLIP bigG 49,408 x 1,280 (SDXL), T5-XXL 32,128 x 4,096 (Flux). In each round both load the same
rows into copies of the same encoder, one after the other, in alternating order; a ratio is the median over the rounds
of stock / ours, with the smallest and largest. One concept fits into the 28 rows of padding of T5-XXL, five do not.
"""

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionPipeline
from tokenizers import pre_tokenizers
from tqdm import tqdm
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

import diffusers_supreme_init  # noqa: F401 - gives pipelines the method that is measured

NUM_VECTORS = 8


@dataclass(frozen=True)
class Case:
    """One text encoder and what is loaded into it."""

    name: str
    build: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]
    num_concepts: int = 1
    one_by_one: bool = False


def clip(width: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return CLIP's text encoder of a width and a vocabulary of its size."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokens[512:512] = [f"{number:05d}</w>" for number in range(49_408 - len(tokens))]
    tokenizer = CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=len(tokens)
    )
    return (CLIPTextModel if width == 768 else CLIPTextModelWithProjection)(config).eval(), tokenizer


def t5_xxl() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a T5 encoder with the matrix of XXL, 28 rows longer than its vocabulary."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{number:05d}", -9.0) for number in range(32_000 - len(pieces))]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    config = T5Config(vocab_size=32_128, d_model=4096, d_ff=8, d_kv=8, num_heads=1, num_layers=1)
    return T5EncoderModel(config).eval(), T5Tokenizer(vocab=pieces, extra_ids=100)


CASES = [
    Case("CLIP-L (SD 1)", lambda: clip(768)),
    Case("CLIP bigG (SDXL)", lambda: clip(1280)),
    Case("T5-XXL (Flux)", t5_xxl),  # its rows fit into the padding: nothing grows
    Case("T5-XXL, 5 concepts", t5_xxl, num_concepts=5),
    Case("CLIP-L, 20 concepts", lambda: clip(768), num_concepts=20, one_by_one=True),
    Case("CLIP-L, 100 concepts", lambda: clip(768), num_concepts=100),
]


def pipeline(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> StableDiffusionPipeline:
    """Return a pipeline with nothing but its text half; both loaders look at no more."""
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=None,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def ours(pipe: Any, concepts: dict[str, torch.Tensor]) -> None:
    """Load all concepts in one call."""
    pipe.load_multitoken_inversion([{token: rows} for token, rows in concepts.items()])


def ours_one_by_one(pipe: Any, concepts: dict[str, torch.Tensor]) -> None:
    """Load each concept in a call of its own."""
    for token, rows in concepts.items():
        pipe.load_multitoken_inversion({token: rows})


def stock(pipe: Any, concepts: dict[str, torch.Tensor]) -> None:
    """Load all concepts in one call of diffusers' loader, which takes a list too."""
    states = [{token: rows} for token, rows in concepts.items()]
    pipe.load_textual_inversion(states, tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder)


def stock_one_by_one(pipe: Any, concepts: dict[str, torch.Tensor]) -> None:
    """Load each concept in a call of its own with diffusers' loader."""
    for token, rows in concepts.items():
        stock(pipe, {token: rows})


LOADERS: dict[str, Callable[[Any, dict[str, torch.Tensor]], None]] = {
    "ours": ours,
    "stock": stock,
    "ours, one by one": ours_one_by_one,
    "stock, one by one": stock_one_by_one,
}


def measure(case: Case, num_rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round by loader."""
    encoder, tokenizer = case.build()
    width = encoder.get_input_embeddings().weight.shape[1]
    concepts = {f"<concept-{number}>": torch.randn(NUM_VECTORS, width) * 0.01 for number in range(case.num_concepts)}
    loaders = [name for name in LOADERS if case.one_by_one or "one by one" not in name]
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for number in tqdm(range(num_rounds), desc=case.name, leave=False):
        for name in loaders if number % 2 else reversed(loaders):
            pipe = pipeline(copy.deepcopy(encoder), copy.deepcopy(tokenizer))
            start = time.perf_counter()
            LOADERS[name](pipe, concepts)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def row(case: Case, calls: str, own: list[float], stock: list[float]) -> str:
    """Return a row of the table."""
    ratios = [theirs / mine for theirs, mine in zip(stock, own, strict=True)]
    spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
    how = "one each" if calls else "one"
    return f"| {case.name} | {how} | {statistics.median(own):.3f} | {statistics.median(stock):.2f} | {spread} |"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep both loaders from talking."""
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="Rounds per case.")
    parser.add_argument(
        "--cases", nargs="*", default=[case.name for case in CASES], help="Which cases; all by default."
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{NUM_VECTORS} rows a concept, {options.rounds} rounds, {torch.get_num_threads()} threads, float32\n")
    print("| text encoder | calls | ours, s | stock, s | stock / ours (smallest to largest) |")
    print("|:---|:---|---:|---:|---:|")
    with quiet():
        for case in CASES:
            if case.name in options.cases:
                seconds = measure(case, options.rounds)
                for calls in ("", ", one by one") if case.one_by_one else ("",):
                    print(row(case, calls, seconds[f"ours{calls}"], seconds[f"stock{calls}"]), flush=True)


if __name__ == "__main__":
    main()
