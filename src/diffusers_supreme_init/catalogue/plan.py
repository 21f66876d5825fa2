"""A list of concepts and a folder -> what is left to do, as far as it is known without a model."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..concepts import Concept, ListedConcept, read_list
from ..describers import Describers
from ..errors import ConfigError, SupremeInitError, one_line, shown
from ..file_names import folder_name
from ..formats.library import read_library
from ..inputs.exif import without_pillows_warnings
from ..inputs.picture_files import open_picture
from ..pictures import find_pictures, load_subject
from ..triggers import folded
from .facts import digest_of, facts_of_concept, facts_of_describers
from .folders import key_of, saved_record
from .shards import Shard


@dataclass(frozen=True, kw_only=True)
class Task:
    """One concept to train.

    Attributes:
        place: Where it is listed.
        concept: The concept.
        key: Digest of everything that determines its rows.
        run: Digest of what determines those of all concepts.
        folder: Where it is saved.
    """

    place: str
    concept: Concept
    key: str
    run: str
    folder: Path

    @property
    def token(self) -> str:
        """Its placeholder token."""
        return self.concept.placeholder_token


@dataclass(frozen=True)
class Failure:
    """A concept that could not be trained.

    Attributes:
        place: Where it is listed.
        token: Its placeholder token; None if its line cannot be read.
        key: Its key; None if it has none, because a picture is missing.
        why: The reason.
    """

    place: str
    token: str | None
    key: str | None
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.why}"


@dataclass(kw_only=True)
class Plan:
    """What is left to do.

    Attributes:
        tasks: Concepts to train, in the order of the list.
        done: Placeholder tokens of those that are there already.
        changed: Those of `tasks` that are there with other pictures or words.
        kept: Concepts that are there from another run, with their records; they may not be replaced.
        failures: Concepts that cannot be trained as they are listed.
        failed_before: Concepts that an earlier run could not train; they are not tried again.
        removed: Placeholder tokens that are in the folder and no longer in the list.
        folders: Names of the folders of all concepts of this process.
    """

    tasks: list[Task] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    kept: list[tuple[Task, Mapping[str, Any]]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    failed_before: list[Failure] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)


def listed_concepts(
    concepts: str | os.PathLike[str] | Sequence[Concept], *, initializer: str | None, initializer_column: str
) -> list[ListedConcept]:
    """Return the concepts of a list, or those given, with a place for messages.

    Raises:
        ConfigError: The list cannot be read, or something else is given.
    """
    if isinstance(concepts, str | os.PathLike):
        return read_list(concepts, initializer_column=initializer_column, initializer=initializer)
    given: Any = concepts
    if not isinstance(given, Sequence) or not given or not all(isinstance(one, Concept) for one in given):
        raise ConfigError(f"concepts: expected a metadata.jsonl or a list of Concept, got {shown(concepts)}")
    return [
        ListedConcept(place=f"concept {number}", placeholder_token=one.placeholder_token, concept=one)
        for number, one in enumerate(given)
    ]


def make_plan(
    listed: Sequence[ListedConcept],
    output_dir: Path,
    shard: Shard,
    describers: Describers,
    *,
    run: str,
    ledger: Sequence[Mapping[str, Any]],
    retry_failed: bool,
    overwrite: bool,
) -> Plan:
    """Return what this process has to do, as far as it is known without the model.

    Args:
        listed: The list.
        output_dir: Folder of the library.
        shard: The part of this process.
        describers: The models that find words and regions.
        run: Digest of what determines the rows of all concepts, see `facts_of_run`.
        ledger: What has happened, see `read_ledgers`.
        retry_failed: Whether concepts that failed are tried again.
        overwrite: Whether results of other settings, or that no catalogue trained, are replaced.
    """
    library = (read_library(output_dir) if output_dir.is_dir() else None) or {}
    names = {folded(entry.placeholder_token): name for name, entry in library.items()}
    failed = {line["key"]: str(line.get("why")) for line in ledger if line["state"] == "failed" and line["key"]}
    plan, first_of, about_describers = Plan(), _first_of_each(listed, shard), facts_of_describers(describers)
    for one in listed:
        name = one.placeholder_token or one.place
        if not shard.holds(name):
            continue
        try:
            concept = _usable(one, first_of[folded(name)])
            key = digest_of({"run": run, "concept": facts_of_concept(concept, about_describers)})
        except SupremeInitError as error:
            plan.failures.append(failure_of(one.place, one.placeholder_token, error))
            continue
        folder = output_dir / (names.get(folded(name)) or folder_name(name))
        task = Task(place=one.place, concept=concept, key=key, run=run, folder=folder)
        plan.folders.add(folder.name)
        record = saved_record(folder)
        known_key, known_run = key_of(record or {})
        if record is not None and known_key == key:
            plan.done.append(name)
        elif key in failed and not retry_failed:
            plan.failed_before.append(Failure(one.place, name, key, failed[key]))
        elif record is not None and known_run != run and not overwrite:
            plan.kept.append((task, record))
        elif (unreadable := _why_unreadable(concept)) is not None:
            plan.failures.append(failure_of(one.place, name, unreadable))
        else:
            plan.changed += [name] * (record is not None)
            plan.tasks.append(task)
    tokens = [entry.placeholder_token for entry in library.values()]
    plan.removed = [token for token in tokens if shard.holds(token) and folded(token) not in first_of]
    return plan


def untold(failures: Sequence[Failure], ledger: Sequence[Mapping[str, Any]]) -> list[Failure]:
    """Return the failures that no ledger tells yet."""
    told = {(line["token"], line.get("why")) for line in ledger if line["state"] == "failed"}
    return [one for one in failures if (one.token or one.place, one.why) not in told]


def recovered(done: Sequence[str], ledger: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the lines that tell of saving concepts that are there, but were last told to have failed."""
    last, saved = {}, {}
    for line in ledger:
        name = folded(str(line["token"]))
        if line["state"] in ("saved", "failed"):
            last[name] = line["state"]
        if line["state"] == "saved":
            saved[name] = line
    return [saved[name] for name in map(folded, done) if last.get(name) == "failed" and name in saved]


def _first_of_each(listed: Sequence[ListedConcept], shard: Shard) -> dict[str, ListedConcept]:
    """Return ``{folded name: first usable concept of that name, or else its first line}`` of a part of the list."""
    found: dict[str, ListedConcept] = {}
    for one in listed:
        name = one.placeholder_token or one.place
        if shard.holds(name) and (one.concept is not None or folded(name) not in found):
            known = found.get(folded(name))
            found[folded(name)] = one if known is None or known.concept is None else known
    return found


def _usable(one: ListedConcept, first: ListedConcept) -> Concept:
    """Return the concept of a line.

    Raises:
        ConfigError: The line cannot be used, or another one before it has the same name.
    """
    if one.concept is None:
        raise one.error or ConfigError("expected a concept")
    if first is not one:
        raise ConfigError(f"{one.placeholder_token}: {first.place}, has {first.placeholder_token} already")
    return one.concept


def failure_of(place: str, token: str | None, error: SupremeInitError) -> Failure:
    """Return what to say of a concept that cannot be trained as it is listed."""
    why = one_line(error).removeprefix(place).lstrip(":, ")
    return Failure(place, token, None, why if token is None or token in why else f"{token}: {why}")


def _why_unreadable(concept: Concept) -> SupremeInitError | None:
    """Check pictures by their headers; a picture that is damaged behind it fails when it is trained on."""
    for picture in find_pictures(concept.images, quietly=True):
        if isinstance(picture, Image.Image) or not _has_header(picture):
            try:
                load_subject(picture)  # raises the error that says what it is
            except SupremeInitError as error:
                return error
    return None


def _has_header(path: str | os.PathLike[str]) -> bool:
    with contextlib.suppress(Exception), without_pillows_warnings():
        open_picture(path).close()
        return True
    return False
