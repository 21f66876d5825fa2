"""Ledgers and an index -> ``index.html`` and ``summary.csv``: every concept with its picture, words, loss and state.

They show pictures and are never published. Times, devices and hosts stand in the ledgers only.
"""

import csv
import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from ..errors import OutputError
from ..file_names import PAGE_NAME, SOFTWARE, TABLE_NAME
from ..files import write_atomically
from ..formats.library import LibraryEntry
from ..triggers import folded

_PAGE_TEMPLATE_NAME = "page_template.html"
_PER_PAGE = 200
_STATES = ("failed", "words", "saved", "pushed")
"""In the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class ShownConcept:
    """One concept of the page.

    Attributes:
        token: Its placeholder token, or its place in the list if its line cannot be read.
        state: ``"failed"``, ``"words"`` (found, not trained yet), ``"saved"`` or ``"pushed"``.
        words: What its rows start from.
        folder: Its folder; ``""`` if it has none.
        place: Where it is listed.
        steps: Number of steps; None if it was not trained.
        losses: The first and the last fixed-noise loss, if they were measured.
        why: Why it failed.
        thumbnail: What it was trained on, JPEG in base 64.
        sample: A picture drawn with it, in the same form.
    """

    token: str
    state: str
    words: str = ""
    folder: str = ""
    place: str = ""
    steps: int | None = None
    losses: tuple[float, ...] = ()
    why: str = ""
    thumbnail: str | None = None
    sample: str | None = None


def write_page(folder: Path, entries: Mapping[str, LibraryEntry], lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the pages and the table of a library, unless they say the same already.

    Raises:
        OutputError: The folder cannot be written.
    """
    shown = shown_concepts(entries, lines)
    pages = [shown[first : first + _PER_PAGE] for first in range(0, len(shown), _PER_PAGE)] or [[]]
    names = [_page_name(number) for number in range(len(pages))]
    counts = {state: count for state in _STATES if (count := sum(one.state == state for one in shown))}
    files = {TABLE_NAME: _table(shown)}
    for name, page in zip(names, pages, strict=True):
        text = _template().render(
            concepts=page,
            counts=counts,
            has_samples=any(one.sample for one in page),
            pages=names,
            own=name,
            table=TABLE_NAME,
            software=SOFTWARE,
        )
        files[name] = text.encode()
    for name, data in files.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != data:
            write_atomically(folder / name, data)
    for path in folder.glob(_page_name(None)):
        if path.name not in names:
            path.unlink()


def check_page_is_ours(folder: Path) -> None:
    """Check that a page and a table that exist were written here.

    Raises:
        OutputError: One was not.
    """
    marks = {PAGE_NAME: SOFTWARE, TABLE_NAME: ",".join(_COLUMNS)}
    for name, mark in marks.items():
        if (folder / name).is_file() and mark.encode() not in (folder / name).read_bytes()[:400]:
            raise OutputError(
                f"cannot replace {str(folder / name)!r}: no earlier run wrote it; choose another output_dir"
            )


def shown_concepts(entries: Mapping[str, LibraryEntry], lines: Sequence[Mapping[str, Any]]) -> list[ShownConcept]:
    """Return all concepts of an index and of ledgers, failures first, otherwise by name."""
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    order: dict[str, str] = {}
    of_folder = {folded(entry.placeholder_token): (name, entry) for name, entry in entries.items()}
    for line in lines:
        name = folded(str(line["token"]))
        order[name] = line["state"] if line["state"] in _STATES else order.get(name, "words")
        if line["state"] != "saved" or name not in of_folder or _is_of(line, of_folder[name][1]):
            last[name, line["state"]] = line
    shown = []
    for name in dict.fromkeys([*order, *of_folder]):
        folder, entry = of_folder.get(name, ("", None))
        state = "saved" if entry is not None and order.get(name) in ("words", None) else order.get(name, "saved")
        if entry is None and state in ("saved", "pushed"):
            continue  # removed since
        saved, failed = last.get((name, "saved"), {}), last.get((name, "failed"), {})
        found = last.get((name, "words"), {})
        shown.append(
            ShownConcept(
                token=str((entry.placeholder_token if entry else None) or (saved or failed or found)["token"]),
                state=state,
                words=(entry.description if entry else found.get("words")) or "",
                folder=folder,
                place=str((failed if state == "failed" else saved).get("place", "")),
                steps=saved.get("steps") if entry else None,
                losses=tuple(saved.get("losses") or ()),
                why=str(failed.get("why", "")) if state == "failed" else "",
                thumbnail=saved.get("thumbnail"),
                sample=saved.get("sample"),
            )
        )
    return sorted(shown, key=lambda one: (_STATES.index(one.state), one.token))


def _is_of(line: Mapping[str, Any], entry: LibraryEntry) -> bool:
    """Whether a save was that of the embedding files that are there: after a merge, a newer one may be another's."""
    saved = line.get("sha256") or {}
    return all(saved.get(name) == digest for name, digest in zip(entry.weights, entry.sha256, strict=False))


_COLUMNS = ("token", "state", "words", "folder", "place", "steps", "loss_before", "loss_after", "why")


def _table(shown: Sequence[ShownConcept]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in shown:
        losses = (one.losses[0], one.losses[-1]) if one.losses else ("", "")
        writer.writerow([one.token, one.state, one.words, one.folder, one.place, one.steps, *losses, one.why])
    return text.getvalue().encode("utf-8", "surrogatepass")


def _page_name(number: int | None) -> str:
    """Return the name of a page, from 0; None: a pattern of those after the first."""
    stem, suffix = PAGE_NAME.split(".")
    return PAGE_NAME if number == 0 else f"{stem}-{'[0-9]*' if number is None else number + 1}.{suffix}"


@functools.cache
def _template() -> jinja2.Template:
    text = resources.files(__package__).joinpath(_PAGE_TEMPLATE_NAME).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(text)
