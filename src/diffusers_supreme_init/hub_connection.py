"""The Hub client, bounded: it has no time limit of its own, and one of its loops has no end."""

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

from .errors import PublishError

HUB_FAILURES = (OSError, RuntimeError, ValueError, LookupError, httpx2.HTTPError)
"""What the client raises when something goes wrong: `HfHubHTTPError` and `ConnectionError` are OSErrors, uploads of
large files fail with a RuntimeError, refused cards with a ValueError, answers that lack something with a LookupError,
broken connections with httpx2's own."""

_SLOWEST_ANSWER = 60.0
_GRACE = 2.0
_LOOK_AGAIN = 0.2

_Result = TypeVar("_Result")


class DeadlineError(OSError):
    """The time for everything is over; nothing more is sent."""


class StillRunningError(DeadlineError):
    """The time for everything is over, and a request may still be on its way: nobody knows what becomes of it."""


def within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Return what `work` does with the Hub client; after this time its requests fail, and nobody waits for it.

    Creating a repository is otherwise repeated for ever while the Hub says that another operation is in progress, no
    request has a time limit, where the Hub asks to wait an hour, the client waits an hour, and what xet sends is out
    of reach. So `work` runs in a thread of its own, whose requests are told from those of all others, which share the
    client and are none of our business.

    Raises:
        DeadlineError: The time was over before an answer.
        StillRunningError: So it was, and `work` could not even be stopped; it will not send another request.
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
        except BaseException as error:  # whatever it is, it is raised where somebody waits
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    limit.attach()
    # A daemon, since the end of the program must not wait for a request that is never answered.
    threading.Thread(target=run, name="supreme-init-hub", daemon=True).start()
    try:
        while not outcome.done() and time.monotonic() < limit.end + _GRACE:
            limit.attach()  # the client is made anew now and then, by this thread or by others
            wait([outcome], timeout=_LOOK_AGAIN)
        if not outcome.done():
            raise StillRunningError(f"no success within {seconds:g} s, and a request may still be on its way")
        return outcome.result()
    except BaseException:
        limit.end = 0.0  # also where the user interrupts: nothing more is sent
        raise


class _Limit:
    """What the requests of one call of `within` have to keep to.

    It hangs on the client that the whole process shares, and lets pass whatever does not come from its own thread.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = time.monotonic() + seconds
        self._upload_urls: set[str] = set()
        self._clients: list[Any] | None = []

    def attach(self) -> None:
        """Hang on the client of now, unless the work is done."""
        client = get_session()
        with _LOCK:
            if self._clients is None or any(client is known for known in self._clients):
                return
            hooks = client.event_hooks
            client.event_hooks = {  # exchanged, not changed: another thread may be going through the lists
                "request": [self.before, *hooks["request"]],
                "response": [self.after, *hooks["response"]],
            }
            self._clients.append(client)

    def detach(self) -> None:
        """Leave nothing behind on any client, and whatever else hangs there where it is."""
        with _LOCK:
            for client in self._clients or ():
                client.event_hooks = {
                    name: [hook for hook in hooks if hook not in (self.before, self.after)]
                    for name, hooks in client.event_hooks.items()
                }
            self._clients = None

    def before(self, request: Any) -> None:
        """Refuse a request once the time is over, and let it fail by then if it is not answered."""
        # Several files go to git-lfs storage in threads of the client, to addresses that it was told in ours.
        if _CURRENT.get() is not self and str(request.url) not in self._upload_urls:
            return
        left = self.end - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"no success within {self.seconds:g} s")
        slowest = min(left, _SLOWEST_ANSWER)
        request.extensions["timeout"] = {"connect": slowest, "read": slowest, "write": slowest, "pool": slowest}

    def after(self, response: Any) -> None:
        """Refuse to wait as long as the Hub may ask to, and note where it wants files to be sent."""
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
    """Return the addresses of a git-lfs answer; none of one that is no such answer, which the client will tell."""
    urls: set[str] = set()
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        for entry in response.json()["objects"]:
            urls |= {str(httpx2.URL(action["href"])) for action in entry.get("actions", {}).values()}
    return urls


def _asked_to_wait(response: Any) -> float:
    """Return the seconds after which an answer allows another try, 0 if it does not say."""
    if response.status_code not in (429, 503):
        return 0.0
    rate_limit = parse_ratelimit_headers(response.headers)
    after = response.headers.get("retry-after", "")
    return float(rate_limit.reset_in_seconds if rate_limit else after if after.isdigit() else 0)


def check_repo_id(repo_id: str) -> None:
    """Check that a name can be that of a repository.

    Raises:
        PublishError: It cannot.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"expected a repository 'user/name', got {repo_id!r}: {one_line(error)}") from error
    if not isinstance(repo_id, str) or repo_id.count("/") != 1:
        raise PublishError(f"expected a repository 'user/name', got {repo_id!r}")


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error of the Hub client, None if there was no answer."""
    response = getattr(error, "response", None) if isinstance(error, HfHubHTTPError) else None
    return response.status_code if response is not None else None


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line and not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__
