"""The outlines of the toys: every toy is a list of filled polygons in a square of 100 x 100 units, y pointing down."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
Role = Literal["body", "trim", "ink", "light"]


@dataclass(frozen=True)
class Part:
    """One filled polygon; its role decides the paint (the body carries the pattern)."""

    role: Role
    points: list[Point]


def ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> list[Point]:
    """Points of an ellipse, or of the piece of it between two angles (degrees, clockwise from the right)."""
    num_points = max(4, round((stop - start) / 9))
    angles = [math.radians(start + (stop - start) * i / num_points) for i in range(num_points + 1)]
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 3) -> list[Point]:
    """Points of a rectangle with rounded corners."""
    corners = [(x1, y1, 0), (x0, y1, 90), (x0, y0, 180), (x1, y0, 270)]
    points: list[Point] = []
    for x, y, start in corners:
        inner_x, inner_y = x + (radius if x == x0 else -radius), y + (radius if y == y0 else -radius)
        points += ellipse(inner_x, inner_y, radius, radius, start, start + 90)
    return points


def arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, width: float) -> list[Point]:
    """Points of a bent bar that follows an ellipse."""
    outer = ellipse(cx, cy, rx + width / 2, ry + width / 2, start, stop)
    inner = ellipse(cx, cy, rx - width / 2, ry - width / 2, start, stop)
    return outer + inner[::-1]


def bar(x0: float, y0: float, x1: float, y1: float, width: float) -> list[Point]:
    """Points of a straight bar between two points."""
    length = math.hypot(x1 - x0, y1 - y0)
    nx, ny = (y0 - y1) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]


def mug() -> list[Part]:
    """A mug with a rim and a handle."""
    return [
        Part("trim", arc(70, 52, 15, 17, -100, 100, 7)),
        Part("body", box(22, 26, 70, 82, 7)),
        Part("trim", box(19, 20, 73, 30, 4)),
    ]


def clock() -> list[Part]:
    """An alarm clock with two bells, on two feet."""
    return [
        Part("trim", ellipse(27, 21, 12, 10)),
        Part("trim", ellipse(73, 21, 12, 10)),
        Part("ink", bar(30, 78, 22, 91, 6)),
        Part("ink", bar(70, 78, 78, 91, 6)),
        Part("body", ellipse(50, 52, 37, 37)),
        Part("light", ellipse(50, 45, 20, 20)),
        Part("ink", bar(50, 47, 50, 30, 4)),
        Part("ink", bar(49, 45, 62, 50, 4)),
    ]


def backpack() -> list[Part]:
    """A backpack with a handle, three pockets and a zip."""
    return [
        Part("trim", arc(50, 20, 12, 10, 180, 360, 6)),
        Part("trim", box(13, 46, 27, 80, 6)),
        Part("trim", box(73, 46, 87, 80, 6)),
        Part("body", box(22, 18, 78, 88, 18)),
        Part("trim", box(32, 60, 68, 82, 5)),
        Part("ink", bar(38, 66, 62, 66, 3)),
    ]


def teapot() -> list[Part]:
    """A teapot with spout, handle and lid."""
    return [
        Part("trim", arc(22, 56, 14, 15, 70, 290, 7)),
        Part("trim", [(66, 62), (84, 30), (96, 32), (92, 40), (74, 76)]),
        Part("body", ellipse(46, 58, 31, 26)),
        Part("trim", ellipse(46, 34, 17, 5)),
        Part("trim", ellipse(46, 26, 6, 6)),
    ]


def bird() -> list[Part]:
    """A bird on two legs, seen from the side."""
    return [
        Part("ink", bar(42, 74, 40, 93, 4)),
        Part("ink", bar(54, 74, 56, 93, 4)),
        Part("trim", [(22, 50), (2, 40), (5, 60)]),
        Part("trim", [(80, 28), (98, 35), (80, 42)]),
        Part("body", ellipse(44, 57, 32, 23)),
        Part("body", ellipse(69, 34, 17, 17)),
        Part("trim", [(18, 50), (44, 46), (36, 70), (26, 64)]),
        Part("light", ellipse(73, 31, 5, 5)),
        Part("ink", ellipse(74, 31, 2.5, 2.5)),
    ]


def car() -> list[Part]:
    """A car with two windows and two wheels, seen from the side."""
    return [
        Part("body", [(24, 48), (36, 24), (66, 24), (82, 48)]),
        Part("trim", [(32, 47), (40, 30), (50, 30), (50, 47)]),
        Part("trim", [(54, 47), (54, 30), (63, 30), (72, 47)]),
        Part("body", box(5, 46, 95, 74, 9)),
        Part("ink", ellipse(26, 74, 13, 13)),
        Part("ink", ellipse(74, 74, 13, 13)),
        Part("light", ellipse(26, 74, 5, 5)),
        Part("light", ellipse(74, 74, 5, 5)),
    ]


def bear() -> list[Part]:
    """A sitting teddy bear."""
    return [
        Part("body", ellipse(28, 18, 12, 12)),
        Part("body", ellipse(72, 18, 12, 12)),
        Part("body", ellipse(22, 66, 9, 15)),
        Part("body", ellipse(78, 66, 9, 15)),
        Part("trim", ellipse(33, 92, 12, 7)),
        Part("trim", ellipse(67, 92, 12, 7)),
        Part("body", ellipse(50, 72, 27, 22)),
        Part("body", ellipse(50, 34, 29, 24)),
        Part("trim", ellipse(50, 43, 12, 9)),
        Part("ink", ellipse(50, 39, 5, 4)),
        Part("light", ellipse(38, 29, 6, 6)),
        Part("light", ellipse(62, 29, 6, 6)),
        Part("ink", ellipse(39, 29, 2.5, 2.5)),
        Part("ink", ellipse(61, 29, 2.5, 2.5)),
    ]


def sneaker() -> list[Part]:
    """A laced high sneaker, seen from the side."""
    return [
        Part("body", [(8, 26), (36, 24), (54, 48), (80, 52), (94, 62), (95, 76), (6, 76)]),
        Part("trim", box(4, 72, 97, 85, 5)),
        Part("trim", [(80, 52), (94, 62), (95, 73), (76, 73)]),
        Part("light", bar(35, 40, 48, 30, 4)),
        Part("light", bar(42, 49, 55, 39, 4)),
        Part("light", bar(50, 56, 62, 46, 4)),
    ]


def sunglasses() -> list[Part]:
    """Sunglasses, seen from the front."""
    return [
        Part("trim", bar(12, 42, 2, 22, 7)),
        Part("trim", bar(88, 42, 98, 22, 7)),
        Part("trim", box(40, 40, 60, 50, 3)),
        Part("body", box(5, 34, 46, 72, 15)),
        Part("body", box(54, 34, 95, 72, 15)),
    ]


def lamp() -> list[Part]:
    """A table lamp with a pull switch."""
    return [
        Part("trim", box(45, 54, 55, 86, 2)),
        Part("trim", ellipse(50, 87, 22, 7)),
        Part("ink", bar(68, 56, 68, 72, 3)),
        Part("body", [(33, 10), (67, 10), (88, 58), (12, 58)]),
    ]


def umbrella() -> list[Part]:
    """An open umbrella with a hooked handle."""
    scallops = [point for x in (82, 66, 50, 34, 18) for point in ellipse(x, 52, 8, 6, 180, 360)[::-1]]
    return [
        Part("trim", bar(50, 6, 50, 16, 5)),
        Part("trim", bar(50, 46, 50, 86, 6)),
        Part("trim", arc(59, 84, 9, 9, 0, 180, 6)),
        Part("body", ellipse(50, 52, 40, 40, 180, 360) + scallops),
    ]


def fish() -> list[Part]:
    """A fish with two fins and a tail."""
    return [
        Part("trim", [(68, 50), (96, 26), (90, 50), (96, 74)]),
        Part("trim", [(34, 34), (52, 12), (64, 36)]),
        Part("trim", [(40, 66), (52, 86), (58, 66)]),
        Part("body", ellipse(42, 50, 36, 24)),
        Part("light", ellipse(19, 44, 5.5, 5.5)),
        Part("ink", ellipse(18, 44, 3, 3)),
    ]


def star() -> list[Point]:
    """A star of five points, within [-1, 1]."""
    radii = [1.0, 0.45] * 5
    return [(r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5)) for i, r in enumerate(radii)]


def heart() -> list[Point]:
    """A heart, within [-1, 1]."""
    angles = [2 * math.pi * i / 32 for i in range(32)]
    return [
        (math.sin(a) ** 3, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16)
        for a in angles
    ]


def diamond() -> list[Point]:
    """A diamond, a little taller than wide."""
    return [(0, -1.1), (0.8, 0), (0, 1.1), (-0.8, 0)]


DRAWINGS: dict[str, Callable[[], list[Part]]] = {
    function.__name__: function
    for function in (mug, clock, backpack, teapot, bird, car, bear, sneaker, sunglasses, lamp, umbrella, fish)
}

# The anchor is the free spot of each body where one is drawn.
EMBLEMS: dict[str, Callable[[], list[Point]]] = {function.__name__: function for function in (star, heart, diamond)}
EMBLEM_ANCHORS: dict[str, Point] = {
    "mug": (46, 56),
    "clock": (50, 78),
    "backpack": (50, 40),
    "teapot": (46, 61),
    "bird": (57, 61),
    "car": (50, 60),
    "bear": (50, 74),
    "sneaker": (24, 56),
    "sunglasses": (26, 54),
    "lamp": (50, 38),
    "umbrella": (50, 32),
    "fish": (47, 52),
}
