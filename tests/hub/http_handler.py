"""One connection of the Hub: requests in, answers or faults out."""

import socket
import struct
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import Fault
from .routing import Answer, Origin
from .store import HubError

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Request:
    """A request that came. `status` is None if no answer left; `origin` says which of the two ports it came to."""

    method: str
    path: str
    status: int | None
    origin: Origin
    query: str
    authorized: bool


class Backend(Protocol):
    """What the ports ask of the Hub."""

    def take_fault(self, method: str, path: str) -> Fault | None: ...
    def wait(self, seconds: float) -> None: ...
    def log(self, request: Request) -> None: ...
    def answer(self, origin: Origin, method: str, raw_path: str, **parts: Any) -> Answer: ...


class Port(ThreadingHTTPServer):
    """One of the two origins of the Hub."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: Backend, origin: Origin) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.origin = hub, origin

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away are what faults are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # with it, every answer waits 40 ms for an acknowledgement
    server: Port

    def log_message(self, *_: object) -> None:
        """Say nothing: the Hub keeps its own log."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        fault = self.server.hub.take_fault(self.command, unquote(url.path))
        kind = None if fault is None else fault.kind
        if kind == "reset_body" and self._has_body():
            self.rfile.read1(self._body_size() // 2 or 1)
        elif kind in ("reset", "hang_up"):
            self._read_body()
        else:
            answer = self._act(fault)
            if kind != "lost_answer":
                self._log(answer.status)
                return self._send(answer, fault)
        self._log(None)
        return self._drop(reset=kind != "hang_up")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _act(self, fault: Fault | None) -> Answer:
        """Do what the request asks for, unless the fault is an answer by itself."""
        body = self._read_body()
        if fault is not None and fault.kind == "slow":
            self.server.hub.wait(fault.seconds)
        if fault is not None and isinstance(fault.kind, int):
            return _answer_of(fault.kind, fault)
        url = urlsplit(self.path)
        return self.server.hub.answer(
            self.server.origin,
            self.command,
            url.path,
            query=parse_qs(url.query),
            headers=self.headers,
            body=body,
        )

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if fault is not None and fault.kind in ("reset_body", "cut_body"):
            self.wfile.write(answer.body[: len(answer.body) // 2])
            time.sleep(0.05)  # a reset takes back what the client has not read yet
            return self._drop(reset=fault.kind == "reset_body")
        self.wfile.write(answer.body)
        return None

    def _drop(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.rfile.close()  # holds the socket open, too
            self.connection.close()

    def _log(self, status: int | None) -> None:
        """Log before the answer leaves, so that the client's next line finds the request in the log."""
        url = urlsplit(self.path)
        authorized = "Authorization" in self.headers
        self.server.hub.log(
            Request(self.command, unquote(url.path), status, self.server.origin, url.query, authorized)
        )

    def _has_body(self) -> bool:
        return self._is_chunked() or self._body_size() > 0

    def _is_chunked(self) -> bool:
        return self.headers.get("Transfer-Encoding", "").lower() == "chunked"

    def _body_size(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _read_body(self) -> bytes:
        if not self._is_chunked():
            return self.rfile.read(self._body_size())
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


def _answer_of(status: int, fault: Fault) -> Answer:
    if fault.html:
        page = f"<!DOCTYPE html><html><body><h1>{fault.text}</h1></body></html>"
        return Answer(status, page.encode(), {"Content-Type": "text/html"} | fault.headers)
    return Answer.of_error(HubError(status, fault.text, headers=fault.headers))
