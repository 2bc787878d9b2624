"""What stands, sails or floats in a scene, big enough to survive an eightfold reduction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pocket_models.landscapes.painting.canvas import Canvas, Colour, Point, blend, colour
from pocket_models.landscapes.painting.land import Ground
from pocket_models.landscapes.painting.palette import Light
from pocket_models.landscapes.painting.spots import Spot
from pocket_models.landscapes.scenes import Scene

_PAINTS = {"red": colour("dd4238"), "blue": colour("3d77d6"), "yellow": colour("f5c738")}
_WOOD, _CREAM, _WHITE = colour("8a4f2c"), colour("fff1d6"), colour("ffffff")
_LAMP = colour("ffd75e")


@dataclass(frozen=True)
class _Brush:
    """Paints shapes given in a thing's own measures: x from its middle, height above its foot.

    ``paint`` is the colour that was asked for, of things that have one.
    """

    canvas: Canvas
    light: Light
    foot: Point
    scale: float
    paint: Colour
    generator: np.random.Generator

    def at(self, x: float, height: float) -> Point:
        return self.foot[0] + x * self.scale, self.foot[1] - height * self.scale

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self.canvas.polygon([self.at(x, height) for x, height in points], fill * self.light.thing)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self.canvas.box(*self.at(left, top), *self.at(right, bottom), fill * self.light.thing)

    def ellipse(self, x: float, height: float, radii: Point, fill: Colour) -> None:
        rx, ry = radii
        self.canvas.ellipse(self.at(x, height), (rx * self.scale, ry * self.scale), fill * self.light.thing)

    def stroke(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        scaled = [self.at(x, height) for x, height in points]
        self.canvas.stroke(scaled, width * self.scale, fill * self.light.thing)

    def shine(self, x: float, height: float, radius: float, strength: float) -> None:
        self.canvas.glow(self.at(x, height), radius * self.scale, _LAMP, strength)


def paint_things(
    canvas: Canvas,
    scene: Scene,
    light: Light,
    spots: Sequence[Spot],
    ground: Ground,
    generator: np.random.Generator,
) -> None:
    """Paint the scene's thing at every spot: on the ground, or in the sky where it floats."""
    paint: dict[str, Callable[[_Brush], None]] = {
        "house": _house,
        "sailboat": _sailboat,
        "cactus": _cactus,
        "balloon": _balloon,
        "lighthouse": _lighthouse,
        "tent": _tent,
        "birds": _birds,
        "windmill": _windmill,
    }
    for spot in spots:
        y = float(generator.uniform(30, 40)) if scene.thing in ("balloon", "birds") else ground.foot(spot)
        chosen = _PAINTS[scene.colour or "red"]
        paint[str(scene.thing)](_Brush(canvas, light, (spot.x, y), spot.scale, chosen, generator))


def _house(brush: _Brush) -> None:
    roof = colour("6a4550")
    brush.box(6, 33, 11, 20, roof * 0.8)
    brush.box(-15, 19, 15, 0, brush.paint)
    brush.polygon([(-18.5, 18), (0, 34), (18.5, 18)], roof)
    brush.box(-3.5, 12, 3.5, 0, colour("4c3328"))
    pane = _LAMP / brush.light.thing if brush.light.windows_lit else colour("e6f3fb")
    for left in (-11.5, 6):
        brush.box(left, 14.5, left + 5.5, 7.5, pane)


def _sailboat(brush: _Brush) -> None:
    side = 1.0 if brush.generator.random() < 0.5 else -1.0
    brush.polygon([(-17, 8), (17, 8), (11, 0), (-11, 0)], _WOOD)
    brush.box(-1, 39, 1, 8, _WOOD * 0.65)
    brush.polygon([(side * 2, 38), (side * 2, 10.5), (side * 17, 10.5)], brush.paint)
    brush.polygon([(-side * 2, 33), (-side * 2, 10.5), (-side * 13, 10.5)], blend(brush.paint, _WHITE, 0.3))


def _cactus(brush: _Brush) -> None:
    green = colour("2f8f4a")
    tall = float(brush.generator.uniform(36, 41))
    _paint_stem(brush, 0, tall, 0, 4.8, green)
    for side, low, high in ((-1.0, 16.0, 29.0), (1.0, 12.0, 25.0)):
        arm = side * 11
        brush.box(min(0, arm), low + 5.5, max(0, arm), low, green)
        brush.ellipse(arm, low + 2.8, (2.9, 2.9), green)
        _paint_stem(brush, arm, high, low + 2.5, 2.9, green)


def _paint_stem(brush: _Brush, x: float, top: float, bottom: float, half: float, fill: Colour) -> None:
    brush.ellipse(x, top - half, (half, half), fill)
    brush.box(x - half, top - half, x + half, bottom, fill)


def _balloon(brush: _Brush) -> None:
    for half, fill in ((1.0, brush.paint), (0.58, blend(brush.paint, _CREAM, 0.6)), (0.24, brush.paint)):
        brush.ellipse(0, 0, (15 * half, 15), fill)
        brush.polygon([(-12.9 * half, -7.5), (12.9 * half, -7.5), (3.6 * half, -20), (-3.6 * half, -20)], fill)
    brush.box(-4, -22, 4, -28.5, _WOOD)
    for rope in (-3.6, 2.6):
        brush.box(rope, -19.5, rope + 1.0, -22.5, _WOOD * 0.65)


def _lighthouse(brush: _Brush) -> None:
    heights = np.linspace(0, 32, 6)
    halves = np.linspace(8, 5, 6)
    for band in range(5):
        low, high = heights[band], heights[band + 1]
        corners = [(-halves[band], low), (halves[band], low), (halves[band + 1], high), (-halves[band + 1], high)]
        brush.polygon(corners, _PAINTS["red"] if band % 2 else _WHITE)
    brush.box(-6.5, 34, 6.5, 32, colour("3c4254"))
    if brush.light.windows_lit:
        brush.shine(0, 37, 11, 0.75)
    brush.box(-3.8, 40, 3.8, 34, _LAMP / brush.light.thing)
    brush.polygon([(-5.5, 40), (0, 46), (5.5, 40)], _PAINTS["red"] * 0.85)


def _tent(brush: _Brush) -> None:
    brush.polygon([(-21, 0), (-6, 21), (9, 0)], colour("e8823a"))
    brush.polygon([(-12, 0), (-6, 21), (0, 0)], colour("7a3d24"))
    fire = 16.0
    brush.shine(fire, 5, 10, 0.6 if brush.light.windows_lit else 0.35)
    brush.box(fire - 5, 2, fire + 5, 0, colour("5a3a24"))
    flame = colour("ff8a2a") / brush.light.thing
    brush.polygon([(fire - 4, 1.5), (fire - 2, 8), (fire, 5), (fire + 1.5, 11), (fire + 4, 1.5)], flame)
    brush.polygon([(fire - 2, 1.5), (fire + 0.5, 6), (fire + 2.2, 1.5)], colour("ffe27a") / brush.light.thing)


def _birds(brush: _Brush) -> None:
    for x, height in ((0, 0), (-15, -7), (14, -6), (-28, -14), (27, -13)):
        dx, dy = brush.generator.uniform(-2, 2, 2)
        span = float(brush.generator.uniform(5.5, 7))
        wings = [(-span, 2.4), (-span * 0.5, 3.4), (0, 0), (span * 0.5, 3.4), (span, 2.4)]
        brush.stroke([(x + dx + wx, height + dy + wy) for wx, wy in wings], 1.9, colour("2b2f45"))


def _windmill(brush: _Brush) -> None:
    brush.polygon([(-9, 0), (9, 0), (5.5, 27), (-5.5, 27)], _CREAM)
    brush.box(-2.5, 9, 2.5, 0, _WOOD)
    brush.polygon([(-7, 27), (0, 35), (7, 27)], colour("6a4550"))
    turn = float(brush.generator.uniform(0, np.pi / 2))
    for blade in range(4):
        along = np.array([np.cos(turn + blade * np.pi / 2), np.sin(turn + blade * np.pi / 2)])
        across = np.array([-along[1], along[0]])
        corners = [along * 3, along * 21, along * 21 + across * 5, along * 3 + across * 5]
        brush.polygon([(float(x), 29 + float(y)) for x, y in corners], colour("a8735a"))
    brush.ellipse(0, 29, (2, 2), _WOOD)
