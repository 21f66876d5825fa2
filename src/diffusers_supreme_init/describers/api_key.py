"""`ApiKey`: a secret that is sent to a server and shown nowhere else."""

import logging
import re
from contextvars import ContextVar
from typing import Any, Self
from urllib.parse import quote

from ..errors import ConfigError, DescriberError

_HIDDEN = "<hidden>"
_MIN_SECRET = 8
# Filters of a logger do not apply to its children, so each logger is named.
_HTTP_LOGGERS = ("httpx2", *(f"httpcore2.{name}" for name in ("connection", "http11", "http2", "proxy", "socks")))


class ApiKey:
    """An optional key that no `repr`, log or pickle shows.

    Raises:
        ConfigError: The key cannot be sent as a header.
    """

    def __init__(self, value: str | None) -> None:
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"api_key: expected a text, or None, got {type(value).__name__}")
        if value is not None and not (value and all("!" <= character <= "~" for character in value)):
            raise ConfigError(
                "api_key: expected visible ASCII characters, got an empty text, or one with line breaks, spaces or "
                "others (not shown here); pass key.strip(), or None for servers that need none"
            )
        self._value = value

    def __repr__(self) -> str:
        return _HIDDEN

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # the default goes through `__reduce__`, which refuses

    def __reduce__(self) -> Any:
        if self._value is None:
            return ApiKey, (None,)
        # A copy without its key would only fail later, in another process, with status 401.
        raise DescriberError(
            "cannot pickle a refiner: expected one without api_key, got one with it, which the pickle would show; "
            "make the refiner in the process that uses it"
        )

    def headers(self) -> dict[str, str]:
        """Return the header to send; empty without a key."""
        return {} if self._value is None else {"authorization": f"Bearer {self._value}"}

    def redact(self, text: str) -> str:
        """Hide the key in a text, also where it is URL-quoted or escaped by any number of nested `repr` and JSON."""
        if self._value is None:
            return text
        escaped = {"\\": r"\\+", "'": r"\\*'", '"': r"\\*\""}
        written = "".join(escaped.get(character, re.escape(character)) for character in self._value)
        return re.sub(f"{written}|{re.escape(quote(self._value, safe=''))}", _HIDDEN, text)

    def is_told_by(self, text: str) -> bool:
        """Whether a text contains the key.

        Keys of fewer than 8 characters do not count: they are stand-ins such as "none", which a caption may contain.
        """
        return self._value is not None and len(self._value) >= _MIN_SECRET and self._value in text


def hide_in_logs(key: ApiKey) -> None:
    """Redact the key in everything that httpx2 logs in this thread from now on.

    At level DEBUG it logs response headers, which may echo the key.
    """
    _key_in_use.set(key)
    for name in _HTTP_LOGGERS:
        logging.getLogger(name).addFilter(_redact_record)  # adding the same filter twice does nothing


_key_in_use: ContextVar[ApiKey] = ContextVar("_key_in_use")


def _redact_record(record: logging.LogRecord) -> bool:
    key = _key_in_use.get(None)
    if key is not None:
        record.msg, record.args = key.redact(record.getMessage()), ()
    return True
