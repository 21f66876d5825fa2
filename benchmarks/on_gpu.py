"""Everything that only a GPU can show, in one command, on a machine with one NVIDIA GPU and no network.

    python benchmarks/on_gpu.py --wheels wheels          # 25 minutes at most, results in out/gpu
    python benchmarks/on_gpu.py --parts tests memory     # some parts; those of earlier runs stay in the folder
    python benchmarks/on_gpu.py --dry                    # tries all of it on the CPU with tiny sizes, minutes

The machine needs this repository, Python and a CUDA build of PyTorch. ``--wheels`` is a folder with the other
packages, for instance filled by ``pip download --constraint constraints.txt --dest wheels '.[dev]'``. Of these, pip
installs what is missing; never torch and what comes with it.

Parts:

- ``tests``: the tests of all families on CUDA;
- ``memory``: what training takes, beside what `memory.py` computes;
- ``speed_sd15``, ``speed_sdxl``, ``speed_flux``: `training.py` in bfloat16, batch 4, eager and compiled;
- ``throughput``: concepts an hour, from 1 to 16 together;
- ``catalogue``: concepts an hour of a list, by the size of its batches, beside a process for each concept;
- ``toybox``: builds the models of the toybox in a copy of its folder, stage by stage, and measures each.

A part has a time limit, under 9 minutes. Its commands run one after the other, each in a process of its own. If one
fails, the others still run. When the time is over, the running command is stopped, and those after it are not reached.
Both are recorded, and the exit status is 1.

The results are ``parts/*.json``, from which ``results.json`` and ``README.md`` are written, with all tables and the
last lines of what failed. ``docs/gpu`` is a copy of the folder. An empty ``--parts`` runs nothing and writes both
files anew, so that the ``parts`` of several runs can be put together.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
PASSED, NOT_REACHED, TIMED_OUT = "passed", "not reached", "timed out"
NO_CARD = "none"
SHOWN_LINES = 30
"""Of output that is no Markdown."""
OF_TORCH = re.compile("(torch|torchvision|torchaudio|triton|nvidia.*|cuda.*)", re.IGNORECASE)
"""Packages that belong to the machine's build of PyTorch."""


@dataclass(frozen=True)
class Command:
    """A command of a part.

    Attributes:
        name: Of the command, in its part.
        words: What Python gets as arguments.
        is_markdown: Whether it prints tables.
    """

    name: str
    words: tuple[str, ...]
    is_markdown: bool = True


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        limit: Of all its commands together, in seconds.
        commands: What it runs.
    """

    limit: float
    commands: tuple[Command, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        name: Of the command.
        command: As it would be typed.
        outcome: ``"passed"``, ``"failed with exit status 1"``, ``"timed out"`` or ``"not reached"``.
        seconds: How long it ran.
        output: What it printed, in Markdown.
    """

    name: str
    command: str
    outcome: str
    seconds: float
    output: str


def parts(toybox: Path, *, dry: bool = False) -> dict[str, Part]:
    """Return all parts.

    Args:
        toybox: A copy of the toybox's folder, which is built anew.
        dry: Whether to return tiny ones, for the CPU.
    """
    tests = ("-m", "pytest", "-q", "--disable-warnings", "-m", "cuda", "tests/test_cuda.py")
    compiled = ("--compile", "--variants", "ours", "floor", "--rounds", "2")
    if dry:
        common = ("--size", "toybox", "--one_process", "--steps", "1", "--warmup", "1", "--rounds", "1")
        few_concepts = ("--size", "toybox", "--concepts", "1", "2", "--steps", "2")
        return {
            "tests": Part(200, (Command("tests", tests, is_markdown=False),)),
            "memory": Part(300, (_memory("SD 1.5"),)),
            "speed_sd15": Part(200, (_speed("eager", *common),)),
            "speed_sdxl": Part(500, (_speed("compiled", *common, *compiled),)),
            "speed_flux": Part(200, (_speed("checkpointed", *common, "--gradient_checkpointing"),)),
            "throughput": Part(200, (_throughput(*few_concepts),)),
            "catalogue": Part(200, (_catalogue("--size", "toybox", "--listed", "2", "--steps", "1"),)),
            "toybox": Part(200, tuple(_toybox(toybox, ("text_encoder", "concepts"), "--text-encoder-steps", "2"))),
        }
    families = ("SD 1.5", "SDXL", "Flux.1-dev", "SD 3 medium", "SD 2.1", "Sana 1.6B", "PixArt-Sigma", "SD 3.5 large")
    common = ("--dtype", "bfloat16", "--one_process", "--rounds", "3")
    sd15, sdxl = ("--size", "sd15", *common), ("--size", "sdxl", *common, "--steps", "10")
    flux = ("--size", "flux", *common, "--steps", "4", "--warmup", "2", "--gradient_checkpointing")
    some = ("--variants", "ours", "whole matrix", "floor", "--rounds", "2")
    stages = ("vae", "text_encoder", "judge", "classifier", "denoiser", "captioner", "segmenter")
    return {
        "tests": Part(200, (Command("tests", tests, is_markdown=False),)),
        "memory": Part(220, tuple(_memory(name, "--measure") for name in families)),
        "speed_sd15": Part(150, (_speed("eager", *sd15), _speed("compiled", *sd15, *compiled))),
        "speed_sdxl": Part(230, (_speed("eager", *sdxl), _speed("compiled", *sdxl, *compiled))),
        "speed_flux": Part(260, (_speed("eager", *flux, *some), _speed("compiled", *flux, *compiled))),
        "throughput": Part(90, (_throughput("--dtype", "bfloat16"),)),
        "catalogue": Part(150, (_catalogue("--size", "sd15", "--dtype", "bfloat16"),)),
        "toybox": Part(200, tuple(_toybox(toybox, stages))),
    }


def _memory(case: str, *words: str) -> Command:
    return Command(case, ("benchmarks/memory.py", "--cases", case, *words))


def _speed(name: str, *words: str) -> Command:
    return Command(name, ("benchmarks/training.py", *words))


def _throughput(*words: str) -> Command:
    return Command("throughput", ("benchmarks/throughput.py", *words))


def _catalogue(*words: str) -> Command:
    return Command("catalogue", ("benchmarks/catalogue.py", *words))


def _toybox(folder: Path, stages: Sequence[str], *words: str) -> Iterator[Command]:
    for stage in stages:
        yield Command(stage, (str(folder / "build.py"), stage, *words), is_markdown=False)


def run_part(part: Part) -> list[Outcome]:
    """Run the commands of a part until its time is over."""
    end, outcomes = time.monotonic() + part.limit, []
    for command in part.commands:
        left = end - time.monotonic()
        outcomes.append(run(command, left) if left > 0 else _outcome(command, NOT_REACHED, 0.0, ""))
        last = outcomes[-1]
        print(f"  {last.name}: {last.outcome}, {last.seconds:.0f} s", flush=True)
    return outcomes


def run(command: Command, limit: float) -> Outcome:
    """Run a command; after `limit` seconds, stop it and the processes that it started."""
    started = time.monotonic()
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with _file() as out, _file() as log:
        process = subprocess.Popen(
            [sys.executable, *command.words],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=out,
            stderr=log,
            start_new_session=True,  # a group of processes, which can be stopped together
        )
        try:
            status = process.wait(limit)
            outcome = PASSED if status == 0 else f"failed with exit status {status}"
        except subprocess.TimeoutExpired:
            outcome = TIMED_OUT
        finally:
            _stop(process)
        out.seek(0)
        log.seek(0)
        printed, logged = out.read(), log.read()
    output = printed if command.is_markdown else _fenced(printed)
    if outcome != PASSED:
        output += "\n" + _fenced(logged)
    return _outcome(command, outcome, time.monotonic() - started, output)


def _file() -> IO[str]:
    return tempfile.TemporaryFile("w+", newline="", errors="replace")  # carriage returns stay what they are


def _stop(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended, and with it what it started
    process.wait()


def _outcome(command: Command, outcome: str, seconds: float, output: str) -> Outcome:
    words = [word.replace(f"{ROOT}/", "") for word in command.words]
    words = [re.sub(r"^/.*/(?=toybox/)", "examples/", word) for word in words]  # the copy, which is gone soon
    words = [f"'{word}'" if " " in word else word for word in words]
    return Outcome(command.name, " ".join(["python", *words]), outcome, round(seconds, 1), output)


def _fenced(text: str) -> str:
    # A progress bar is a line that is written over and over; its last state is enough.
    lines = [line.rstrip("\r").split("\r")[-1] for line in text.rstrip().split("\n")]
    return "\n".join(["```", *lines[-SHOWN_LINES:], "```", ""])


def machine() -> dict[str, str]:
    """Return the names of the GPU, its driver and PyTorch; of the GPU none, if there is none."""
    # In a process of its own: this one stays free of CUDA, whose context takes memory.
    card = f"torch.cuda.get_device_name() if torch.cuda.is_available() else {NO_CARD!r}"
    ask = [sys.executable, "-c", f"import torch; print(torch.__version__, {card})"]
    version, card = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip().split(" ", 1)
    driver = NO_CARD
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip() or "unknown"
    return {"card": card, "driver": driver, "torch": version}


def install(wheels: Path) -> None:
    """Install the wheels of a folder whose packages are missing, without what they require."""
    names = sorted({path.name.split("-")[0] for path in wheels.glob("*.whl")})
    names = [name for name in names if not OF_TORCH.fullmatch(name)]
    if not names:
        raise SystemExit(f"expected wheels in {wheels}, got none; fill it with `pip download`")
    options = ["--quiet", "--no-index", "--no-deps", "--find-links", str(wheels)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *names], check=True)


def write_results(folder: Path) -> None:
    """Write ``results.json`` and ``README.md`` from the parts in a folder."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "parts").glob("*.json"))}
    found = {name: found[name] for name in parts(Path()) if name in found}
    (folder / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    rows = ["| part | command | outcome | seconds |", "|:---|:---|:---|---:|"]
    sections = []
    for name, part in found.items():
        about = part["machine"]
        where = "No GPU" if about["card"] == NO_CARD else f"{about['card']}, driver {about['driver']}"
        sections.append(f"## {name}\n\n{where}, torch {about['torch']}\n")
        for one in part["outcomes"]:
            rows.append(f"| {name} | {one['name']} | {one['outcome']} | {one['seconds']} |")
            sections.append(f"`{one['command']}`\n\n{one['output']}")
    head = "# Measured by `python benchmarks/on_gpu.py`\n"
    (folder / "README.md").write_text("\n".join([head, *rows, "", *sections]).rstrip() + "\n")


@contextmanager
def toybox_copy() -> Iterator[Path]:
    """Copy the toybox's folder, because building it writes over its models."""
    with tempfile.TemporaryDirectory() as folder:
        finished = shutil.ignore_patterns(".work")  # stages of an earlier build, which would not be run again
        yield Path(shutil.copytree(ROOT / "examples" / "toybox", Path(folder, "toybox"), ignore=finished))


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for; return 1 if a command did not pass."""
    names = list(parts(Path()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=names, default=names, help="Which parts; all by default.")
    parser.add_argument("--output_dir", type=Path, help="Folder of the results: out/gpu, or out/gpu_dry, by default.")
    parser.add_argument("--wheels", type=Path, help="Folder of wheels, of which the missing ones are installed.")
    parser.add_argument("--dry", action="store_true", help="Try everything on the CPU, with tiny sizes.")
    options = parser.parse_args(words)
    if options.wheels is not None:
        install(options.wheels)
    output_dir: Path = options.output_dir or Path("out/gpu_dry" if options.dry else "out/gpu")
    folder = output_dir / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    all_passed = True
    with toybox_copy() as toybox:
        for name in options.parts:
            about = machine()
            if about["card"] == NO_CARD and not options.dry:
                parser.error("expected a CUDA GPU, got none; try everything on the CPU with --dry")
            print(name, flush=True)
            part = parts(toybox, dry=options.dry)[name]
            outcomes = run_part(part)
            record = {"machine": about, "limit": part.limit, "outcomes": [asdict(one) for one in outcomes]}
            (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
            all_passed &= all(one.outcome == PASSED for one in outcomes)
    write_results(output_dir)
    return int(not all_passed)


if __name__ == "__main__":
    sys.exit(main())
