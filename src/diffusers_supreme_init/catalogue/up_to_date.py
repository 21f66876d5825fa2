"""Whether a list is trained whole already, found without loading a model.

A concept's record names its run by a digest, which takes the model to compute. So a run that ends writes down what it
was asked for, and that digest: the same request need not load the model to learn it.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..concepts import Concept
from ..describers import Describers
from ..files import json_bytes, write_atomically
from ..formats.library import read_library
from ..inputs.paths import local_path
from ..triggers import folded
from .ledger import read_ledgers
from .plan import listed_concepts, make_plan, recovered, untold
from .result import CatalogueResult, begun
from .shards import Shard

_NAME = ".run.json"


def remember_run(output_dir: str | os.PathLike[str], request: str, run: str) -> None:
    """Write down which run a request is, in a library.

    Args:
        output_dir: The library.
        request: Digest of everything that is asked for, model files included, but what the list says.
        run: Digest of the run, `CatalogueResult.run`.

    Raises:
        OutputError: The folder cannot be written.
    """
    if _run_of(local_path(output_dir), request) != run:
        write_atomically(local_path(output_dir) / _NAME, json_bytes({"request": request, "run": run}))


def result_if_done(
    concepts: str | os.PathLike[str] | Sequence[Concept],
    output_dir: str | os.PathLike[str],
    request: str,
    *,
    initializer: str | None,
    initializer_column: str,
    describers: Describers,
    shard: Shard,
    retry_failed: bool,
) -> CatalogueResult | None:
    """Return the result of a run that has nothing to do; None if something is left, or a model is needed to know.

    The arguments are those of `train_catalogue` and `remember_run`. Nothing is written.

    Raises:
        ConfigError: The list cannot be read.
        OutputError: A ledger is damaged.
    """
    folder = local_path(output_dir)
    listed = listed_concepts(concepts, initializer=initializer, initializer_column=initializer_column)
    run, library = _run_of(folder, request), (read_library(folder) if folder.is_dir() else None) or {}
    if run is None:
        return None
    lines = read_ledgers(folder)
    known = {folded(one.placeholder_token) for one in library.values()}
    known |= {folded(str(line["token"])) for line in lines if line["state"] == "failed"}
    own = [name for one in listed if shard.holds(name := one.placeholder_token or one.place)]
    if any(folded(name) not in known for name in own):
        return None  # before all pictures are read, to see whether they are still the same
    plan = make_plan(
        listed, folder, shard, describers, run=run, ledger=lines, retry_failed=retry_failed, overwrite=False
    )
    is_indexed = {folded(token) for token in plan.done} <= {folded(one.placeholder_token) for one in library.values()}
    is_told = not (untold(plan.failures, lines) or recovered(plan.done, lines))
    is_done = is_indexed and is_told and not (plan.tasks or plan.kept)
    return begun(plan, lines, run) if is_done else None


def _run_of(folder: Path, request: str) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / _NAME).read_bytes())
        if isinstance(found, dict) and found.get("request") == request and isinstance(found.get("run"), str):
            return str(found["run"])
    return None
