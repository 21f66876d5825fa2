"""What goes wrong or is worth a notice -> sentences for the visitor."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from ..errors import SupremeInitError, SupremeInitWarning, one_line

logger = logging.getLogger(__name__)

_HEARD: ContextVar[list[str] | None] = ContextVar("heard", default=None)
_FIELD = re.compile(r"^[a-z][a-z_-]*: (?=\w)")
_PATH = re.compile(r"'(?:/|[A-Za-z]:\\)[^']*[/\\]([^'/\\]+)'")
"""Of a file on the server; visitors know only its name."""
_ADVICE_IN_PYTHON = re.compile(r"; (?:pass|call|see) [^;]*[=(][^;]*$")
_FULL = "The memory of the graphics card is full. Choose fewer samples per step under Advanced, or try again later."
_UNEXPECTED = "Something unexpected happened, and the details are in the server's log. Please try again."


class VisitorError(SupremeInitError):
    """A visitor asked for something that cannot be done; the message is a sentence for the page."""


def sentence_of(error: BaseException) -> str:
    """Return what to tell a visitor about an error; an unexpected one goes to the log."""
    if isinstance(error, VisitorError):
        return str(error)
    if isinstance(error, SupremeInitError):
        return as_sentence(str(error))
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return _FULL
    logger.error("unexpected: %s", one_line(error), exc_info=error)
    return _UNEXPECTED


def as_sentence(message: str) -> str:
    """Return a message of the package without names of arguments, which a visitor does not know.

    >>> as_sentence("region: expected a point, got none; pass points=(x, y)")
    'Expected a point, got none.'
    """
    text = _ADVICE_IN_PYTHON.sub("", _FIELD.sub("", _PATH.sub(r"“\1”", message.strip())))
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Collect, in this thread, the notices of the package as sentences; see `listening`."""
    notices: list[str] = []
    before = _HEARD.set(notices)
    try:
        yield notices
    finally:
        _HEARD.reset(before)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Let `heard` hear warnings and log messages of the package; once for the whole process, outside of threads."""
    package, ears = logging.getLogger(__package__.partition(".")[0]), _Ears(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("always", SupremeInitWarning)
        shown_before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: object, **more: object) -> None:
            notices = _HEARD.get()
            if notices is not None and issubclass(category, SupremeInitWarning):
                _add(notices, str(message))
            else:
                shown_before(message, category, *rest, **more)  # type: ignore[arg-type]

        warnings.showwarning = show
        package.addHandler(ears)
        try:
            yield
        finally:
            package.removeHandler(ears)


class _Ears(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        notices = _HEARD.get()
        if notices is not None:
            _add(notices, record.getMessage())


def _add(notices: list[str], message: str) -> None:
    sentence = as_sentence(message)
    if sentence not in notices:
        notices.append(sentence)
