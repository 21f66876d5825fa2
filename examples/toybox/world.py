"""A small world of drawn toys: what a toy is, how it looks and which pixels it covers."""

import colorsys
import math
import random
from dataclasses import dataclass, fields, replace

from drawings import ACCESSORIES, DRAWINGS, EMBLEM_ANCHORS, EMBLEMS, INK, RGB, Point, box, ellipse
from PIL import Image, ImageDraw

CATEGORIES = tuple(DRAWINGS)
COLORS: dict[str, RGB] = {
    "red": (222, 16, 44),
    "orange": (246, 116, 8),
    "yellow": (252, 222, 24),
    "green": (30, 165, 60),
    "blue": (30, 84, 230),
    "purple": (134, 50, 186),
    "pink": (250, 90, 180),
    "white": (250, 250, 250),
    "black": (26, 26, 30),
}
BODY_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
"""Colors that can be pale, deep or dusty without taking another's name."""
TRIM_COLORS = ("red", "yellow", "green", "blue", "purple", "white", "black")
EMBLEM_COLORS = ("red", "yellow", "green", "blue", "purple", "black")
PATTERN_COLORS = ("white", "black", "yellow")
BACKGROUNDS: dict[str, RGB] = {
    "cream": (255, 232, 170),
    "sky": (140, 203, 255),
    "mint": (146, 232, 172),
    "lavender": (206, 176, 252),
    "gray": (132, 132, 132),
}
PATTERNS = ("plain", "striped", "spotted", "checked")
PLAIN_SHADE = "plain"
SHADES = (PLAIN_SHADE, "pale", "deep", "dusty")
# A pattern that its body would swallow is not drawn.
SWALLOWED = {("pale", "white"), ("deep", "black"), ("pale", "yellow")}

LIGHT: RGB = (250, 250, 250)
OUTLINE_WIDTH = 1.8
EMBLEM_RADIUS, BADGE_RADIUS = 15.5, 19.0
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Toy:
    """One toy on its background. All fields but those of the pose can be told in a caption.

    Attributes:
        category: One of `CATEGORIES`.
        color: Body color, one of `BODY_COLORS`.
        shade: Of the body color, one of `SHADES`.
        pattern: One of `PATTERNS`.
        pattern_color: One of `PATTERN_COLORS`, `None` exactly when the pattern is plain.
        trim: Color of the attached parts (handle, spout, sole, ...), one of `TRIM_COLORS`.
        emblem: Shape on the white badge of its body, one of `EMBLEMS`; `None`: it has no badge.
        emblem_color: One of `EMBLEM_COLORS`, `None` exactly when there is no emblem.
        accessory: What it carries, one of `ACCESSORIES`, or `None`.
        background: One of `BACKGROUNDS`.
        hue_shift: Rotation of body, pattern and trim colors, in turns, about [-0.01, 0.01].
        angle: Rotation in degrees, clockwise.
        scale: Size relative to the picture, about [0.82, 0.9].
        offset: Shift of the center as a fraction of the picture, (right, down).
    """

    category: str
    color: str
    shade: str
    pattern: str
    pattern_color: str | None
    trim: str
    emblem: str | None
    emblem_color: str | None
    accessory: str | None
    background: str
    hue_shift: float = 0.0
    angle: float = 0.0
    scale: float = 0.85
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def identity(self) -> tuple[str, str, str, str | None]:
        """What is held out when a toy is held out: category, body color, pattern and its color."""
        return self.category, self.color, self.pattern, self.pattern_color


DETAILS = tuple(field.name for field in fields(Toy))[:10]
"""What can be told of a toy, the names of its first fields."""


def shown_details(toy: Toy) -> dict[str, str]:
    """What a picture of the toy shows, by the names of `DETAILS`; an emblem that is not there is not shown."""
    looks = {name: getattr(toy, name) for name in DETAILS}
    unseen = {"shade": PLAIN_SHADE, "pattern": "plain"}
    return {name: value for name, value in looks.items() if value is not None and value != unseen.get(name)}


def random_toy(rng: random.Random, category: str | None = None) -> Toy:
    """Draw a toy at random; equal generators give equal toys."""
    color, shade, pattern = rng.choice(BODY_COLORS), rng.choice(SHADES), rng.choice(PATTERNS)
    pattern_colors = [name for name in PATTERN_COLORS if name != color and (shade, name) not in SWALLOWED]
    pattern_color = None if pattern == "plain" else rng.choice(pattern_colors)
    emblem = rng.choice([*EMBLEMS, None, None])
    looks = Toy(
        category=category or rng.choice(CATEGORIES),
        color=color,
        shade=shade,
        pattern=pattern,
        pattern_color=pattern_color,
        trim=rng.choice([name for name in TRIM_COLORS if name != color]),
        emblem=emblem,
        emblem_color=emblem and rng.choice(EMBLEM_COLORS),
        accessory=rng.choice([*ACCESSORIES, None]),
        background=rng.choice(list(BACKGROUNDS)),
        hue_shift=rng.uniform(-0.01, 0.01),
    )
    return random_pose(looks, rng)


def random_pose(toy: Toy, rng: random.Random) -> Toy:
    """Turn, size and shift a toy a little at random."""
    return replace(
        toy,
        angle=rng.uniform(-6, 6),
        scale=rng.uniform(0.82, 0.9),
        offset=(rng.uniform(-0.025, 0.025), rng.uniform(-0.015, 0.035)),
    )


def render_foreground(toy: Toy, size: int = 64) -> Image.Image:
    """Draw the toy alone.

    Returns:
        An RGBA picture of size x size; alpha is 0 where there is no toy.
    """
    canvas_size = size * SUPERSAMPLING
    texture = _texture(toy, canvas_size)
    fills = {"trim": _turn(COLORS[toy.trim], toy.hue_shift), "ink": INK, "light": LIGHT}
    canvas = Image.new("RGBA", (canvas_size, canvas_size))
    draw = ImageDraw.Draw(canvas)

    def fill(outline: list[Point], paint: RGB) -> None:
        points = _place(toy, outline, canvas_size)
        draw.polygon(points, fill=paint)
        _outline(draw, points, toy, canvas_size)

    for part in DRAWINGS[toy.category]():
        if part.role == "body":
            points = _place(toy, part.points, canvas_size)
            stencil = Image.new("L", canvas.size)
            ImageDraw.Draw(stencil).polygon(points, fill=255)
            canvas.paste(texture, mask=stencil)
            _outline(draw, points, toy, canvas_size)
        else:
            fill(part.points, fills[part.role])
    if toy.emblem and toy.emblem_color:
        anchor_x, anchor_y = EMBLEM_ANCHORS[toy.category]
        fill(ellipse(anchor_x, anchor_y, BADGE_RADIUS, BADGE_RADIUS), LIGHT)
        outline = [(anchor_x + EMBLEM_RADIUS * x, anchor_y + EMBLEM_RADIUS * y) for x, y in EMBLEMS[toy.emblem]()]
        fill(outline, COLORS[toy.emblem_color])
    if toy.accessory:
        for piece in ACCESSORIES[toy.accessory]():
            fill(piece.points, piece.fill)
    return canvas.resize((size, size), Image.Resampling.LANCZOS)


def render(toy: Toy, size: int = 64) -> Image.Image:
    """Draw the toy on its background.

    Returns:
        An RGB picture of size x size.
    """
    picture = Image.new("RGBA", (size, size), (*BACKGROUNDS[toy.background], 255))
    return Image.alpha_composite(picture, render_foreground(toy, size)).convert("RGB")


def render_mask(toy: Toy, size: int = 64) -> Image.Image:
    """Which pixels the toy covers.

    Returns:
        A picture of mode "L", size x size, 255 on the toy and 0 elsewhere (soft on the edge).
    """
    return render_foreground(toy, size).getchannel("A")


def _turn(color: RGB, hue_shift: float) -> RGB:
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    red, green, blue = colorsys.hsv_to_rgb((hue + hue_shift) % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _shade(color: RGB, shade: str) -> RGB:
    """Mix a color with white, black or gray."""
    target, share = {"plain": (0, 0.0), "pale": (255, 0.48), "deep": (0, 0.42), "dusty": (150, 0.48)}[shade]
    red, green, blue = (round(channel + share * (target - channel)) for channel in color)
    return red, green, blue


def _place(toy: Toy, points: list[Point], canvas_size: int) -> list[Point]:
    """Move points from the 100 x 100 square of the drawing to pixels of the canvas."""
    cos, sin = math.cos(math.radians(toy.angle)), math.sin(math.radians(toy.angle))
    unit = toy.scale * canvas_size / 100
    center_x, center_y = ((0.5 + shift) * canvas_size for shift in toy.offset)
    placed = []
    for x, y in points:
        x, y = x - 50, y - 50
        placed.append((center_x + unit * (x * cos - y * sin), center_y + unit * (x * sin + y * cos)))
    return placed


def _outline(draw: ImageDraw.ImageDraw, points: list[Point], toy: Toy, canvas_size: int) -> None:
    width = max(1, round(OUTLINE_WIDTH * toy.scale * canvas_size / 100))
    draw.line([*points, *points[:2]], fill=INK, width=width, joint="curve")


def _texture(toy: Toy, canvas_size: int) -> Image.Image:
    """The body's paint over the whole canvas, with the pattern in the toy's own frame."""
    body = _shade(_turn(COLORS[toy.color], toy.hue_shift), toy.shade)
    texture = Image.new("RGBA", (canvas_size, canvas_size), (*body, 255))
    if toy.pattern_color is None:
        return texture
    draw, fill = ImageDraw.Draw(texture), _turn(COLORS[toy.pattern_color], toy.hue_shift)
    for shape in _pattern_shapes(toy.pattern):
        draw.polygon(_place(toy, shape, canvas_size), fill=fill)
    return texture


def _pattern_shapes(pattern: str) -> list[list[Point]]:
    # Patterns cover less than half of the body, so that its own color stays the one that meets the eye.
    if pattern == "spotted":
        rows = [(row, 4 + 14 * row) for row in range(8)]
        return [ellipse(2 + 18 * (row % 2) / 2 + 18 * i, y, 4.8, 4.8) for row, y in rows for i in range(-1, 7)]
    width = 7.0 if pattern == "striped" else 4.4
    shapes = [box(x, -10, x + width, 110, 0) for x in range(4, 105, 17)]
    if pattern == "checked":
        shapes += [box(-10, y, 110, y + width, 0) for y in range(4, 105, 17)]
    return shapes
