"""What a run over a catalogue did, or would do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .plan import Failure, Plan


@dataclass(kw_only=True)
class CatalogueResult:
    """What `train_catalogue` did, in one process.

    Attributes:
        trained: Placeholder tokens of the concepts that were trained and saved.
        done: Those that were there already.
        changed: Those that were there, made from other pictures or words.
        failed: What could not be trained, and why.
        failed_before: What an earlier run could not train, and was not tried again.
        removed: Placeholder tokens in the folder that are not in the list; they stay.
        planned: With `dry_run`, what would be trained.
        seconds_each: Mean time of a concept, from the ledgers; None if nothing has been trained yet.
        run: Digest of the model and the settings, as in each concept's record.
    """

    trained: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    failed_before: list[Failure] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)
    seconds_each: float | None = None
    run: str = ""


def begun(plan: Plan, ledger: Sequence[Mapping[str, Any]], run: str) -> CatalogueResult:
    """Return what is known before anything is trained."""
    seconds = [float(line["seconds"]) for line in ledger if line["state"] == "saved" and "seconds" in line]
    return CatalogueResult(
        done=plan.done,
        changed=plan.changed,
        failed=list(plan.failures),
        failed_before=plan.failed_before,
        removed=plan.removed,
        seconds_each=sum(seconds) / len(seconds) if seconds else None,
        run=run,
    )
