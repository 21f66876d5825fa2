"""A time limit for the Hub client, which has none and may retry for ever; helpers for repository ids and errors."""

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    get_session,
    parse_ratelimit_headers,
    validate_repo_id,
)

from .errors import PublishError, one_line

HUB_FAILURES = (OSError, RuntimeError, ValueError, LookupError, httpx2.HTTPError)
"""Errors of the Hub client. `HfHubHTTPError` and `ConnectionError` are OSErrors. Failed uploads of large files
raise RuntimeErrors, refused cards ValueErrors, incomplete answers LookupErrors, broken connections httpx2's errors."""

_SLOWEST_ANSWER = 60.0
"""Longest timeout of a request, in seconds."""
_GRACE = 2.0
"""Seconds that `within` waits beyond its limit, so that the last request can fail by itself."""
_LOOK_AGAIN = 0.2
"""Seconds between two checks for a new client."""

_Result = TypeVar("_Result")


class DeadlineError(OSError):
    """The time limit was reached, or waiting would exceed it; no further request is sent."""


class StillRunningError(DeadlineError):
    """The time limit was reached while a request was still running; its outcome is unknown."""


def within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Return the result of `work`, which uses the Hub client, or stop waiting for it after a time limit.

    The Hub client sets no time limits. It waits as long as the Hub asks, even an hour, and repeats the creation of a
    repository for ever while the Hub reports that another operation is in progress. Uploads by xet cannot be
    interrupted at all. So `work` runs in a thread of its own. After the limit its requests fail; requests of other
    threads, which share the client, are not affected.

    Args:
        seconds: The time limit.
        work: The function to call; its own errors are raised here.

    Raises:
        DeadlineError: The limit was reached, or the Hub asks for a wait beyond it.
        StillRunningError: The limit was reached and `work` could not be stopped; it will not send another request.
    """
    limit = _Limit(seconds)
    outcome: Future[_Result] = Future()
    context = contextvars.copy_context()
    context.run(_CURRENT.set, limit)

    def run() -> None:
        try:
            try:
                result = context.run(work)
            finally:
                limit.detach()
        except BaseException as error:  # passed on to the waiting thread, which raises it
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    limit.attach()
    # A daemon thread, so that the program can end even if a request is never answered.
    threading.Thread(target=run, name="supreme-init-hub", daemon=True).start()
    try:
        while not outcome.done() and time.monotonic() < limit.end + _GRACE:
            limit.attach()  # again, because any thread may replace the shared client at any time
            wait([outcome], timeout=_LOOK_AGAIN)
        if not outcome.done():
            raise StillRunningError(f"no success within {seconds:g} s, and a request may still be on its way")
        return outcome.result()
    except BaseException:
        limit.end = 0.0  # no further request is sent, even if the user interrupted the call
        raise


class _Limit:
    """The time limit of one call of `within`, enforced by event hooks on the Hub client.

    The whole process shares this client, so the hooks ignore requests that do not belong to the call.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = time.monotonic() + seconds
        self._upload_urls: set[str] = set()
        self._clients: list[Any] | None = []

    def attach(self) -> None:
        """Add the hooks to the present client, unless the work is done or they are already there."""
        client = get_session()
        with _LOCK:
            if self._clients is None or any(client is known for known in self._clients):
                return
            hooks = client.event_hooks
            client.event_hooks = {  # replaced, not changed in place: another thread may be iterating over the lists
                "request": [self.before, *hooks["request"]],
                "response": [self.after, *hooks["response"]],
            }
            self._clients.append(client)

    def detach(self) -> None:
        """Remove the hooks from all clients; other hooks stay."""
        with _LOCK:
            for client in self._clients or ():
                client.event_hooks = {
                    name: [hook for hook in hooks if hook not in (self.before, self.after)]
                    for name, hooks in client.event_hooks.items()
                }
            self._clients = None

    def before(self, request: Any) -> None:
        """Refuse a request after the limit; before it, give the request a timeout that ends by then.

        Raises:
            DeadlineError: The limit was reached.
        """
        # The client uploads several files to git-lfs storage in threads of its own, which do not inherit `_CURRENT`.
        # Those requests are recognised by their addresses, which the Hub returned to our thread.
        if _CURRENT.get() is not self and str(request.url) not in self._upload_urls:
            return
        left = self.end - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"no success within {self.seconds:g} s")
        slowest = min(left, _SLOWEST_ANSWER)
        request.extensions["timeout"] = {"connect": slowest, "read": slowest, "write": slowest, "pool": slowest}

    def after(self, response: Any) -> None:
        """Record the upload addresses in an answer, and refuse to wait if the Hub asks for a wait beyond the limit.

        Raises:
            DeadlineError: The Hub asks for a wait beyond the limit.
        """
        if _CURRENT.get() is not self:
            return
        pause = _asked_to_wait(response)
        if pause and pause > self.end - time.monotonic():
            raise DeadlineError(f"the Hub asks to wait {pause:g} s, longer than the {self.seconds:g} s for everything")
        if response.request.url.path.endswith("/info/lfs/objects/batch"):
            response.read()
            self._upload_urls |= _upload_urls(response)


_CURRENT: contextvars.ContextVar[_Limit | None] = contextvars.ContextVar("supreme_init_hub_limit", default=None)
_LOCK = threading.Lock()


def _upload_urls(response: Any) -> set[str]:
    """Return the upload addresses in a git-lfs answer; empty if it is malformed, which the client reports itself."""
    urls: set[str] = set()
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        for entry in response.json()["objects"]:
            urls |= {str(httpx2.URL(action["href"])) for action in entry.get("actions", {}).values()}
    return urls


def _asked_to_wait(response: Any) -> float:
    """Return the wait in seconds that an answer asks for before another attempt; 0 if it asks for none."""
    if response.status_code not in (429, 503):
        return 0.0
    rate_limit = parse_ratelimit_headers(response.headers)
    after = response.headers.get("retry-after", "")
    return float(rate_limit.reset_in_seconds if rate_limit else after if after.isdigit() else 0)


def check_repo_id(repo_id: str) -> None:
    """Check that a repository id has the form ``user/name`` and is valid on the Hub.

    Raises:
        PublishError: It is not a valid id.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"expected a repository 'user/name', got {repo_id!r}: {one_line(error)}") from error
    if not isinstance(repo_id, str) or repo_id.count("/") != 1:
        raise PublishError(f"expected a repository 'user/name', got {repo_id!r}")


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error of the Hub client, or None if there was no answer."""
    response = getattr(error, "response", None) if isinstance(error, HfHubHTTPError) else None
    return response.status_code if response is not None else None
