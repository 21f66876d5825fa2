"""What came out of a list of many concepts -> the lines that a command prints, and its exit status."""

from collections.abc import Sequence
from pathlib import Path

from ..catalogue.plan import Failure
from ..catalogue.result import CatalogueResult
from .terminal import FAILURE

_MOST_SHOWN = 20
"""Failures that are printed; the page shows all."""


def status_of(result: CatalogueResult) -> int:
    """Return the exit status: 1 if a concept failed, now or before."""
    return FAILURE if result.failed or result.failed_before else 0


def summary(result: CatalogueResult, output_dir: Path) -> str:
    """Say what came out, what failed, and where to look."""
    counts = {
        "trained": len(result.trained),
        "there already": len(result.done),
        "failed": len(result.failed),
        "failed before and not tried again (--retry_failed does)": len(result.failed_before),
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing to do"
    lines = [f"\n{said}.", *_failures(result.failed), *_removed(result)]
    return "\n".join([*lines, f"Look at {output_dir / 'index.html'}."])


def planned(result: CatalogueResult) -> str:
    """Say what a run would train, and how long that takes."""
    again = f", {len(result.changed)} of them because something changed" if result.changed else ""
    seconds = result.seconds_each
    took = "nothing was trained here yet, so how long is unknown"
    if seconds is not None:
        minutes = seconds * len(result.planned) / 60
        took = f"about {minutes:.0f} minutes, at {seconds:.1f} s each as before"
    lines = [f"\n{len(result.planned)} to train{again}; {took}. {len(result.done)} there already."]
    return "\n".join([*lines, *_failures([*result.failed, *result.failed_before]), *_removed(result)])


def _failures(failures: Sequence[Failure]) -> list[str]:
    more = [f"... and {len(failures) - _MOST_SHOWN} more"] if len(failures) > _MOST_SHOWN else []
    return [*map(str, failures[:_MOST_SHOWN]), *more]


def _removed(result: CatalogueResult) -> list[str]:
    if not result.removed:
        return []
    some = ", ".join(result.removed[:10]) + (" ..." if len(result.removed) > 10 else "")
    return [
        f"{len(result.removed)} in the library and no longer listed: {some}; supreme-init library remove deletes them"
    ]
