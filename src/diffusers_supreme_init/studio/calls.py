"""What all steps of the page share: how calls are queued and shown, what errors become, and whose call it is."""

import functools
import inspect
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

from .messages import VisitorError, sentence_of
from .settings import StudioSettings
from .visits import Visit, Visits

MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
"""Of calls that need the pipeline: one at a time, and the others see their place in the queue."""
EYES: dict[str, Any] = {"concurrency_id": "eyes", "concurrency_limit": 1}
"""Of calls that need the segmenter, which also answers while somebody trains."""
AT_ONCE: dict[str, Any] = {"concurrency_limit": None}
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class Step:
    """A step of the page: its layout, and what its buttons do. Its public methods are endpoints."""

    def __init__(self, settings: StudioSettings, visits: Visits) -> None:
        """Let all steps share a model and the list of visitors."""
        self.settings, self.visits = settings, visits

    def visit(self, request: gr.Request) -> Visit:
        """Return whose call it is.

        Raises:
            VisitorError: The call has no session.
        """
        if not request.session_hash:
            raise VisitorError("Calls need a session, as gradio_client and browsers have one.")
        return self.visits.of(request.session_hash)


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function, or a generator, raise what gradio shows as a sentence instead of any other error."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generating(*given: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from function(*given, **named)
            except Exception as error:
                raise _shown(error) from error

        return generating

    @functools.wraps(function)
    def returning(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except Exception as error:
            raise _shown(error) from error

    return returning


def heading(number: int, text: str) -> None:
    """Write the title of a step."""
    gr.HTML(f'<h2><span class="number">{number}</span>{text}</h2>')


def _shown(error: Exception) -> gr.Error:
    # Shown as HTML, so tags in what a visitor typed must not become tags of the page.
    return gr.Error(
        escape(sentence_of(error), quote=False), title="That did not work", duration=None, print_exception=False
    )
