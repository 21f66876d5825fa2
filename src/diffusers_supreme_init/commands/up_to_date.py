"""`supreme-init train --concepts` of a list that is trained whole: says so without loading a model."""

import os
import socket
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from ..catalogue.facts import digest_of
from ..catalogue.shards import own_shard
from ..catalogue.up_to_date import result_if_done
from ..errors import ConfigError
from ..version import __version__
from .arguments import (
    CatalogueArguments,
    ConceptArguments,
    DescriberArguments,
    DrawingArguments,
    HubArguments,
    ModelArguments,
    RegionArguments,
    TrainingArguments,
)
from .catalogue_summary import planned, status_of, summary
from .describers import requested_describers, requested_region
from .parser import Parsed
from .toybox import path_of

_FOLLOWED = ("output_dir", "num_shards", "shard_index", "retry_failed", "overwrite", "dry_run")


def run(parsed: Parsed) -> int | None:
    """Print that nothing is left to do, and return the exit status; None if something is, or a model has to tell.

    Raises:
        SupremeInitError: The list cannot be read, or options make no sense.
    """
    asked, how = parsed.of(ConceptArguments), parsed.of(CatalogueArguments)
    if asked.concepts is None:
        return None
    _check_only_list(parsed)
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1  # else accelerate divides the list
    if not is_alone or asked.overwrite or parsed.of(HubArguments).push_to_hub:
        return None
    with warnings.catch_warnings(record=True) as heard:
        result = result_if_done(
            asked.concepts,
            output_dir := str(parsed.of(TrainingArguments).output_dir),
            request_of(parsed),
            initializer=asked.initializer,
            initializer_column=asked.initializer_column,
            describers=requested_describers(parsed.of(RegionArguments), parsed.of(DescriberArguments)),
            shard=own_shard(how.num_shards, how.shard_index),
            retry_failed=how.retry_failed,
        )
    if result is None:
        return None  # and what was warned of will be again
    for one in heard:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    print(planned(result) if how.dry_run else summary(result, Path(output_dir)))
    return status_of(result)


def _check_only_list(parsed: Parsed) -> None:
    """Check that nothing is said of a single concept beside a list of many.

    Raises:
        ConfigError: Something is.
    """
    asked, of_region = parsed.of(ConceptArguments), parsed.of(RegionArguments)
    region = requested_region(of_region)
    if asked.images or asked.placeholder_token is not None:
        raise ConfigError("expected either --concepts or pictures and a --token, got both")
    if asked.mask or asked.num_vectors is not None or asked.train_on != "crop" or region is not None:
        raise ConfigError(
            "expected mask_file_name, num_vectors, train_on, points, box and region_words as columns of --concepts, "
            "got options"
        )
    if of_region.candidates:
        raise ConfigError("--candidates: expected one concept to compare words for, got a list")
    drawing, default = asdict(parsed.of(DrawingArguments)), asdict(DrawingArguments())
    unused = [f"--{name}" for name in drawing if drawing[name] != default[name]]
    unused += ["--no_report"] * (not asked.report)
    if unused:
        raise ConfigError(f"{', '.join(unused)}: a list has no report to draw for; leave {', '.join(unused)} out")


def request_of(parsed: Parsed) -> str:
    """Return a digest of all that is asked for, as `remember_run` takes it.

    Every option counts but those that are followed here: a request is remembered once its options have been checked.
    """
    return digest_of(
        {
            "version": __version__,
            # They decide the precision, unless an option does: the machine's GPU, and `accelerate launch`.
            "host": socket.gethostname(),
            "launched": os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),
            "options": {name: value for name, value in parsed.values.items() if name not in _FOLLOWED},
            "model_files": _files_of(parsed.of(ModelArguments)),
        }
    )


def _files_of(model: ModelArguments) -> Any:
    """Return what identifies the files of a model: of a folder, their sizes and times; else the Hub's commit."""
    folder = Path(path_of(str(model.pretrained_model_name_or_path)))
    if not folder.is_dir():
        try:
            return Path(snapshot_download(str(folder), revision=model.revision, local_files_only=True)).name
        except (LocalEntryNotFoundError, ValueError):
            return None  # it is not there yet
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [[path.relative_to(folder).as_posix(), about.st_size, about.st_mtime_ns] for path, about in found]
