"""`supreme-init train --concepts metadata.jsonl`: many concepts, unattended, into a library."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from ..catalogue.library import record_push
from ..catalogue.plan import Failure
from ..catalogue.run import CatalogueResult, train_catalogue
from ..concepts import read_list
from ..errors import ConfigError
from ..sharing.publishing import push_to_hub
from .arguments import (
    CatalogueArguments,
    ConceptArguments,
    DescriberArguments,
    HubArguments,
    ModelArguments,
    RegionArguments,
    TrainingArguments,
)
from .describers import requested_describers
from .parser import Parsed
from .pipelines import load_pipeline
from .terminal import FAILURE

logger = logging.getLogger(__name__)

_MOST_SHOWN = 20
"""Failures that are printed; the page shows all."""


def train_list(parsed: Parsed) -> int:
    """Train what is listed and not there yet, and say what came out; return the exit status.

    Raises:
        SupremeInitError: One of its subclasses; what is saved stays.
        KeyboardInterrupt: Somebody interrupted it; what is saved stays.
    """
    try:
        return _train_list(parsed)
    except KeyboardInterrupt:
        logger.warning("what is finished is saved; the same command goes on")
        raise


def _train_list(parsed: Parsed) -> int:
    asked, how, hub = parsed.of(ConceptArguments), parsed.of(CatalogueArguments), parsed.of(HubArguments)
    config, model = parsed.of(TrainingArguments), parsed.of(ModelArguments)
    output_dir = Path(str(config.output_dir))
    if hub.push_to_hub and (how.num_shards > 1 or PartialState().num_processes > 1):
        raise ConfigError(
            "push_to_hub: a part of a list is not pushed; train all parts first, then supreme-init push "
            f"{output_dir} {hub.hub_model_id}"
        )
    with warnings.catch_warnings(action="ignore"):  # before a model is loaded; it is read again, and warned of, there
        read_list(str(asked.concepts), initializer_column=asked.initializer_column, initializer=asked.initializer)
    result = train_catalogue(
        load_pipeline(model),
        str(asked.concepts),
        output_dir,
        initializer=asked.initializer,
        initializer_column=asked.initializer_column,
        config=config,
        describers=requested_describers(parsed.of(RegionArguments), parsed.of(DescriberArguments)),
        num_shards=how.num_shards,
        shard_index=how.shard_index,
        concepts_per_batch=how.concepts_per_batch,
        retry_failed=how.retry_failed,
        overwrite=asked.overwrite,
        dry_run=how.dry_run,
        sample_prompts=hub.sample_prompts,
    )
    print(_planned(result) if how.dry_run else _summary(result, output_dir))
    if hub.push_to_hub and not how.dry_run:
        _push(output_dir, hub, overwrite=asked.overwrite)
    return FAILURE if result.failed or result.failed_before else 0


def _push(output_dir: Path, hub: HubArguments, *, overwrite: bool) -> None:
    published = push_to_hub(
        output_dir,
        str(hub.hub_model_id),
        private=hub.hub_private_repo or None,
        create_pr=hub.create_pr,
        license=hub.hub_license,
        overwrite=overwrite,
        allow_toybox=hub.allow_toybox,
    )
    record_push(output_dir, published.repo_id)
    print(f"published: {published.url}" + ("" if published.is_new_commit else " (it held the same already)"))


def _summary(result: CatalogueResult, output_dir: Path) -> str:
    counts = {
        "trained": len(result.trained),
        "there already": len(result.done),
        "failed": len(result.failed),
        "failed before and not tried again (--retry_failed does)": len(result.failed_before),
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing to do"
    lines = [f"\n{said}.", *_failures(result.failed), *_removed(result)]
    return "\n".join([*lines, f"Look at {output_dir / 'index.html'}."])


def _planned(result: CatalogueResult) -> str:
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
