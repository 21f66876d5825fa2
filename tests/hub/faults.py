"""Faults as data: what the Hub gets wrong, on which requests, how often.

For example:

    server.add_fault(Fault("POST", "/commit/", 500, times=2))
    server.add_fault(Fault("PUT", "/objects/", "reset_body"))
    server.add_fault(Fault("POST", "/preupload/", 503, times=None))  # for ever
"""

import re
import threading
from dataclasses import dataclass
from typing import Literal

FaultKind = int | Literal["reset", "hang_up", "reset_body", "cut_body", "lost_answer", "slow"]

_MESSAGES = {
    401: "Invalid username or password.",
    403: "Forbidden.",
    409: "Conflict.",
    412: "A commit has happened since. Please refresh and try again.",
    429: "Too many requests.",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
    503: "Service Unavailable.",
}


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Args:
        method: HTTP method.
        path_pattern: Regular expression that is searched in the path, decoded and without its query.
        kind: An HTTP status, answered without acting, or

            - ``reset``: the request is read but not acted on, and the connection reset;
            - ``hang_up``: the same, but the connection is closed quietly;
            - ``reset_body``: the connection is reset in the middle of the request's body or, for requests without a
              body, of the answer's; uploads see this as `ReadError` or `RemoteProtocolError`, as it happens;
            - ``cut_body``: it is closed quietly in the middle of the answer's body;
            - ``lost_answer``: the request takes effect, then the connection is reset;
            - ``slow``: the request waits for `seconds`, then all is well.
        times: Number of requests; None is for ever.
        skip: Number of matching requests that go well before.
        message: What a status says.
        html: A status says it on a page, as gateways do, rather than in JSON.
        seconds: Of ``slow``.
        retry_after: What a 429 asks the client to wait, in seconds.
    """

    method: str
    path_pattern: str
    kind: FaultKind
    times: int | None = 1
    skip: int = 0
    message: str | None = None
    html: bool = False
    seconds: float = 1.0
    retry_after: int = 1

    def matches(self, method: str, path: str) -> bool:
        return self.method == method and re.search(self.path_pattern, path) is not None

    @property
    def text(self) -> str:
        """What the answer says, when the fault is a status."""
        return self.message or _MESSAGES.get(self.kind if isinstance(self.kind, int) else 0, "Injected fault.")

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": f"{self.retry_after}"} if self.kind == 429 else {}


class FaultPlan:
    """The faults to come, first come first served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[tuple[Fault, int]] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._seen.append((fault, 0))

    def clear(self) -> None:
        with self._lock:
            self._seen.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault of a request; the request counts as one of the fault's times."""
        with self._lock:
            for index, (fault, seen) in enumerate(self._seen):
                if not fault.matches(method, path):
                    continue
                if fault.times is not None and seen >= fault.skip + fault.times:
                    continue
                self._seen[index] = (fault, seen + 1)
                if seen >= fault.skip:
                    return fault
        return None
