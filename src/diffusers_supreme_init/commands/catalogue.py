"""`supreme-init train --concepts metadata.jsonl`: many concepts, unattended, into a library."""

import logging
from pathlib import Path

from accelerate import PartialState

from ..catalogue.library import record_push
from ..catalogue.run import train_catalogue
from ..catalogue.up_to_date import remember_run
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
from .catalogue_summary import planned, status_of, summary
from .describers import requested_describers
from .parser import Parsed
from .pipelines import load_pipeline
from .up_to_date import request_of

logger = logging.getLogger(__name__)


def train_list(parsed: Parsed) -> int:
    """Train what is listed and not there yet, and say what came out; return the exit status.

    It is 0 even if a concept failed, if `accelerate launch` started several processes: each then does its part.

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
    print(planned(result) if how.dry_run else summary(result, output_dir))
    if not how.dry_run:
        remember_run(output_dir, request_of(parsed), result.run)
    if hub.push_to_hub and not how.dry_run:
        _push(output_dir, hub, overwrite=asked.overwrite)
    # torch's launcher ends all processes as soon as one of them returns another status than 0.
    return status_of(result) if PartialState().num_processes == 1 else 0


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
