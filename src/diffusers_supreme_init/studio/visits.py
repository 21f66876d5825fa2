"""`Visit`: what one visitor has done so far, in a folder of its own; `Visits`: all who are here."""

import contextlib
import itertools
import math
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from PIL import Image

from ..describers import Mask
from ..describers.proposal import InitializerProposal
from .messages import VisitorError

RUN, RESULT, REPORT = "run", "result", "report"
"""Folders of a lesson: its checkpoint, its word as training saves it, and the latter with a report."""
_MARK = "visit"
"""Of folders whose visitor is here."""

_SWEEPS = 10
"""How often idle visits are looked for, within the time after which they end."""

Meaning: TypeAlias = Literal["this", "not this", "corner"]


@dataclass(frozen=True)
class Click:
    """A click, in pixels of the upright picture."""

    x: float
    y: float
    meaning: Meaning


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is trained, and how; a run goes on exactly only with an equal one.

    Attributes:
        token: The new word.
        words: The words it starts from.
        proposal: The proposal whose first candidate they are; None: nobody was asked for words.
        picture: The picture: upright, RGB.
        mask: The thing in it, ``(height, width)``, bool; None: the whole picture.
        settings: Settings of `SupremeInitConfig`.
        preview_every: A preview is drawn after every so many steps.
        number: How many lessons the visitor had before; each has a folder of its own.
    """

    token: str
    words: str
    proposal: InitializerProposal | None = field(repr=False)
    picture: Image.Image = field(repr=False)
    mask: Mask | None = field(repr=False)
    settings: dict[str, Any]
    preview_every: int
    number: int = 0

    def folder_in(self, folder: Path) -> Path:
        """Return the folder of this lesson in that of its visitor."""
        return folder / f"lesson-{self.number}"


@dataclass
class Learned:
    """What a visitor has learned so far.

    Attributes:
        lesson: How.
        target: Steps asked for.
        steps: Steps made.
        seconds: How long training took, over all its calls.
        losses: Training loss of each step.
        before: Paths of the pictures that the words alone give.
        after: Paths of the pictures that the learned word gives, from the same noises.
        validation: Mean fixed-noise loss after some steps.
    """

    lesson: Lesson
    target: int
    steps: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    validation: dict[int, float] = field(default_factory=dict)

    def going_on(self, target: int) -> "Learned":
        """Return a copy that goes on to a step; this one stays as it is, should that fail."""
        return replace(self, target=target, losses=list(self.losses))


@dataclass(eq=False)
class Visit:
    """One visitor, from the first call to the closed page.

    Attributes:
        folder: The visitor's files; nothing in it is served.
        shown: Copies of what the page shows; served to whoever knows its unguessable name.
        picture: The picture: upright, RGB.
        clicks: Clicks in their order.
        mask: What the clicks select, ``(height, width)``, bool; None: the whole picture.
        proposal: The words that were found, without the pictures in which.
        outdated_words: Words that were found for something else than is selected now.
        learned: The word that was learned and saved last.
        gallery_seed: Seed of the pictures that the gallery shows.
        num_lessons: How many lessons began.
        others: Further words: their names and where they are loaded from.
        uploads: Files that the visitor uploaded.
    """

    folder: Path
    shown: Path
    picture: Image.Image | None = None
    clicks: list[Click] = field(default_factory=list)
    mask: Mask | None = None
    proposal: InitializerProposal | None = None
    outdated_words: set[str] = field(default_factory=set)
    learned: Learned | None = None
    gallery_seed: int = 0
    num_lessons: int = 0
    others: dict[str, Path | str] = field(default_factory=dict)
    uploads: set[Path] = field(default_factory=set)
    _numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def stop_file(self) -> Path:
        """Training ends after its step once this file exists. An event would not reach another process."""
        return self.folder / "stop"

    def forget_words(self) -> None:
        """Forget words that were found, since something else is selected now."""
        if self.proposal is not None:
            self.outdated_words |= {one.text for one in self.proposal.candidates}
        self.proposal = None

    def keep(self, learned: Learned) -> None:
        """Keep what was learned, and delete what other lessons left."""
        self.learned = learned
        for folder in self.folder.glob("lesson-*"):
            if folder != learned.lesson.folder_in(self.folder):
                shutil.rmtree(folder, ignore_errors=True)

    def show(self, picture: Image.Image, name: str) -> str:
        """Write a picture for the page, exact to the pixel, and return its path; no two have the same."""
        return self.show_file(f"{name}-{next(self._numbers)}.png", picture)

    def show_file(self, name: str, content: Image.Image | bytes | Path) -> str:
        """Write a file for the page under a name of our own, in a folder of its own, and return its path.

        Raises:
            VisitorError: The visit is over; nothing is left behind.
        """
        folder = self.shown / str(next(self._numbers))
        try:
            folder.mkdir()
        except FileNotFoundError as error:
            raise VisitorError("You have left, and your files were deleted. Please begin again.") from error
        path = folder / name
        if isinstance(content, Image.Image):
            content.save(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            shutil.copyfile(content, path)
        return str(path)

    def remove_files(self, kept: Collection[Path] = ()) -> None:
        """Delete everything of this visitor, but uploads that others use."""
        for folder in (self.shown, self.folder):
            gone = folder.with_name(f"{folder.name}-gone")
            with contextlib.suppress(OSError):  # renamed first, so that nothing can be written into it meanwhile
                folder.rename(gone)
            for path in (gone, folder):
                shutil.rmtree(path, ignore_errors=True)
        for path in self.uploads.difference(kept):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # unless gradio has put another file of the same content there
                path.parent.rmdir()


def is_here(folder: Path) -> bool:
    """Whether the visitor of a folder is still here; training that still writes may have made the folder anew."""
    return (folder / _MARK).exists()


class Visits:
    """All visitors who are here, by session; a session is one tab."""

    def __init__(
        self,
        private: Path,
        served: Path,
        *,
        grace_seconds: float = 30.0,
        idle_seconds: float = 3600.0,
        forget: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Keep files of visitors below two folders.

        Args:
            private: Nothing in it is served.
            served: What is in it is served to whoever knows its path.
            grace_seconds: See `StudioSettings`.
            idle_seconds: See `StudioSettings`.
            forget: Called with a session that is over, to delete what others remember of it.
        """
        self._private, self._served, self._forget = private, served, forget
        self._grace_seconds, self._idle_seconds = grace_seconds, idle_seconds
        self._of_session: dict[str, Visit] = {}
        self._not_uploaded: frozenset[Path] = frozenset()
        self._seen: dict[str, float] = {}
        self._leaving: dict[str, threading.Timer] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._of_session)

    def of(self, session: str) -> Visit:
        """Return the visit of a session; the first call begins it, and any call takes a farewell back."""
        with self._lock:
            if timer := self._leaving.pop(session, None):
                timer.cancel()
            visit = self._of_session.get(session)
            self._seen[session] = time.monotonic()
            if visit is None:
                name = secrets.token_urlsafe(24)
                visit = self._of_session[session] = Visit(self._private / name, self._served / name)
                visit.folder.mkdir(parents=True)
                (visit.folder / _MARK).touch()
                visit.shown.mkdir(parents=True)
            return visit

    def keep_what_is_in(self, folder: Path) -> None:
        """Never delete the files that are in a folder now, such as pictures of the page.

        Gradio stores files by their content, so an upload may be the same file as one of these.
        """
        self._not_uploaded = frozenset(folder.rglob("*"))

    def stay(self, session: str) -> None:
        """Note that a visitor is still here; nothing begins, and no farewell is taken back."""
        with self._lock:
            if session in self._of_session:
                self._seen[session] = time.monotonic()

    @contextlib.contextmanager
    def swept(self) -> Iterator[None]:
        """End visits that have been idle for too long, until the end of the ``with``."""
        over = threading.Event()

        def sweep() -> None:
            while not over.wait(self._idle_seconds / _SWEEPS):
                self._end_idle()

        threading.Thread(target=sweep, name="supreme-init-sweep", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def leave(self, session: str) -> None:
        """Note that a page was closed: its training stops now, and its files go after the grace period."""
        with self._lock:
            visit = self._of_session.get(session)
            if session in self._leaving:
                return
            if visit is not None:
                visit.stop_file.touch()
            timer = self._leaving[session] = threading.Timer(self._grace_seconds, self._close, [session])
            timer.daemon = True
            timer.start()

    def close_all(self) -> None:
        """End all visits at once."""
        for session in list(self._of_session):
            self._close(session)

    def _end_idle(self) -> None:
        oldest = time.monotonic() - self._idle_seconds
        for session in list(self._of_session):
            self._close(session, unless_seen_since=oldest)

    def _close(self, session: str, *, unless_seen_since: float = math.inf) -> None:
        with self._lock:
            if self._seen.get(session, -math.inf) >= unless_seen_since:
                return
            self._seen.pop(session, None)
            if timer := self._leaving.pop(session, None):
                timer.cancel()
            visit = self._of_session.pop(session, None)
            self._forget(session)
            if visit is None:
                return
            kept = {path for other in self._of_session.values() for path in other.uploads} | self._not_uploaded
        visit.remove_files(kept)  # training that still runs notices it, see `train` in `lessons.py`
