"""A saved run -> pictures of its concepts, and ``report.html``, one file that shows what came out."""

import base64
import functools
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..config import SupremeInitConfig
from ..describers.candidates import paired_difference
from ..errors import OutputError
from ..file_names import RECORD_NAME, REPORT_NAME, SHEET_NAME, SOFTWARE
from ..files import write_atomically
from ..templates import VALIDATION_TEMPLATE, fill_template
from ..training.previews import draw_columns
from ..training.progress import ConceptProgress
from .concept_files import weight_names
from .saved_folder import folders_for
from .saving import FinishedRun
from .sheet import SheetRow, draw_sheet

REPORT_TEMPLATE_NAME = "report_template.html"
MAX_DRAWN = 8
"""Concepts of a run whose pictures are drawn for its report."""

_MARK_WITHIN = 400
"""In how many of their first bytes our files say whose they are."""
_NUM_COLUMNS = 4
_SMALL, _LARGE = 128, 256
"""Sides of the sheet's pictures in pixels, for models of up to 128 pixels and for others."""
_NORMAL_QUANTILE = 1.96  # of a 95 % interval

_CHART_WIDTH, _CHART_HEIGHT = 640, 260
_CHART_LEFT, _CHART_TOP, _CHART_RIGHT, _CHART_BOTTOM = 66, 14, 14, 40


@dataclass(frozen=True, kw_only=True)
class ReportedConcept:
    """What a report shows of one concept.

    Attributes:
        record: Content of its ``training.json``.
        folder: Its folder, as it is typed.
        num_bytes: Size of its embedding files.
        sheet: The sheet of its pictures; None if none were drawn.
    """

    record: Mapping[str, Any]
    folder: str
    num_bytes: int
    sheet: Image.Image | None


@dataclass(frozen=True)
class LossPoint:
    """The fixed-noise loss after a step.

    Attributes:
        step: The step.
        mean: Mean over all noises.
        change: Mean difference to the first measured step.
        error: Half the 95 % interval of `change`, from pairs of opposite noises; None for the first step, and where
            a single pair was measured.
    """

    step: int
    mean: float
    change: float
    error: float | None


def write_report(
    run: FinishedRun,
    output_dir: Path,
    *,
    prompts: Sequence[str],
    model: str | None,
    device: torch.device,
    sampling: Mapping[str, Any],
) -> Path:
    """Draw the first `MAX_DRAWN` concepts of a saved run, and write each one's sheet and the report; return its path.

    Args:
        run: The run.
        output_dir: Where it was saved.
        prompts: Other sentences to draw each concept in; ``{}`` stands for it.
        model: As `report_html`.
        device: Device to draw on.
        sampling: Further arguments of the pipeline.

    Raises:
        TrainingError: A concept is no longer loaded as it was trained.
        OutputError: A file cannot be written.
    """
    folders = folders_for([concept.placeholder_token for concept in run.results], output_dir)
    reported = []
    for number, (concept, folder) in enumerate(zip(run.results, folders, strict=True)):
        sheet = None
        if number < MAX_DRAWN:
            sheet = _draw_sheet(run, concept, prompts, device=device, sampling=sampling)
            write_atomically(folder / SHEET_NAME, _png(sheet))
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        num_bytes = sum((folder / name).stat().st_size for name in weight_names(run.backbone))
        reported.append(ReportedConcept(record=record, folder=str(folder), num_bytes=num_bytes, sheet=sheet))
    text = report_html(reported, model=model, num_not_drawn=max(0, len(reported) - MAX_DRAWN))
    return write_atomically(output_dir / REPORT_NAME, text.encode())


def _draw_sheet(
    run: FinishedRun,
    concept: ConceptProgress,
    prompts: Sequence[str],
    *,
    device: torch.device,
    sampling: Mapping[str, Any],
) -> Image.Image:
    """Draw what was given, the words alone, the learned word, and the learned word in other sentences."""
    token, words = concept.placeholder_token, concept.description
    learned = fill_template(VALIDATION_TEMPLATE, token, words)
    edits = [fill_template(prompt, token, words) for prompt in prompts]
    alone = [fill_template(VALIDATION_TEMPLATE, words, words)] if words else []
    drawn = draw_columns(
        run.backbone,
        concept,
        [*alone, learned, *edits],
        num_columns=_NUM_COLUMNS,
        batch_size=min(run.config.max_forward_batch_size or run.config.train_batch_size, _NUM_COLUMNS),
        seed=run.config.seed,
        device=device,
        sampling=sampling,
    )
    num_pictures = len(concept.latents)
    rows = [
        SheetRow(
            title="the picture given" if len(concept.thumbnails) == 1 else "what was meant, and what was trained on",
            note="" if num_pictures == 1 else f"the first of {num_pictures}",
            pictures=concept.thumbnails,
        )
    ] * bool(concept.thumbnails)
    if alone:
        rows.append(SheetRow(title="its words alone", note=f'"{words}"', pictures=drawn.pop(0)))
    rows.append(SheetRow(title=f"learned: {token}", note=f"after {concept.step} steps", pictures=drawn.pop(0)))
    rows += [SheetRow(title=f'"{text}"', pictures=pictures) for text, pictures in zip(edits, drawn, strict=True)]
    return draw_sheet(rows, picture_size=_SMALL if run.backbone.resolution <= _SMALL else _LARGE)


def report_html(concepts: Sequence[ReportedConcept], *, model: str | None, num_not_drawn: int = 0) -> str:
    """Return the report on a run: for each concept its sheet, losses, words, settings and cost.

    Everything is in the one file: pictures as data, the chart as SVG, no script and nothing from elsewhere.

    Args:
        concepts: The concepts, in the order of the run.
        model: Hub id of the model, or what the user called it; None if unknown.
        num_not_drawn: How many of the concepts have no sheet because there are too many.
    """
    return _template().render(
        concepts=[_for_reading(one) for one in concepts], model=model, num_not_drawn=num_not_drawn
    )


def check_can_report(output_dir: Path, tokens: Sequence[str]) -> None:
    """Check, before hours of training, that a report will replace no file of the user's.

    Raises:
        OutputError: There is a file of one of its names that no earlier report wrote.
    """
    sheets = [folder / SHEET_NAME for folder in folders_for(tokens, output_dir)]
    check_is_ours(output_dir / REPORT_NAME, *sheets)


def check_is_ours(*paths: Path) -> None:
    """Check that files, as far as they exist, say that this package wrote them.

    Raises:
        OutputError: One does not.
    """
    for path in paths:
        if not path.is_file():
            continue
        with path.open("rb") as file:
            if SOFTWARE.encode() not in file.read(_MARK_WITHIN):
                raise OutputError(f"cannot replace {str(path)!r}: no earlier run wrote it; choose another output_dir")


def loss_points(validation_losses: Mapping[str, Sequence[float | None]]) -> list[LossPoint]:
    """Return the means of ``{step: loss of each noise}`` with paired intervals; steps with NaN are left out.

    The noises are the same after every step, so their spread cancels in differences, and an interval of the change
    says what the mean's own could not, see `paired_difference`.
    """
    finite = {
        int(step): [float(loss) for loss in losses if loss is not None]
        for step, losses in validation_losses.items()
        if losses and all(loss is not None and math.isfinite(loss) for loss in losses)
    }
    points: list[LossPoint] = []
    for step in sorted(finite):
        change, error = paired_difference(finite[step], finite[min(finite)])
        is_known = bool(points) and math.isfinite(error)
        points.append(
            LossPoint(step, statistics.fmean(finite[step]), change, _NORMAL_QUANTILE * error if is_known else None)
        )
    return points


def _for_reading(concept: ReportedConcept) -> dict[str, Any]:
    record = concept.record
    points = loss_points(record.get("validation_losses") or {})
    settings = record.get("settings") or {}
    steps, samples = record.get("steps") or 0, settings.get("train_batch_size", 0)
    return {
        "token": record["placeholder_token"],
        "words": record.get("description") or "",
        "status": record.get("status", ""),
        "steps": steps,
        "num_samples": steps * samples * settings.get("gradient_accumulation_steps", 1),
        "seconds": record.get("seconds"),
        "device": record.get("device"),
        "num_rows": sum((record.get("num_vectors") or {}).values()),
        "num_kilobytes": concept.num_bytes / 1000,
        "num_pictures": record.get("num_pictures"),
        "folder": concept.folder,
        "sheet": None if concept.sheet is None else base64.b64encode(_png(concept.sheet)).decode(),
        "points": points,
        "chart": _chart(points) if len(points) > 1 else None,
        "sentence": _sentence(points),
        "candidates": (record.get("initializer") or {}).get("candidates") or [],
        "num_tied": (record.get("initializer") or {}).get("num_tied") or 0,
        "chosen": (record.get("initializer") or {}).get("chosen"),
        "settings": {name: settings[name] for name in sorted(settings)},
        "changed": _changed(settings),
        "versions": record.get("versions") or {},
        "date": record.get("date"),
    }


def _changed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are not the defaults."""
    defaults = asdict(SupremeInitConfig())
    return {name: value for name, value in settings.items() if name in defaults and value != defaults[name]}


def _sentence(points: Sequence[LossPoint]) -> str:
    """Say what happened to the loss, and whether that is more than noise."""
    if not points:
        return "The loss was not measured (validation_samples=0), or was never finite."
    last = points[-1]
    if len(points) == 1:
        return f"The loss was {last.mean:.4f} after {last.step} steps, and was measured only then."
    change = f"from {points[0].mean:.4f} to {last.mean:.4f}"
    if last.error is None:
        return f"The loss went {change}, measured with too few noises for an interval."
    interval = f"{last.change:+.4f}, 95 % interval {last.change - last.error:+.4f} to {last.change + last.error:+.4f}"
    verdict = "which could be chance" if abs(last.change) <= last.error else "more than chance would do"
    return f"The loss went {change}, {verdict} ({interval})."


def _chart(points: Sequence[LossPoint]) -> dict[str, Any]:
    """Return the coordinates of the loss curve, in pixels of the SVG."""
    lows = [point.mean - (point.error or 0.0) for point in points]
    highs = [point.mean + (point.error or 0.0) for point in points]
    low, high = min(lows), max(highs)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - margin, high + margin
    last_step = max(points[-1].step, 1)

    def x(step: float) -> float:
        return round(_CHART_LEFT + step / last_step * (_CHART_WIDTH - _CHART_LEFT - _CHART_RIGHT), 1)

    def y(loss: float) -> float:
        share = (loss - low) / (high - low)
        return round(_CHART_HEIGHT - _CHART_BOTTOM - share * (_CHART_HEIGHT - _CHART_TOP - _CHART_BOTTOM), 1)

    ticks, digits = _round_values(low, high)
    every = max(1, math.ceil(len(points) / 8))
    return {
        "width": _CHART_WIDTH,
        "height": _CHART_HEIGHT,
        "left": _CHART_LEFT,
        "right": _CHART_WIDTH - _CHART_RIGHT,
        "bottom": _CHART_HEIGHT - _CHART_BOTTOM,
        "line": " ".join(f"{x(point.step)},{y(point.mean)}" for point in points),
        "points": [
            {
                "x": x(point.step),
                "y": y(point.mean),
                "low": None if point.error is None else y(point.mean - point.error),
                "high": None if point.error is None else y(point.mean + point.error),
                "title": f"step {point.step}: {point.mean:.5f}",
            }
            for point in points
        ],
        "ticks": [{"y": y(tick), "label": f"{tick:.{digits}f}"} for tick in ticks],
        "steps": [{"x": x(point.step), "label": point.step} for point in points[::every]],
    }


def _round_values(low: float, high: float) -> tuple[list[float], int]:
    """Return three to six round numbers between two, and the decimals that they need."""
    power = math.floor(math.log10((high - low) / 3))
    step = next(n * 10.0**power for n in (5, 2, 1) if (high - low) / (n * 10.0**power) >= 3)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [number * step for number in range(first, last + 1)], max(0, -power)


def _png(picture: Image.Image) -> bytes:
    data, info = io.BytesIO(), PngInfo()
    info.add_text("Software", SOFTWARE)
    picture.convert("RGB").save(data, format="PNG", pnginfo=info)
    return data.getvalue()


@functools.cache
def _template() -> jinja2.Template:
    text = resources.files(__package__).joinpath(REPORT_TEMPLATE_NAME).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(text)
