"""The outlines of the toys: every toy is a list of filled polygons in a square of 100 x 100 units, y pointing down."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
RGB = tuple[int, int, int]
Role = Literal["body", "trim", "ink", "light"]


INK: RGB = (44, 42, 46)


@dataclass(frozen=True)
class Part:
    """One filled polygon; its role decides the paint (the body carries the pattern)."""

    role: Role
    points: list[Point]


@dataclass(frozen=True)
class Accessory:
    """One filled polygon of what a toy carries, in a colour of its own: it is the same on every toy."""

    fill: RGB
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
        Part("trim", arc(73, 52, 15, 17, -100, 100, 9)),
        Part("body", box(16, 24, 74, 86, 7)),
        Part("trim", box(13, 18, 77, 30, 4)),
    ]


def clock() -> list[Part]:
    """An alarm clock with two bells, on two feet."""
    return [
        Part("trim", ellipse(25, 21, 15, 12)),
        Part("trim", ellipse(75, 21, 15, 12)),
        Part("trim", bar(28, 78, 20, 93, 9)),
        Part("trim", bar(72, 78, 80, 93, 9)),
        Part("body", ellipse(50, 53, 38, 38)),
        Part("light", ellipse(50, 32, 13, 13)),
        Part("ink", bar(50, 33, 50, 22, 3.5)),
        Part("ink", bar(49, 32, 58, 35, 3.5)),
    ]


def backpack() -> list[Part]:
    """A backpack with a handle, three pockets and a zip."""
    return [
        Part("trim", arc(50, 20, 13, 11, 180, 360, 8)),
        Part("trim", box(8, 44, 26, 82, 6)),
        Part("trim", box(74, 44, 92, 82, 6)),
        Part("body", box(19, 16, 81, 92, 18)),
        Part("trim", box(28, 66, 72, 86, 5)),
        Part("ink", bar(38, 72, 62, 72, 3)),
    ]


def teapot() -> list[Part]:
    """A teapot with spout, handle and lid."""
    return [
        Part("trim", arc(21, 56, 14, 15, 70, 290, 9)),
        Part("trim", [(66, 66), (82, 28), (98, 30), (93, 42), (76, 80)]),
        Part("body", ellipse(46, 59, 33, 29)),
        Part("trim", ellipse(46, 32, 20, 6)),
        Part("trim", ellipse(46, 22, 8, 8)),
    ]


def bird() -> list[Part]:
    """A bird on two legs, seen from the side."""
    return [
        Part("ink", bar(42, 76, 40, 95, 4)),
        Part("ink", bar(56, 76, 58, 95, 4)),
        Part("trim", [(20, 54), (0, 38), (3, 66)]),
        Part("trim", [(80, 26), (100, 35), (80, 44)]),
        Part("body", ellipse(46, 58, 36, 25)),
        Part("body", ellipse(70, 34, 17, 17)),
        Part("trim", [(10, 48), (36, 44), (30, 74), (16, 68)]),
        Part("light", ellipse(74, 31, 5, 5)),
        Part("ink", ellipse(75, 31, 2.5, 2.5)),
    ]


def car() -> list[Part]:
    """A car with two windows and two wheels, seen from the side."""
    return [
        Part("body", [(22, 42), (34, 14), (66, 14), (82, 42)]),
        Part("trim", [(29, 41), (38, 20), (49, 20), (49, 41)]),
        Part("trim", [(53, 41), (53, 20), (63, 20), (74, 41)]),
        Part("body", box(4, 40, 96, 78, 9)),
        Part("ink", ellipse(21, 78, 13, 13)),
        Part("ink", ellipse(79, 78, 13, 13)),
        Part("trim", ellipse(21, 78, 7, 7)),
        Part("trim", ellipse(79, 78, 7, 7)),
    ]


def bear() -> list[Part]:
    """A sitting teddy bear."""
    return [
        Part("body", ellipse(28, 17, 12, 12)),
        Part("body", ellipse(72, 17, 12, 12)),
        Part("body", ellipse(19, 66, 9, 15)),
        Part("body", ellipse(81, 66, 9, 15)),
        Part("trim", ellipse(30, 92, 15, 8)),
        Part("trim", ellipse(70, 92, 15, 8)),
        Part("body", ellipse(50, 71, 28, 24)),
        Part("body", ellipse(50, 32, 29, 23)),
        Part("trim", ellipse(50, 41, 14, 10)),
        Part("ink", ellipse(50, 37, 5, 4)),
        Part("light", ellipse(37, 27, 6, 6)),
        Part("light", ellipse(63, 27, 6, 6)),
        Part("ink", ellipse(38, 27, 2.5, 2.5)),
        Part("ink", ellipse(62, 27, 2.5, 2.5)),
    ]


def sneaker() -> list[Part]:
    """A laced high sneaker, seen from the side."""
    return [
        Part("body", [(6, 22), (44, 20), (60, 46), (82, 50), (95, 60), (96, 78), (4, 78)]),
        Part("trim", box(2, 72, 98, 88, 5)),
        Part("trim", [(78, 50), (95, 60), (96, 74), (74, 74)]),
        Part("light", bar(43, 40, 54, 30, 4)),
        Part("light", bar(50, 50, 62, 40, 4)),
        Part("light", bar(58, 58, 70, 48, 4)),
    ]


def sunglasses() -> list[Part]:
    """Sunglasses, seen from the front."""
    return [
        Part("trim", bar(11, 42, 3, 18, 10)),
        Part("trim", bar(89, 42, 97, 18, 10)),
        Part("trim", box(36, 38, 64, 52, 3)),
        Part("body", box(2, 32, 46, 76, 15)),
        Part("body", box(54, 32, 98, 76, 15)),
    ]


def lamp() -> list[Part]:
    """A table lamp with a pull switch."""
    return [
        Part("trim", box(43, 56, 57, 88, 2)),
        Part("trim", ellipse(50, 88, 26, 8)),
        Part("ink", bar(72, 58, 72, 74, 3)),
        Part("body", [(30, 8), (70, 8), (91, 60), (9, 60)]),
    ]


def umbrella() -> list[Part]:
    """An open umbrella with a hooked handle."""
    scallops = [point for x in (83.6, 66.8, 50, 33.2, 16.4) for point in ellipse(x, 54, 8.4, 6, 180, 360)[::-1]]
    return [
        Part("trim", bar(50, 2, 50, 14, 8)),
        Part("trim", bar(50, 48, 50, 84, 9)),
        Part("trim", arc(61, 82, 11, 11, 0, 180, 9)),
        Part("body", ellipse(50, 54, 42, 43, 180, 360) + scallops),
    ]


def fish() -> list[Part]:
    """A fish with two fins and a tail."""
    return [
        Part("trim", [(70, 50), (98, 24), (91, 50), (98, 76)]),
        Part("trim", [(32, 32), (54, 8), (68, 36)]),
        Part("trim", [(40, 68), (54, 92), (62, 66)]),
        Part("body", ellipse(42, 50, 38, 27)),
        Part("light", ellipse(16, 43, 5.5, 5.5)),
        Part("ink", ellipse(15, 43, 3, 3)),
    ]


def star() -> list[Point]:
    """A star of five points, within [-1, 1]."""
    radii = [1.05, 0.45] * 5
    return [(r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5)) for i, r in enumerate(radii)]


def heart() -> list[Point]:
    """A heart, within [-1, 1]."""
    angles = [2 * math.pi * i / 32 for i in range(32)]
    return [
        (math.sin(a) ** 3, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16)
        for a in angles
    ]


def moon() -> list[Point]:
    """A crescent, open to the right."""
    return ellipse(0, 0, 1, 1, 50, 310) + ellipse(0.5, 0, 0.77, 0.77, 80, 280)[::-1]


def cross() -> list[Point]:
    """An upright cross with four equal arms."""
    arm = 0.36
    corner = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    quarters = [corner, [(-y, x) for x, y in corner], [(-x, -y) for x, y in corner], [(y, -x) for x, y in corner]]
    return [point for quarter in quarters for point in quarter]


def triangle() -> list[Point]:
    """A triangle that points up."""
    return [(0, -1), (1, 0.8), (-1, 0.8)]


def ring() -> list[Point]:
    """A ring; what it lies on is seen in its middle."""
    return arc(0, 0, 0.75, 0.75, 0, 360, 0.5)


def balloon() -> list[Accessory]:
    """A balloon on a string."""
    return [Accessory(INK, bar(86, 22, 78, 44, 2.5)), Accessory((240, 60, 130), ellipse(87, 12, 12, 13))]


def flag() -> list[Accessory]:
    """A flag on a pole."""
    return [Accessory(INK, bar(74, -2, 74, 44, 4)), Accessory((60, 200, 200), box(75, -1, 99, 19, 1))]


def bow() -> list[Accessory]:
    """A bow with a knot."""
    return [
        Accessory((250, 200, 80), [(85, 12), (70, 0), (70, 25)]),
        Accessory((250, 200, 80), [(85, 12), (100, 0), (100, 25)]),
        Accessory((250, 200, 80), ellipse(85, 12.5, 5, 5)),
    ]


DRAWINGS: dict[str, Callable[[], list[Part]]] = {
    function.__name__: function
    for function in (mug, clock, backpack, teapot, bird, car, bear, sneaker, sunglasses, lamp, umbrella, fish)
}

EMBLEMS: dict[str, Callable[[], list[Point]]] = {
    function.__name__: function for function in (star, heart, moon, cross, triangle, ring)
}
# The anchor is the free spot of each body where one is drawn.
EMBLEM_ANCHORS: dict[str, Point] = {
    "mug": (45, 58),
    "clock": (50, 68),
    "backpack": (50, 44),
    "teapot": (46, 62),
    "bird": (56, 60),
    "car": (50, 59),
    "bear": (50, 74),
    "sneaker": (24, 50),
    "sunglasses": (24, 54),
    "lamp": (50, 40),
    "umbrella": (50, 34),
    "fish": (47, 51),
}

ACCESSORIES: dict[str, Callable[[], list[Accessory]]] = {
    function.__name__: function for function in (balloon, flag, bow)
}
