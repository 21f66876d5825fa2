"""Runs in the client's process, before any of the test's code: retries stay, their waits go.

`waits` holds the seconds that the client would have waited, in order.
"""

import time
from typing import Any

import huggingface_hub.file_download
import huggingface_hub.utils._http

waits: list[float] = []


class _Clock:
    """The module `time`, but for the waiting."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        waits.append(seconds)
        time.sleep(0.01)  # let other threads, and the server, have their turn


def skip_waits() -> None:
    """Let the client retry at once."""
    for module in (huggingface_hub.utils._http, huggingface_hub.file_download):
        module.time = _Clock()  # type: ignore[attr-defined]


def forget_server() -> None:
    """Drop what the client remembers of the server, but for the files of its cache."""
    from huggingface_hub.utils import _http, _xet

    _xet.XET_CONNECTION_INFO_CACHE.clear()
    _http._WARNED_TOPICS.clear()
    _http.close_session()
    waits.clear()
