"""A small world of drawn toys: what a toy is, what it is called, how it looks and which pixels it covers."""

import colorsys
import math
import random
from dataclasses import dataclass

from drawings import DRAWINGS, EMBLEM_ANCHORS, EMBLEMS, Point, box, ellipse
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]

CATEGORIES = tuple(DRAWINGS)
COLORS: dict[str, RGB] = {
    "red": (214, 30, 38),
    "orange": (245, 132, 20),
    "yellow": (250, 216, 40),
    "green": (40, 158, 60),
    "blue": (36, 84, 225),
    "purple": (132, 52, 176),
    "pink": (255, 140, 190),
    "brown": (118, 72, 38),
    "black": (38, 38, 42),
    "white": (246, 246, 246),
}
BACKGROUNDS: dict[str, RGB] = {
    "cream": (255, 240, 205),
    "sky": (190, 226, 255),
    "mint": (196, 240, 212),
    "lavender": (222, 208, 248),
    "gray": (186, 186, 186),
}
# The word a caption uses for each pattern; a plain toy has none.
PATTERN_WORDS = {"striped": "stripes", "spotted": "spots", "checked": "checks"}
PATTERNS = ("plain", *PATTERN_WORDS)
PLURAL_CATEGORIES = frozenset({"sunglasses"})

INK: RGB = (44, 42, 46)
LIGHT: RGB = (250, 250, 250)
OUTLINE_WIDTH = 1.8
EMBLEM_RADIUS = 8.5
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Toy:
    """One toy. The first six fields can be told in a caption, the others only be seen.

    Attributes:
        category: One of `CATEGORIES`.
        color: Body color, one of `COLORS`.
        pattern: One of `PATTERNS`.
        pattern_color: Color of the pattern, `None` exactly when the pattern is plain.
        trim: Color of the attached parts (handle, spout, sole, ...).
        background: One of `BACKGROUNDS`.
        hue_shift: Rotation of every color of the toy, in turns, about [-0.02, 0.02].
        brightness: Factor on every color of the toy, about [0.85, 1.0].
        angle: Rotation in degrees, clockwise.
        scale: Size relative to the picture, about [0.8, 0.95].
        offset: Shift of the center as a fraction of the picture, (right, down).
        flip: Whether the toy is mirrored.
        emblem: One of `EMBLEMS`, or `None`.
    """

    category: str
    color: str
    pattern: str
    pattern_color: str | None
    trim: str
    background: str
    hue_shift: float = 0.0
    brightness: float = 1.0
    angle: float = 0.0
    scale: float = 0.85
    offset: tuple[float, float] = (0.0, 0.0)
    flip: bool = False
    emblem: str | None = None

    @property
    def identity(self) -> tuple[str, str, str, str | None]:
        """What is held out when a toy is held out: category, body color, pattern and its color."""
        return self.category, self.color, self.pattern, self.pattern_color


def random_toy(rng: random.Random, category: str | None = None) -> Toy:
    """Draw a toy at random; equal generators give equal toys."""
    category = category or rng.choice(CATEGORIES)
    color, pattern_color = rng.sample(list(COLORS), 2)
    pattern = rng.choice(PATTERNS)
    return Toy(
        category=category,
        color=color,
        pattern=pattern,
        pattern_color=None if pattern == "plain" else pattern_color,
        trim=rng.choice([name for name in COLORS if name != color]),
        background=rng.choice(list(BACKGROUNDS)),
        hue_shift=rng.uniform(-0.02, 0.02),
        brightness=rng.uniform(0.85, 1.0),
        angle=rng.uniform(-15, 15),
        scale=rng.uniform(0.8, 0.95),
        offset=(rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06)),
        flip=rng.random() < 0.5,
        emblem=rng.choice([None, *EMBLEMS]),
    )


def describe(
    toy: Toy, *, color: bool = True, pattern: bool = True, trim: bool = False, background: bool = False
) -> str:
    """The words for a toy without an article: "red mug with white stripes and blue trim on a sky background"."""
    words = f"{toy.color} {toy.category}" if color else toy.category
    details = []
    if pattern and toy.pattern in PATTERN_WORDS:
        details.append(f"{toy.pattern_color} {PATTERN_WORDS[toy.pattern]}")
    if trim:
        details.append(f"{toy.trim} trim")
    if details:
        words += f" with {' and '.join(details)}"
    return f"{words} on a {toy.background} background" if background else words


def with_article(words: str, toy: Toy) -> str:
    """Put "a" or "an" before the words; plural categories take no article."""
    if toy.category in PLURAL_CATEGORIES:
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(
    toy: Toy, *, color: bool = True, pattern: bool = True, trim: bool = False, background: bool = False
) -> str:
    """The sentence for a toy: "an orange umbrella", "a red mug with white stripes"."""
    return with_article(describe(toy, color=color, pattern=pattern, trim=trim, background=background), toy)


def render_foreground(toy: Toy, size: int = 64) -> Image.Image:
    """Draw the toy alone.

    Returns:
        An RGBA picture of size x size; alpha is 0 where there is no toy.
    """
    canvas_size = size * SUPERSAMPLING
    texture = _texture(toy, canvas_size)
    fills = {"trim": _paint(toy, COLORS[toy.trim]), "ink": INK, "light": LIGHT}
    canvas = Image.new("RGBA", (canvas_size, canvas_size))
    draw = ImageDraw.Draw(canvas)

    for part in DRAWINGS[toy.category]():
        points = _place(toy, part.points, canvas_size)
        if part.role == "body":
            stencil = Image.new("L", canvas.size)
            ImageDraw.Draw(stencil).polygon(points, fill=255)
            canvas.paste(texture, mask=stencil)
        else:
            draw.polygon(points, fill=fills[part.role])
        _outline(draw, points, toy, canvas_size)
    if toy.emblem:
        anchor_x, anchor_y = EMBLEM_ANCHORS[toy.category]
        outline = EMBLEMS[toy.emblem]()
        emblem = [(anchor_x + EMBLEM_RADIUS * x, anchor_y + EMBLEM_RADIUS * y) for x, y in outline]
        points = _place(toy, emblem, canvas_size)
        draw.polygon(points, fill=LIGHT)
        _outline(draw, points, toy, canvas_size)
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


def _paint(toy: Toy, color: RGB) -> RGB:
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    red, green, blue = colorsys.hsv_to_rgb((hue + toy.hue_shift) % 1, saturation, value * toy.brightness)
    return round(red * 255), round(green * 255), round(blue * 255)


def _place(toy: Toy, points: list[Point], canvas_size: int) -> list[Point]:
    """Move points from the 100 x 100 square of the drawing to pixels of the canvas."""
    cos, sin = math.cos(math.radians(toy.angle)), math.sin(math.radians(toy.angle))
    unit = toy.scale * canvas_size / 100
    center_x, center_y = ((0.5 + shift) * canvas_size for shift in toy.offset)
    placed = []
    for x, y in points:
        x, y = (50 - x if toy.flip else x - 50), y - 50
        placed.append((center_x + unit * (x * cos - y * sin), center_y + unit * (x * sin + y * cos)))
    return placed


def _outline(draw: ImageDraw.ImageDraw, points: list[Point], toy: Toy, canvas_size: int) -> None:
    width = max(1, round(OUTLINE_WIDTH * toy.scale * canvas_size / 100))
    draw.line([*points, *points[:2]], fill=INK, width=width, joint="curve")


def _texture(toy: Toy, canvas_size: int) -> Image.Image:
    """The body's paint over the whole canvas, with the pattern in the toy's own frame."""
    texture = Image.new("RGBA", (canvas_size, canvas_size), (*_paint(toy, COLORS[toy.color]), 255))
    if toy.pattern_color is None:
        return texture
    draw, fill = ImageDraw.Draw(texture), _paint(toy, COLORS[toy.pattern_color])
    for shape in _pattern_shapes(toy.pattern):
        draw.polygon(_place(toy, shape, canvas_size), fill=fill)
    return texture


def _pattern_shapes(pattern: str) -> list[list[Point]]:
    # Patterns cover less than half of the body, so that its own color stays the one that meets the eye.
    if pattern == "spotted":
        rows = [(row, 2 + 15 * row) for row in range(7)]
        return [ellipse(2 + 15 * (row % 2) / 2 + 15 * i, y, 4.4, 4.4) for row, y in rows for i in range(-1, 7)]
    width = 5.5 if pattern == "striped" else 3.4
    shapes = [box(x, -10, x + width, 110, 0) for x in range(4, 100, 15)]
    if pattern == "checked":
        shapes += [box(-10, y, 110, y + width, 0) for y in range(4, 100, 15)]
    return shapes
