"""Values as users write them -> the values that the fields of a dataclass expect.

A value is taken wherever its meaning is plain: a number in a string (YAML reads ``1e-4`` as one), a whole float for an
integer, ``"false"`` for False, ``"none"`` for None, a path object for a text.
"""

import contextlib
import dataclasses
import functools
import math
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import NoneType
from typing import Any, TypeAlias, get_args, get_type_hints

from ..errors import ConfigError, shown

Range: TypeAlias = tuple[str, Callable[[Any], bool]]
"""What a value has to be, in words and as a test."""

AT_LEAST_0: Range = ("at least 0", lambda value: 0 <= value < math.inf)
AT_LEAST_1: Range = ("at least 1", lambda value: 1 <= value < math.inf)
ABOVE_0: Range = ("above 0", lambda value: 0 < value < math.inf)
BELOW_1: Range = ("in [0, 1)", lambda value: 0 <= value < 1)
UP_TO_1: Range = ("in [0, 1]", lambda value: 0 <= value <= 1)
NOT_EMPTY: Range = ("a text that is not empty", lambda value: bool(value.strip()))

_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NONES = ("none", "null")
_TOO_LARGE = 2**63  # for torch


def settle(
    settings: Any,
    *,
    ranges: Mapping[str, Range] = {},
    choices: Mapping[str, Sequence[str]] = {},
    aliases: Mapping[str, str] = {},
    paths: Sequence[str] = (),
    schedules: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> None:
    """Convert the fields of a dataclass instance to their types, in place.

    Args:
        settings: The instance; it may be frozen. Its fields have the types `int`, `float`, `bool`, `str` or
            `list[str]`, or one of these or None.
        ranges: ``{field: range}``.
        choices: ``{field: its possible values}``; case does not matter.
        aliases: ``{other word: the choice that it means}``, in lower case.
        paths: Fields that hold a path or the name of a model; ``~`` is the home folder.
        schedules: Fields that hold a step schedule, a list of ``"10"`` and ``"every:25"``.
        names: The fields to convert; None: all.

    Raises:
        ConfigError: A value has another meaning than its field, or is out of range.
    """
    hints = get_type_hints(type(settings))  # not `field.type`, which transformers' HfArgumentParser changes
    for name in (field.name for field in dataclasses.fields(settings)):
        hint = hints[name]
        if names is not None and name not in names:
            continue
        given = getattr(settings, name)
        is_optional = NoneType in get_args(hint)
        kind = next((one for one in get_args(hint) if one is not NoneType), hint) if is_optional else hint
        expected, read = _SCHEDULE if name in schedules else _KINDS[kind]
        if is_optional and (given is None or (isinstance(given, str) and given.strip().lower() in _NONES)):
            object.__setattr__(settings, name, None)
            continue
        if name in choices:
            expected, read = f"one of {choices[name]}", functools.partial(_choice, choices[name], aliases)
        elif name in paths:
            expected, read = "a path", _path
        wanted, holds = ranges.get(name, ("", None))
        suffix = ", or None" if is_optional else ""
        try:
            value = read(given)
        except (TypeError, ValueError, LookupError, OverflowError, RuntimeError) as error:
            expected += f", {wanted}" if wanted else ""
            raise ConfigError(f"{name}: expected {expected}{suffix}, got {shown(given)}") from error
        if isinstance(value, int) and value >= _TOO_LARGE:
            raise ConfigError(f"{name}: expected a number below 2**63{suffix}, got {shown(given)}")
        if holds is not None and not holds(value):
            raise ConfigError(f"{name}: expected {wanted}{suffix}, got {shown(given)}")
        object.__setattr__(settings, name, value)


def whole_number(value: Any) -> int:
    """Return a whole number: an integer, a float without fraction, or either in a string.

    Raises:
        ValueError: It is something else. As `TypeError` and `OverflowError`, from the conversion.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # "2.0" and "1e3" are whole numbers too
            return int(value)
    elif hasattr(value, "__index__") and not isinstance(value, bool):
        with contextlib.suppress(TypeError):  # a tensor of a float has the method, too
            return operator.index(value)
    number = _number(value)
    return int(number) if float(number).is_integer() else _refuse()


def _number(value: Any) -> float:
    if isinstance(value, bool) or not (isinstance(value, str) or hasattr(value, "__float__")):
        _refuse()
    number = float(value)  # also checks that an integer is not too large
    return value if type(value) is int else number


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        return _TRUTHS[value.strip().lower()]
    return bool(value) if value in (0, 1) else _refuse()


def is_text(value: Any) -> bool:
    """Whether a value is a text that tokenizers read and files hold: without zeros and halves of characters."""
    return isinstance(value, str) and not re.search(r"[\0\ud800-\udfff]", value)


def _text(value: Any) -> str:
    value = value.value if isinstance(value, Enum) else value
    return str(value) if is_text(value) else _refuse()


def _path(value: Any) -> str:
    text = _text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    return os.path.expanduser(text) if text.strip() else _refuse()


def _choice(choices: Sequence[str], aliases: Mapping[str, str], value: Any) -> str:
    value = value.value if isinstance(value, Enum) else value
    if not isinstance(value, str | bool) and type(value).__name__ != "dtype":
        _refuse()
    word = str(value).strip().removeprefix("torch.").lower()
    word = aliases.get(word, word)
    return word if word in choices else _refuse()


def _items(value: Any) -> list[Any]:
    if value is None:
        return []
    value = value.tolist() if type(value).__name__ in ("ndarray", "Tensor") else value
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        _refuse()
    return list(value)


def _texts(value: Any) -> list[str]:
    return [_text(one) for one in _items(value)]


def _schedule(value: Any) -> list[str]:
    if isinstance(value, str):
        value = [] if value.strip().lower() in _NONES else value.replace(",", " ").split()
    elif isinstance(value, int | float) or getattr(value, "shape", None) == ():
        value = [value]
    entries = []
    for one in _items(value):
        word = one.strip().lower() if isinstance(one, str) else one
        is_repeated = isinstance(word, str) and word.startswith("every:")
        step = whole_number(word.removeprefix("every:") if is_repeated else word)
        if step < is_repeated:
            _refuse()
        entries.append(f"every:{step}" if is_repeated else str(step))
    return entries


def _refuse() -> Any:
    raise ValueError("another kind of value")


_SCHEDULE = ('"10" or "every:25", or a list of them', _schedule)
_KINDS: Mapping[Any, tuple[str, Callable[[Any], Any]]] = {
    int: ("a whole number", whole_number),
    float: ("a number", _number),
    bool: ("True or False", _truth),
    str: ("a text", _text),
    list[str]: ("a list of texts", _texts),
}
