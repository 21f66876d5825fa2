"""What a command says on the terminal: its own lines, and nothing of other libraries that the user cannot act on."""

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, TextIO

from ..errors import SupremeInitWarning

USAGE, FAILURE, INTERRUPTED = 2, 1, 130
"""Exit statuses."""

_SECONDS_BETWEEN_LINES = 5.0


@contextlib.contextmanager
def only_our_lines(libraries: Sequence[str]) -> Iterator[None]:
    """Hide notices and loading bars of other libraries, and show our messages and warnings as lines.

    Bars of downloads stay: they may take minutes.

    Args:
        libraries: Those of Hugging Face that will be used; they are imported here.
    """
    modules = [import_module(f"{name}.utils.logging") for name in libraries]
    before = [module.get_verbosity() for module in modules]
    for module in modules:
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", SupremeInitWarning)
            warnings.showwarning = _show
            yield
    finally:
        for module, verbosity in zip(modules, before, strict=True):
            module.set_verbosity(verbosity)
            module.enable_progress_bar()


@contextlib.contextmanager
def our_messages(*, is_verbose: bool) -> Iterator[None]:
    """Write the package's log messages to stderr, one line each; without `is_verbose` not those of each step."""
    handler, package = logging.StreamHandler(sys.stderr), logging.getLogger(__package__.partition(".")[0])
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = package.level
    handler.addFilter(lambda record: is_verbose or record.levelno > logging.INFO or not _is_repeated(record))
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)


def _is_repeated(record: logging.LogRecord) -> bool:
    """Whether a message tells what the bar, the summary and the report tell as well."""
    return record.name.endswith((".reporting", ".candidates"))


def _show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


@contextlib.contextmanager
def lines_instead_of_bars() -> Iterator[None]:
    """Where stderr is no terminal, write a line of a progress bar every few seconds, rather than bars."""
    if sys.stderr is None or sys.stderr.isatty():
        yield
        return
    with contextlib.redirect_stderr(_Lines(sys.stderr)):
        yield


class _Lines:
    """A stream on which a bar, drawn over itself again and again, becomes a few lines.

    A bar gets a line every few seconds and one at its end, unless it is taken away before the first.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._written_at = stream, 0.0
        self._is_in_bar, self._kept, self._last = False, "", ""

    def write(self, text: str) -> int:
        first, *drawn = text.split("\r")
        if self._is_in_bar and first:
            self._write_kept()
            self._is_in_bar = False
            first = first.removeprefix("\n")
        self._stream.write(first)
        for bar in drawn:
            if not self._is_in_bar:
                self._is_in_bar, self._written_at, self._last = True, time.monotonic(), ""
            self._kept = bar.strip()
            if time.monotonic() - self._written_at >= _SECONDS_BETWEEN_LINES:
                self._write_kept()
        return len(text)

    def _write_kept(self) -> None:
        progress = self._kept.partition("[")[0]  # without the time, which differs in the last drawing
        if self._kept and progress != self._last:
            self._stream.write(f"{self._kept}\n")
            self._written_at, self._last = time.monotonic(), progress
        self._kept = ""

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
