"""`supreme-init compare`: pictures from several starts, and which is ahead after how many steps."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..concepts import Concept
from ..config import SupremeInitConfig
from ..describers import Describers
from ..errors import ConfigError
from ..file_names import WEIGHT_NAME, snapshot_name
from ..files import check_writable, write_atomically
from ..metrics import mean_interval
from ..pictures import find_pictures, load_subject
from ..sharing.saved_folder import folders_for
from ..sharing.sheet import SheetRow, draw_sheet, size_that_fits
from ..templates import fill_template
from ..text.prompt_cleaning import as_written
from ..trainer import SupremeInitTextualInversionTrainer
from ..training.progress import ConceptProgress
from .arguments import CompareArguments, DescriberArguments, DrawingArguments, ModelArguments
from .describers import check_describers
from .generate import draw
from .parser import Parsed
from .pipelines import check_model, device, load_pipeline, sampling_of
from .toybox import TOYBOX_TRAINING, is_toybox

_SMALLEST_SIDE, _LARGEST_SIDE = 128, 256
"""Of a picture on the sheet, in pixels, unless there are too many columns."""


@dataclass(frozen=True)
class Run:
    """What one start learned from one picture with one seed.

    Attributes:
        picture: Name of the picture's file, without its suffix.
        start: The start as it was asked for.
        seed: The seed.
        result: The trained concept; `description` is what it started from.
        folder: Where its rows of each step are.
    """

    picture: str
    start: str
    seed: int
    result: ConceptProgress
    folder: Path


def run(parsed: Parsed) -> None:
    """Train every picture from every start, draw, and write sheets, numbers and a table.

    Raises:
        SupremeInitError: A picture, a model or an option cannot be used.
    """
    asked, model = parsed.of(CompareArguments), parsed.of(ModelArguments)
    pictures = _checked_pictures(asked)
    output_dir = Path(asked.output_dir)
    describers = Describers(parsed.of(DescriberArguments))
    check_model(model)
    check_describers(describers, asked.initializers)
    check_writable(output_dir)
    pipe = load_pipeline(model)
    steps = sorted(set(asked.steps))
    options = TOYBOX_TRAINING if is_toybox(model.pretrained_model_name_or_path) else {}
    drawn_on, sampling = device(), as_written(pipe) | sampling_of(parsed.of(DrawingArguments), model)
    runs: list[Run] = []
    for name, picture in pictures.items():
        folder = output_dir / name if len(pictures) > 1 else output_dir
        of_picture = _train(pipe, picture, name, asked, steps, folder, describers, options)
        pipe.to(drawn_on)
        path = folder / "compare.png"
        _sheet(pipe, picture, of_picture, steps, asked, sampling).save(path)
        print(f"Look at {path}.")
        runs += of_picture
    write_atomically(output_dir / "losses.csv", _losses(runs).encode())
    text = table(runs, steps, asked.initializers)
    write_atomically(output_dir / "table.md", text.encode())
    print(f"\n{text}\nEvery loss is in {output_dir / 'losses.csv'}.")


def _checked_pictures(asked: CompareArguments) -> dict[str, Path]:
    """Return the pictures by the name of their results.

    Raises:
        SupremeInitError: There is none, one cannot be read, or an option is out of range.
    """
    if not asked.images:
        raise ConfigError(
            "expected a picture, got none; pictures come before the options: supreme-init compare mug.jpg"
        )
    if not asked.steps or min(asked.steps) < 0:
        raise ConfigError(f"steps: expected numbers of at least 0, got {asked.steps}")
    for option, values in (("seeds", asked.seeds), ("initializers", asked.initializers)):
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{option}: expected at least one and all different, got {values}")
    if "{}" not in asked.prompt:
        raise ConfigError(f"prompt: expected '{{}}' where the concept stands, got {asked.prompt!r}")
    paths = [Path(str(one)) for one in find_pictures(asked.images)]
    for path in paths:
        load_subject(path)
    names = [path.stem for path in paths]
    return {
        name if names.count(name) == 1 else f"{name}-{number}": path
        for number, (name, path) in enumerate(zip(names, paths, strict=True))
    }


def _train(
    pipe: Any,
    picture: Path,
    name: str,
    asked: CompareArguments,
    steps: Sequence[int],
    folder: Path,
    describers: Describers,
    options: Mapping[str, Any],
) -> list[Run]:
    """Train one picture from every start with every seed, with rows and losses of the asked steps."""
    wanted = [(start, seed) for start in asked.initializers for seed in asked.seeds]
    tokens = [f"<{_slug(start)}-{seed}>" if len(asked.seeds) > 1 else f"<{_slug(start)}>" for start, seed in wanted]
    tokens = [token if tokens.count(token) == 1 else f"{token[:-1]}-{n}>" for n, token in enumerate(tokens)]
    concepts = [
        # Equal keys give equal noises, so that starts are compared in pairs.
        Concept(images=picture, placeholder_token=token, initializer=start, random_key=f"compare {seed}")
        for token, (start, seed) in zip(tokens, wanted, strict=True)
    ]
    config = SupremeInitConfig.paper(
        max_train_steps=max(steps),
        learning_rate=asked.learning_rate,
        max_forward_batch_size=4,
        snapshot_steps=[str(step) for step in steps],
        validation_steps=[str(step) for step in steps],
        checkpointing_steps=0,
        output_dir=str(folder),
        **options,
    )
    results = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, describers=describers, config=config).train()
    pipe.unload_multitoken_inversion()
    folders = folders_for(tokens, folder)
    return [
        Run(name, start, seed, result, where)
        for (start, seed), result, where in zip(wanted, results, folders, strict=True)
    ]


def _sheet(
    pipe: Any,
    picture: Path,
    runs: Sequence[Run],
    steps: Sequence[int],
    asked: CompareArguments,
    sampling: Mapping[str, Any],
) -> Image.Image:
    """Draw what each start knows after each step, with the first seed, all from the same noise."""
    rows = []
    given = load_subject(picture).image
    for one in (one for one in runs if one.seed == asked.seeds[0]):
        result, drawn = one.result, []
        text = fill_template(asked.prompt, result.placeholder_token, result.description)
        for step in steps:
            pipe.load_multitoken_inversion(one.folder / snapshot_name(WEIGHT_NAME, step))
            drawn += draw(pipe, text, seed=one.seed, **sampling)
            pipe.unload_multitoken_inversion()
        losses = result.mean_validation_losses()
        rows.append(
            SheetRow(
                title=f'from "{result.description}"',
                note=f"loss {losses[steps[0]]:.4f} -> {losses[steps[-1]]:.4f}",
                pictures=[given, *drawn],
            )
        )
    columns = ["the picture given", *(f"{step} step{'s' * (step != 1)}" for step in steps)]
    wanted = min(_LARGEST_SIDE, max(_SMALLEST_SIDE, rows[0].pictures[1].width))
    return draw_sheet(rows, columns=columns, picture_size=size_that_fits(wanted, len(columns)))


def _losses(runs: Sequence[Run]) -> str:
    """Return the fixed-noise losses as CSV, one line for each picture, start, seed and step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("picture", "start", "words", "seed", "step", "loss"))
    for one in runs:
        for step, loss in one.result.mean_validation_losses().items():
            writer.writerow((one.picture, one.start, one.result.description, one.seed, step, f"{loss:.6f}"))
    return text.getvalue()


def table(runs: Sequence[Run], steps: Sequence[int], starts: Sequence[str]) -> str:
    """Return, in Markdown, each start's mean loss after each step, and at the end its difference to the first start.

    The difference has a 95 % interval over pictures and seeds, if there are several.
    """
    pictures, seeds = list(dict.fromkeys(one.picture for one in runs)), sorted({one.seed for one in runs})
    found = {(one.picture, one.start, one.seed): one.result.mean_validation_losses() for one in runs}
    losses = {
        start: np.array([[[found[p, start, s][step] for step in steps] for s in seeds] for p in pictures])
        for start in starts
    }
    lines = [f"| start | {' | '.join(f'step {step}' for step in steps)} | behind {starts[0]} at the end by |"]
    lines.append("|:---|" + "---:|" * (len(steps) + 1))
    for start in starts:
        means = " | ".join(f"{mean:.4f}" for mean in losses[start].mean(axis=(0, 1)))
        difference = losses[start][..., -1] - losses[starts[0]][..., -1]
        told = f"{difference.mean():+.4f}" if difference.size == 1 else str(mean_interval(difference))
        lines.append(f"| {start} | {means} | {'' if start == starts[0] else told} |")
    over = f"{_counted(len(pictures), 'picture')} and {_counted(len(seeds), 'seed')}"
    ahead = min(starts, key=lambda start: float(losses[start][..., -1].mean()))
    return (
        "\n".join(lines) + f"\n\nMean loss over {over} for the same noises, with 95 % intervals where there are "
        f"several; less is better. After {steps[-1]} steps {ahead!r} is ahead.\n"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _slug(start: str) -> str:
    """Return a start as a name: ``a-red-mug``; ``star`` for ``*``."""
    return re.sub(r"[^\w]+", "-", start).strip("-").lower()[:40] or ("star" if "*" in start else "words")
