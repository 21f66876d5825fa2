"""From a request to the function that answers it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from .store import HubError, Store

Origin = Literal["hub", "storage"]

REPO = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
API_REPO = rf"/api/models/{REPO}"
REVISION = r"(?P<revision>[^/]+)"


@dataclass(frozen=True)
class Call:
    """A request, and the Hub it came to. `arguments` are the named parts of its path."""

    store: Store
    arguments: dict[str, str]
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    hub_url: str
    storage_url: str

    def json(self) -> Any:
        return json.loads(self.body)

    def asks_for(self, name: str) -> bool:
        """Whether a flag is set in the query."""
        return self.query.get(name, ["0"])[0].lower() in ("1", "true")


@dataclass(frozen=True)
class Answer:
    """What is sent back; `Content-Length` is added."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> "Answer":
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    @classmethod
    def of_error(cls, error: HubError) -> "Answer":
        headers = {"X-Error-Message": error.message.encode("ascii", "replace").decode().replace("\n", " ")}
        if error.code:
            headers["X-Error-Code"] = error.code
        return cls.of_json(error.body, error.status, headers | error.headers)


@dataclass(frozen=True)
class Route:
    """Which requests a function answers: `path` is a pattern of the whole path, still encoded."""

    methods: str
    path: str
    answer: Callable[[Call], Answer]
    origin: Origin = "hub"

    def match(self, origin: Origin, method: str, path: str) -> dict[str, str] | None:
        """Return the named parts of the path, decoded, or None if this is not the route."""
        if origin != self.origin or method not in self.methods.split():
            return None
        match = re.fullmatch(self.path, path)
        return None if match is None else {name: unquote(value) for name, value in match.groupdict("").items()}
