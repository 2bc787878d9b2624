"""The one object a scene may have, big enough to survive an eightfold reduction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pocket_models.landscapes.painting.canvas import Canvas, Colour, Point, colour
from pocket_models.landscapes.painting.palette import Light


def paint_thing(canvas: Canvas, thing: str, light: Light, place: Point, generator: np.random.Generator) -> None:
    """Paint a thing at ``place``: its foot (bottom centre), or the centre of a balloon's envelope."""
    paint: dict[str, Callable[..., None]] = {
        "house": _house,
        "sailboat": _sailboat,
        "cactus": _cactus,
        "balloon": _balloon,
    }
    paint[thing](canvas, light, place, generator)


def _chosen(generator: np.random.Generator, *codes: str) -> Colour:
    return colour(codes[int(generator.integers(len(codes)))])


def _house(canvas: Canvas, light: Light, place: Point, generator: np.random.Generator) -> None:
    x, y = place
    half = float(generator.uniform(14, 16))
    wall = _chosen(generator, "fff4dc", "ffe9c2", "f7f3ee") * light.thing
    roof = _chosen(generator, "c8402f", "b5352f", "d1502f") * light.thing
    pane = colour("ffd75e") if light.windows_lit else colour("7fb4d6")
    canvas.box(x + half * 0.4, y - 33, x + half * 0.4 + 5, y - 20, roof * 0.75)
    canvas.box(x - half, y - 19, x + half, y, wall)
    canvas.polygon([(x - half - 3.5, y - 18), (x, y - 34), (x + half + 3.5, y - 18)], roof)
    canvas.box(x - 3.2, y - 12, x + 3.2, y, colour("7a4a2c") * light.thing)
    for left in (x - half + 2.8, x + half - 8.3):
        canvas.box(left, y - 14, left + 5.5, y - 7.5, pane)


def _sailboat(canvas: Canvas, light: Light, place: Point, generator: np.random.Generator) -> None:
    x, y = place
    side = 1.0 if generator.random() < 0.5 else -1.0
    hull = _chosen(generator, "8a4a2b", "7b3f2a", "9a5530") * light.thing
    jib = _chosen(generator, "e0483a", "d8403a", "e8583c") * light.thing
    canvas.polygon([(x - 17, y - 8), (x + 17, y - 8), (x + 11, y), (x - 11, y)], hull)
    canvas.box(x - 1, y - 39, x + 1, y - 8, colour("5a3a24") * light.thing)
    canvas.polygon(
        [(x + side * 2, y - 38), (x + side * 2, y - 10.5), (x + side * 17, y - 10.5)], colour("ffffff") * light.thing
    )
    canvas.polygon([(x - side * 2, y - 33), (x - side * 2, y - 10.5), (x - side * 13, y - 10.5)], jib)


def _cactus(canvas: Canvas, light: Light, place: Point, generator: np.random.Generator) -> None:
    x, y = place
    green = _chosen(generator, "2f8f4a", "2a8450", "38954a") * light.thing
    tall = float(generator.uniform(37, 41))
    _paint_stem(canvas, x, y - tall, y, 4.6, green)
    for side, low, high in ((-1.0, 16.0, 28.0), (1.0, 12.0, 25.0)):
        arm = x + side * 11
        canvas.box(min(x, arm), y - low - 5.5, max(x, arm), y - low, green)
        canvas.ellipse((arm, y - low - 2.8), (2.8, 2.8), green)
        _paint_stem(canvas, arm, y - high, y - low - 2.5, 2.8, green)
    canvas.box(x - 1.8, y - tall + 3, x - 0.4, y - 1, green * 0.75)


def _paint_stem(canvas: Canvas, x: float, top: float, bottom: float, half: float, fill: Colour) -> None:
    canvas.ellipse((x, top + half), (half, half), fill)
    canvas.box(x - half, top + half, x + half, bottom, fill)


def _balloon(canvas: Canvas, light: Light, place: Point, generator: np.random.Generator) -> None:
    x, y = place
    red = _chosen(generator, "e23b3b", "d93a4a", "e8482f") * light.thing
    stripe = _chosen(generator, "ffd34d", "ffe08a", "fff1d6") * light.thing
    radius = float(generator.uniform(14.5, 16))
    canvas.polygon(
        [
            (x - radius * 0.86, y + radius * 0.5),
            (x + radius * 0.86, y + radius * 0.5),
            (x + 3.6, y + radius * 1.35),
            (x - 3.6, y + radius * 1.35),
        ],
        red,
    )
    canvas.ellipse((x, y), (radius, radius), red)
    canvas.ellipse((x, y), (radius * 0.62, radius), stripe)
    canvas.polygon(
        [
            (x - radius * 0.54, y + radius * 0.5),
            (x + radius * 0.54, y + radius * 0.5),
            (x + 2.4, y + radius * 1.35),
            (x - 2.4, y + radius * 1.35),
        ],
        stripe,
    )
    canvas.ellipse((x, y), (radius * 0.26, radius), red)
    canvas.box(x - 1.4, y + radius * 0.5, x + 1.4, y + radius * 1.35, red)
    canvas.box(x - 4, y + radius * 1.35 + 2, x + 4, y + radius * 1.35 + 8, colour("8a5a32") * light.thing)
    for rope in (-3.4, 2.6):
        canvas.box(x + rope, y + radius * 1.35, x + rope + 0.8, y + radius * 1.35 + 2, colour("5a3a24") * light.thing)
