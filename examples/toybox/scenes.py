"""Scenes: a few toys side by side in one picture, to choose one of them with a click."""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from world import BACKGROUNDS, CATEGORIES, Toy, random_toy, render_foreground

SCENE_SIZE = 128
# Sides of a toy's square as a fraction of the picture: 51 to 69 pixels of 128, filled to about 85 %; four are smaller.
TOY_SCALES = {1: (0.4, 0.95), 2: (0.42, 0.54), 3: (0.4, 0.52), 4: (0.38, 0.47)}
# Centers of two toys are at least this far apart, across or down, as a fraction of their mean side. What they carry
# sticks out of their squares, so neighbours still touch or overlap by a few pixels now and then.
MIN_DISTANCE = 0.92
PLACEMENT_TRIES = 50


@dataclass(frozen=True)
class Scene:
    """Toys on one background; later toys are in front of earlier ones.

    Attributes:
        toys: Toys of different categories, all with the background of the scene. Their `scale` and `offset` are
            relative to the picture of the scene.
    """

    toys: tuple[Toy, ...]

    @property
    def background(self) -> str:
        """One of `BACKGROUNDS`."""
        return self.toys[0].background


def random_scene(rng: random.Random, num_toys: int | None = None) -> Scene:
    """Draw a scene of `num_toys` (default: two to four) at random; equal generators give equal scenes."""
    num_toys = num_toys or rng.choice((2, 3, 4))
    categories = rng.sample(CATEGORIES, num_toys)
    return arrange([random_toy(rng, category) for category in categories], rng)


def arrange(toys: list[Toy], rng: random.Random) -> Scene:
    """Give toys a common background, and sizes and places where they do not hide each other."""
    background = rng.choice(list(BACKGROUNDS))
    while (places := _draw_places(len(toys), rng)) is None:
        pass
    return Scene(
        tuple(
            replace(toy, background=background, scale=scale, offset=(center_x - 0.5, center_y - 0.5))
            for toy, (scale, center_x, center_y) in zip(toys, places, strict=True)
        )
    )


def draw_scene(scene: Scene, size: int = SCENE_SIZE) -> tuple[Image.Image, list[Image.Image]]:
    """Draw a scene and the masks of its toys in one go; see `render_scene` and `render_scene_masks`."""
    picture = Image.new("RGBA", (size, size), (*BACKGROUNDS[scene.background], 255))
    front = np.full((size, size), -1)
    for index, toy in enumerate(scene.toys):
        foreground = render_foreground(toy, size)
        picture = Image.alpha_composite(picture, foreground)
        front[np.asarray(foreground.getchannel("A")) > 127] = index
    masks = [Image.fromarray(np.where(front == index, 255, 0).astype(np.uint8)) for index in range(len(scene.toys))]
    return picture.convert("RGB"), masks


def render_scene(scene: Scene, size: int = SCENE_SIZE) -> Image.Image:
    """Draw a scene.

    Returns:
        An RGB picture of size x size.
    """
    return draw_scene(scene, size)[0]


def render_scene_masks(scene: Scene, size: int = SCENE_SIZE) -> list[Image.Image]:
    """Which pixels of each toy are seen.

    Returns:
        For each toy a picture of mode "L", size x size, 255 where it is seen and 0 elsewhere; they do not overlap.
    """
    return draw_scene(scene, size)[1]


def _draw_places(num_toys: int, rng: random.Random) -> list[tuple[float, float, float]] | None:
    """Scale and center of each toy, or `None` when the first toys left no room for the others."""
    places: list[tuple[float, float, float]] = []
    for _ in range(PLACEMENT_TRIES):
        scale = rng.uniform(*TOY_SCALES[num_toys])
        center_x, center_y = (rng.uniform(scale / 2, 1 - scale / 2) for _ in range(2))
        if all(
            max(abs(center_x - x), abs(center_y - y)) >= MIN_DISTANCE * (scale + other) / 2 for other, x, y in places
        ):
            places.append((scale, center_x, center_y))
        if len(places) == num_toys:
            return places
    return None
