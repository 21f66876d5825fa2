"""The Hub client, bounded: it has no time limit of its own, and one of its loops has no end."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session, parse_ratelimit_headers  # type: ignore[attr-defined]

HUB_FAILURES = (OSError, RuntimeError, ValueError, httpx2.HTTPError)
"""What the client raises when something goes wrong: `HfHubHTTPError` and `ConnectionError` are OSErrors, uploads of
large files fail with a RuntimeError, refused cards with a ValueError, broken connections with httpx2's own."""

_SLOWEST_ANSWER = 60.0


class DeadlineError(OSError):
    """Raised inside the Hub client once the time for everything is over."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let every request of the Hub client fail after this time, and each that is not answered within a minute.

    Creating a repository is otherwise repeated for ever while the Hub says that another operation is in progress, no
    request has a time limit, and where the Hub asks to wait an hour, the client waits an hour.
    """
    end = time.monotonic() + seconds

    def limit(request: Any) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"no success within {seconds:g} s")
        slowest = min(left, _SLOWEST_ANSWER)
        request.extensions["timeout"] = {"connect": slowest, "read": slowest, "write": slowest, "pool": slowest}

    def refuse_to_wait(response: Any) -> None:
        pause = _asked_to_wait(response)
        if pause and pause > end - time.monotonic():
            raise DeadlineError(f"the Hub asks to wait {pause:g} s, longer than the {seconds:g} s for everything")

    client = get_session()
    hooks = client.event_hooks
    client.event_hooks = {
        "request": [limit, *hooks.get("request", [])],
        "response": [refuse_to_wait, *hooks.get("response", [])],
    }
    try:
        yield
    finally:
        client.event_hooks = hooks


def _asked_to_wait(response: Any) -> float:
    """Return the seconds after which an answer allows another try, 0 if it does not say."""
    if response.status_code not in (429, 503):
        return 0.0
    rate_limit = parse_ratelimit_headers(response.headers)
    after = response.headers.get("retry-after", "")
    return float(rate_limit.reset_in_seconds if rate_limit else after if after.isdigit() else 0)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error of the Hub client, None if there was no answer."""
    response = getattr(error, "response", None) if isinstance(error, HfHubHTTPError) else None
    return response.status_code if response is not None else None


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line and not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__
