"""A catalogue beside the shell loop that starts one process for each concept, and how long libraries take to load.

    python benchmarks/catalogue.py
    python benchmarks/catalogue.py --size sd15 --dtype bfloat16   # on a GPU, with random weights

Concepts are drawn toys, the model is the toybox. "start" is `supreme-init train --concepts --dry_run`: imports, model
and plan. "catalogue" is what a concept takes beyond that; "nothing to do" is the same command again, which loads no
model; "loop" is `supreme-init train PICTURE --no_report` for each. Concepts an hour include the start.
Processor seconds, so that others on the machine do not count; concepts an hour follow from them, for one core.

With ``--size``, a table of `train_catalogue` by `concepts_per_batch` comes instead, in seconds of the clock, with the
model loaded already, beside one process for each concept.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from training import DEVICE
from training_variants import LEARNING_RATE, PRECISIONS, RESOLUTIONS, save_stable_diffusion

from diffusers_supreme_init import (
    LearnedEmbedding,
    SupremeInitConfig,
    folder_name,
    train_catalogue,
    write_embedding,
)
from diffusers_supreme_init.sharing.library_folder import refresh_library

TOYBOX = Path(__file__).resolve().parent.parent / "examples" / "toybox"
sys.path.insert(0, str(TOYBOX))
import world  # noqa: E402 - its folder is known now

COMMAND = [sys.executable, "-m", "diffusers_supreme_init", "train", "--model", "toybox"]


def draw(folder: Path, number: int, initializer: str | None) -> list[tuple[Path, str, str]]:
    """Draw toys and list them; return picture, token and initializer of each."""
    folder.mkdir()
    made = []
    for seed in range(number):
        toy = world.random_toy(random.Random(seed))
        path = folder / f"{seed}.png"
        world.render(toy).save(path)
        made.append((path, f"<toy-{seed}>", initializer or f"a {toy.color} {toy.category}"))
    names = ("file_name", "placeholder_token", "initializer")
    lines = [json.dumps(dict(zip(names, (path.name, token, words), strict=True))) for path, token, words in made]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return made


def seconds_of(*commands: list[str]) -> float:
    """Run commands one after another; return their processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(number: int, in_loop: int, steps: int, initializer: str | None) -> str:
    """Return a row of the table."""
    with tempfile.TemporaryDirectory() as base:
        toys = draw(Path(base) / "toys", number, initializer)
        settings = ["--max_train_steps", str(steps), "--validation_samples", "0" if steps == 0 else "16"]
        listed = ["--concepts", str(Path(base) / "toys"), "--output_dir", str(Path(base) / "library")]
        start = seconds_of([*COMMAND, *listed, *settings, "--dry_run"])
        catalogue = seconds_of([*COMMAND, *listed, *settings])
        nothing = seconds_of([*COMMAND, *listed, *settings])
        single = [*settings, "--no_report", "--output_dir"]
        loop = seconds_of(
            *(
                [*COMMAND, str(path), "--token", token, "--initializer", words, *single, str(Path(base) / path.stem)]
                for path, token, words in toys[:in_loop]
            )
        )
    of_loop, each = loop / in_loop, (catalogue - start) / number
    cells = [steps, initializer or "given", number, f"{of_loop:.2f}", f"{start:.1f}", f"{each:.3f}", f"{nothing:.1f}"]
    return f"| {' | '.join(map(str, cells))} | {3600 / of_loop:.0f} | {3600 * number / catalogue:.0f} |"


def by_batch(size: str, dtype: str, number: int, sizes: list[int], steps: int) -> list[str]:
    """Return rows of the table of batches, the shell loop first."""
    with tempfile.TemporaryDirectory() as base:
        model, toys = TOYBOX / "pipeline", Path(base) / "toys"
        if size != "toybox":
            model = Path(base) / "model"
            save_stable_diffusion(str(model))
        (path, token, words), *_ = draw(toys, number, None)
        settings = {"max_train_steps": steps, "resolution": RESOLUTIONS[size], "learning_rate": LEARNING_RATE}
        command = [*COMMAND[:-1], str(model), str(path), "--token", token, "--initializer", words, "--dtype", dtype]
        command += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        started = time.perf_counter()
        subprocess.run([*command, "--no_report", "--output_dir", f"{base}/one"], check=True, capture_output=True)
        taken = time.perf_counter() - started
        rows = [f"| a process each | 1 | {taken:.1f} | {3600 / taken:,.0f} | |"]
        pipe = DiffusionPipeline.from_pretrained(model, dtype=getattr(torch, dtype)).to(DEVICE)
        for together in sizes:
            if DEVICE.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            config = SupremeInitConfig(**settings)
            made = train_catalogue(pipe, toys, f"{base}/{together}", config=config, concepts_per_batch=together)
            taken = time.perf_counter() - started
            assert len(made.trained) == number, made.failed
            peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if DEVICE.type == "cuda" else ""
            rows.append(f"| {together} | {number} | {taken:.1f} | {3600 * number / taken:,.0f} | {peak} |")
    return rows


def load(number: int) -> str:
    """Return a row of the table of loading."""
    with tempfile.TemporaryDirectory() as base:
        folder, generator = Path(base), torch.Generator().manual_seed(0)
        for index in range(number):
            token = f"<toy-{index}>"
            rows = torch.randn(3, 128, generator=generator)
            write_embedding(
                folder / folder_name(token) / "learned_embeds.safetensors",
                LearnedEmbedding(placeholder_token=token, rows=rows),
            )
        start = time.process_time()
        entries = refresh_library(folder)
        indexed = time.process_time() - start
        packs = sorted(folder.glob("pack-*"))
        start = time.process_time()
        for pack in packs:
            with safe_open(pack, framework="pt") as file:
                sum(len(file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 - not a dictionary
        packed = time.process_time() - start
        pipe = DiffusionPipeline.from_pretrained(TOYBOX / "pipeline")
        start = time.process_time()
        pipe.load_multitoken_inversion(folder)
        loaded = time.process_time() - start
    return f"| {len(entries)} | {len(packs)} | {indexed:.2f} | {packed:.2f} | {loaded:.2f} |"


def main() -> None:
    """Measure and print two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=40, help="In the catalogue; with 100 steps a tenth of it.")
    parser.add_argument("--loop", type=int, default=3, help="Processes of the shell loop; the mean of them counts.")
    parser.add_argument("--load", type=int, nargs="*", default=[10, 100, 1_000, 10_000], help="Sizes of libraries.")
    parser.add_argument("--size", choices=("toybox", "sd15"), help="Compare sizes of batches on this model instead.")
    parser.add_argument("--dtype", choices=PRECISIONS, default="float32", help="Of its frozen parts.")
    parser.add_argument("--listed", type=int, default=12, help="Concepts that are trained with each size.")
    parser.add_argument("--concepts_per_batch", type=int, nargs="+", default=[1, 4, 12], help="Sizes of batches.")
    parser.add_argument("--steps", type=int, default=SupremeInitConfig.max_train_steps, help="Of each concept.")
    options = parser.parse_args()
    if options.size is not None:
        print("| concepts per batch | concepts | seconds | concepts an hour | peak memory, GB |")
        print("|:---|---:|---:|---:|---:|")
        sizes = options.concepts_per_batch
        print(*by_batch(options.size, options.dtype, options.listed, sizes, options.steps), sep="\n", flush=True)
        return
    names = ["steps", "words", "concepts", "loop, s each", "start, s", "catalogue, s each", "nothing to do, s"]
    print(f"| {' | '.join([*names, 'loop/h', 'catalogue/h'])} |")
    print("|---:|:---|---:|---:|---:|---:|---:|---:|---:|")
    for steps, initializer in ((0, None), (0, "auto"), (100, None), (100, "auto")):
        number = max(options.concepts // 10, 2) if steps else options.concepts
        print(compare(number, options.loop, steps, initializer), flush=True)
    print("\n| concepts | packs | index and packs, s | read packs, s | load from folders, s |")
    print("|---:|---:|---:|---:|---:|")
    for number in options.load:
        print(load(number), flush=True)


if __name__ == "__main__":
    main()
