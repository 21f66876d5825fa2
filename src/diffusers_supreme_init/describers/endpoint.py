"""`EndpointRefiner`: a refiner that asks a server through OpenAI's chat completions protocol."""

import ipaddress
import json
import math
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx2

from ..errors import ConfigError, DescriberError
from .api_key import ApiKey, hide_in_logs
from .refiner import RefinementStyle

MAX_ANSWER_BYTES = 256_000

_MAX_QUOTED = 300
_HINTS = {
    401: "check api_key=",
    403: "check api_key=",
    404: "check base_url= (it usually ends in /v1) and model=",
    429: "wait a while, or choose another server",
}


class EndpointRefiner:
    """Asks an OpenAI-compatible server: Ollama, LM Studio, vLLM, llama.cpp, `transformers serve`, or a remote one.

    >>> refiner = EndpointRefiner("http://localhost:11434/v1", "qwen3:1.7b")  # Ollama; nothing is contacted yet

    Only the given server is contacted, and only when the refiner is called. Redirects are not followed, so no other
    server gets the key. Proxies from the environment are used, except for a server on this machine.

    Raises:
        ConfigError: An argument is unusable. The message never shows the key.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        style: RefinementStyle = RefinementStyle(),  # noqa: B008 - frozen
        timeout: float = 30.0,
    ) -> None:
        """Check and store the settings; nothing is contacted.

        Args:
            base_url: ``http`` or ``https`` address to which ``/chat/completions`` is appended.
            model: Name of the model on that server.
            api_key: Sent only as a bearer token; None: no such header. It is never shown or logged, and a refiner
                with a key cannot be pickled.
            style: How captions are to be rewritten.
            timeout: Seconds for the whole call, from the address look-up to the last byte.
        """
        self._key = ApiKey(api_key)
        self.base_url = _checked_url(base_url, self._key)
        if not isinstance(model, str) or not model.strip():
            raise ConfigError(f"model: expected the name of a model on the server, got {model!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise ConfigError(f"timeout: expected seconds above 0, got {timeout!r}")
        self.model = model
        self.style = style
        self.timeout = timeout

    def __repr__(self) -> str:
        shown = f"EndpointRefiner({self.base_url!r}, {self.model!r}, style={self.style!r}, timeout={self.timeout!r})"
        return self._key.redact(shown)

    def __call__(self, caption: str) -> str:
        """Return the server's refined caption, stripped.

        Raises:
            DescriberError: The server cannot be reached, takes too long, refuses, or does not answer with a text.
        """
        try:
            return self._caption_in(self._ask(caption))
        except _UnusableError as error:
            failure = self._key.redact(f"refiner {self.model!r} at {self.base_url}: {error}")
        # Raised outside `except`, so that no other error is attached to it: httpx2's own may quote a server that
        # echoes the key, and the frames of a traceback hold the answer.
        raise DescriberError(failure)

    def _ask(self, caption: str) -> "_Answer":
        payload = {
            "model": self.model,
            "messages": self.style.messages(caption),
            "temperature": 0,
            "max_tokens": self.style.max_new_tokens,
            "stream": False,
        }
        body = json.dumps(payload).encode()  # pure ASCII: UTF-8 cannot encode lone surrogates
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        deadline = time.monotonic() + self.timeout
        client: httpx2.Client | None = None
        try:
            client = httpx2.Client(timeout=self.timeout, trust_env=not _is_this_machine(self.base_url))
            # httpx2 limits the time of each read but not of the whole call, and not of the address look-up. So another
            # thread asks the server, and this one waits for it; closing the client ends a thread that still waits.
            work = threading.Thread(target=self._exchange, args=(client, body, deadline, answers), daemon=True)
            work.start()
            return answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return self._late
        except (httpx2.InvalidURL, OSError, ValueError, ImportError, RuntimeError) as error:
            # Unusable proxies or certificates in the environment, or no thread could be started.
            return _Answer(failure=f"{type(error).__name__}: {error}")
        finally:
            if client is not None:
                client.close()

    @property
    def _late(self) -> "_Answer":
        return _Answer(failure=f"no complete answer within timeout={self.timeout:g} seconds")

    def _exchange(
        self, client: httpx2.Client, body: bytes, deadline: float, answers: "queue.SimpleQueue[_Answer]"
    ) -> None:
        hide_in_logs(self._key)
        # Ask for an uncompressed answer: a small compressed one could unpack into a huge one.
        headers = {"content-type": "application/json", "accept-encoding": "identity", **self._key.headers()}
        try:
            with client.stream("POST", f"{self.base_url}/chat/completions", content=body, headers=headers) as response:
                content_type = response.headers.get("content-type", "")
                answer = _Answer(response.status_code, content_type, _read(response.iter_raw(), deadline))
            # After the deadline it may have been cut, and the waiting thread may still be there to see it.
            answers.put(self._late if time.monotonic() > deadline else answer)
        except Exception as error:  # the waiting thread reports it; raised here, it is printed with the key
            answers.put(_Answer(failure=f"{type(error).__name__}: {error}"))

    def _caption_in(self, answer: "_Answer") -> str:
        if answer.failure is not None:
            failure = self._shortened(answer.failure)
            raise _UnusableError(
                f"expected an answer, got none ({failure}); is the server running, and base_url= right?"
            )
        if answer.status // 100 != 2:
            raise _UnusableError(
                f"expected an answer, got HTTP status {answer.status}{self._reason(answer)}; {_hint(answer.status)}"
            )
        if len(answer.body) > MAX_ANSWER_BYTES:
            raise _UnusableError(
                f"expected a caption, got more than {MAX_ANSWER_BYTES} bytes; choose another model or server"
            )
        data = _parsed(answer.body)
        if not isinstance(data, dict):
            kind = self._shortened(answer.content_type.partition(";")[0]) or "of no type"
            raise _UnusableError(
                f"expected a JSON object, got something else ({kind}); check base_url= (it usually ends in /v1)"
            )
        try:
            choice = data["choices"][0]
            content = choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise _UnusableError(
                f"expected choices[0].message.content, got JSON without it{self._reason(answer)}; check base_url= and "
                "that model= is a chat model"
            ) from None
        if not isinstance(content, str):
            was_cut = choice.get("finish_reason") == "length"
            way_out = "a model that does not think first: the answer was cut" if was_cut else "a chat model"
            raise _UnusableError(
                f"expected a text in choices[0].message.content, got {type(content).__name__}; choose {way_out}"
            )
        if self._key.is_told_by(content):
            raise _UnusableError("expected a caption, got one that contains the api_key; do not trust this server")
        return content.strip()

    def _reason(self, answer: "_Answer") -> str:
        """Return the server's error message in parentheses; ``""`` if there is none in JSON."""
        found = _parsed(answer.body)
        while isinstance(found, dict):
            found = found.get("error") or found.get("message") or found.get("detail")
        return f" ({self._shortened(found)})" if isinstance(found, str) else ""

    def _shortened(self, text: str) -> str:
        printable = "".join(character if character.isprintable() else " " for character in text)
        line = self._key.redact(" ".join(printable.split()))  # before the cut, which could leave part of a key
        return line if len(line) <= _MAX_QUOTED else f"{line[:_MAX_QUOTED]} ..."


class _UnusableError(Exception):
    """The reason why there is no caption; never leaves this module."""


@dataclass(frozen=True)
class _Answer:
    status: int = 0
    content_type: str = ""
    body: bytes = b""  # cut soon after `MAX_ANSWER_BYTES`
    failure: str | None = None  # if set, the other fields are empty


def _checked_url(base_url: object, key: ApiKey) -> str:
    if not isinstance(base_url, str):
        raise ConfigError(f"base_url: expected a text, got {type(base_url).__name__}")
    if "@" in base_url:  # not shown: a password may stand before it
        raise ConfigError("base_url: expected no user or password in the address, got one with '@'; pass api_key=")
    if "?" in base_url or "#" in base_url:  # not shown: some servers take keys there
        raise ConfigError("base_url: expected an address without query, got one with '?' or '#'; pass api_key=")
    url: httpx2.URL | None
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        url = None
    is_plain = not any(character.isspace() for character in base_url)
    if url is None or not is_plain or url.scheme not in ("http", "https") or not url.host or (url.port or 0) > 65535:
        raise ConfigError(
            "base_url: expected an http or https address such as 'http://localhost:11434/v1', got "
            f"{key.redact(repr(base_url))}"
        )
    return base_url.rstrip("/")


def _is_this_machine(base_url: str) -> bool:
    host = httpx2.URL(base_url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _read(pieces: Iterable[bytes], deadline: float) -> bytes:
    read = bytearray()
    for piece in pieces:
        read += piece
        if len(read) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
            break  # the caller refuses an answer that is too long, and no longer waits for a late one
    return bytes(read)


def _hint(status: int) -> str:
    if status // 100 == 3:
        return "redirects are not followed, pass the final address as base_url="
    return _HINTS.get(status, "look into the server's log")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
