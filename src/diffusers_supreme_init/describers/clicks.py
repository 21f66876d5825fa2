"""What users write for a place in a picture -> points and boxes of numbers."""

import math
import numbers
from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeAlias

from ..errors import RegionError, shown

Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]


def to_points(points: Point | Sequence[Point], name: str) -> tuple[Point, ...]:
    """Return one point or several as a tuple of them.

    Args:
        points: ``(x, y)``, or a sequence of such pairs, of numbers or of texts that hold them.
        name: What they are, for messages.

    Raises:
        RegionError: They are something else.
    """
    try:
        values = _in_order(points)
        if len(values) == 2 and all(isinstance(value, numbers.Real | str) for value in values):
            values = [values]
        pairs = tuple((float(x), float(y)) for x, y in map(_in_order, values))
    except (TypeError, ValueError, OverflowError) as error:
        raise RegionError(f"{name}: expected (x, y) or a sequence of them, got {shown(points)}") from error
    if not all(math.isfinite(value) for pair in pairs for value in pair):
        raise RegionError(f"{name}: expected finite numbers, got {shown(points)}")
    return pairs


def to_box(box: Box) -> Box:
    """Return ``(left, top, right, bottom)`` as numbers.

    Raises:
        RegionError: It is something else, or has no area.
    """
    try:
        left, top, right, bottom = (float(value) for value in _in_order(box))
    except (TypeError, ValueError, OverflowError) as error:
        raise RegionError(f"box: expected (left, top, right, bottom), got {shown(box)}") from error
    if not all(math.isfinite(value) for value in (left, top, right, bottom)) or right <= left or bottom <= top:
        raise RegionError(
            f"box: expected left < right and top < bottom, got {format_numbers((left, top, right, bottom))} without "
            "area"
        )
    return left, top, right, bottom


def format_numbers(values: Sequence[float]) -> str:
    """Return numbers as messages have them, ``"(3, 4)"``."""
    return f"({', '.join(f'{value:g}' for value in values)})"


def _in_order(values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping | Set):
        raise TypeError("a text, or numbers without order")
    return list(values)
