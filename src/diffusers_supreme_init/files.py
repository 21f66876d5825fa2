"""Files: written whole or not at all, and named only where the name may be published."""

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import OutputError


def write_atomically(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file under a temporary name beside it and rename it, so that nobody ever sees half of it.

    Raises:
        OutputError: The folder cannot be made or written, or is full; an older file of that name is untouched.
    """
    target = Path(path)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide results from one's own colleagues
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {str(target)!r}: {error.strerror or error}; choose another output_dir"
        ) from error
    return target


def json_bytes(record: Mapping[str, Any]) -> bytes:
    """Return a JSON file; what JSON has no number for, NaN and infinity, becomes null."""
    return (json.dumps(without_nan(record), indent=1, allow_nan=False) + "\n").encode()


def without_nan(value: Any) -> Any:
    """Return JSON values with null for what JSON has no number for: NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return value


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Make a folder, if needed, and check that files can be written there, before hours of work depend on it.

    Raises:
        OutputError: They cannot.
    """
    probe = write_atomically(Path(folder) / ".writable", b"")
    probe.unlink(missing_ok=True)  # several processes may probe at once
    return Path(folder)


def hub_id(name: object) -> str | None:
    """Return a model's name if it is an id on the Hub, None if it is a local path, which is nobody else's business.

    A relative path of two parts that does not exist any more cannot be told from an id by its name alone.
    """
    text = str(name or "")
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", text) is not None and not text.startswith(".")
    return text if is_id and not Path(text).exists() else None


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
