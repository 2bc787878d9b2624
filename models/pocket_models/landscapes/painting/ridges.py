"""Outlines of the land: soft waves and mountain peaks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocket_models.landscapes.painting.canvas import SIZE, Canvas, Colour, Point, blend, colour
from pocket_models.landscapes.painting.palette import Light

_ROCK = colour("7c7a8c")
_SNOW = colour("fbfdff")


def waves(generator: np.random.Generator, y: float, swing: float) -> NDArray[np.float64]:
    """Draw a soft line around height ``y``, ``swing`` pixels up and down: y at SIZE + 1 evenly spaced x."""
    x = np.arange(SIZE + 1) / SIZE * 2 * np.pi
    slow, fast = generator.uniform(0.6, 1.1), generator.uniform(1.4, 2.2)
    first, second = generator.uniform(0, 2 * np.pi, 2)
    return np.asarray(y + swing * (0.7 * np.sin(slow * x + first) + 0.3 * np.sin(fast * x + second)))


def paint_peaks(
    canvas: Canvas, light: Light, generator: np.random.Generator, *, base: float, height: float, snowy: bool
) -> None:
    """Paint a far and a near row of peaks standing on ``base``, the highest about ``height`` pixels tall.

    ``snowy`` puts white caps on the near row, over nearly half of each peak.
    """
    rock = _ROCK + generator.uniform(-0.04, 0.04, 3) + (np.array([0.0, 0.0, 0.06]) if snowy else 0.0)
    # A low sun stays in view: the near row is highest on the side away from it.
    sun = light.disc_centre[0]
    tall, low = (95, 30) if sun < SIZE / 2 else (33, 98)
    far = light.on_ground(rock, 0.5)
    for middle in (12, 50, 84, 120):
        x = middle + float(generator.uniform(-9, 9))
        rise = height * float(generator.uniform(0.5, 0.62))
        _paint_peak(canvas, (x, base - rise), base, rise * 0.95, (far, far * 0.93), None, generator)
    lit = light.on_ground(rock, 0.1)
    sides = (lit, lit * 0.76)
    snow = light.on_snow(_SNOW)
    caps = (snow, blend(snow, lit, 0.35)) if snowy else None
    for middle, part in ((low, 0.66), (64, 0.76), (tall, 1.0)):
        x = middle + float(generator.uniform(-8, 8))
        rise = height * part * float(generator.uniform(0.92, 1.05))
        _paint_peak(canvas, (x, base - rise), base, rise * 0.82, sides, caps, generator)


def _paint_peak(
    canvas: Canvas,
    top: Point,
    base: float,
    half_width: float,
    sides: tuple[Colour, Colour],
    caps: tuple[Colour, Colour] | None,
    generator: np.random.Generator,
) -> None:
    x, y = top
    fold = x + float(generator.uniform(-0.12, 0.12)) * half_width
    canvas.polygon([top, (x - half_width, base), (fold, base)], sides[0])
    canvas.polygon([top, (fold, base), (x + half_width, base)], sides[1])
    if caps is not None:
        # The snow line: a zigzag whose ends lie on the peak's edges.
        down = 0.46 * (base - y)
        across = 0.46 * half_width
        middle = x + (fold - x) * 0.5
        edge = y + down
        canvas.polygon(
            [top, (x - across, edge), (x - across * 0.5, edge - down * 0.3), (middle, edge + down * 0.12)], caps[0]
        )
        canvas.polygon(
            [top, (middle, edge + down * 0.12), (x + across * 0.5, edge - down * 0.3), (x + across, edge)], caps[1]
        )
