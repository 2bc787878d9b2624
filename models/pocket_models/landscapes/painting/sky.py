"""The sky: gradient, sun or moon, stars, clouds."""

from __future__ import annotations

import numpy as np

from pocket_models.landscapes.painting.canvas import SIZE, Canvas, Point, blend, colour
from pocket_models.landscapes.painting.palette import Light
from pocket_models.landscapes.scenes import Scene


def paint_sky(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator) -> Point:
    """Paint the sky over the whole canvas and return where a balloon may float, clear of sun and moon."""
    canvas.gradient(light.sky, bottom=78)
    if light.starry:
        _paint_stars(canvas, generator, count=40 if scene.sky == "clear" else 16)
    canvas.glow(light.disc_centre, light.disc_radius * 1.9, light.disc, strength=0.55 if not light.starry else 0.25)
    canvas.ellipse(light.disc_centre, (light.disc_radius, light.disc_radius), light.disc)
    if light.starry:
        _paint_craters(canvas, light)
    room = _room_beside(light, generator)
    if scene.sky == "cloudy":
        _paint_clouds(canvas, light, generator)
    return room


def _paint_stars(canvas: Canvas, generator: np.random.Generator, count: int) -> None:
    for x, y, size in generator.uniform((1, 1, 0.55), (SIZE - 1, 62, 1.25), (count, 3)).tolist():
        canvas.ellipse((x, y), (size, size), colour("fff9dc"))


def _paint_craters(canvas: Canvas, light: Light) -> None:
    (x, y), radius = light.disc_centre, light.disc_radius
    shade = blend(light.disc, colour("8f93b0"), 0.35)
    for dx, dy, part in ((-0.3, -0.25, 0.24), (0.35, 0.1, 0.3), (-0.15, 0.45, 0.18)):
        canvas.ellipse((x + dx * radius, y + dy * radius), (part * radius, part * radius), shade)


def _room_beside(light: Light, generator: np.random.Generator) -> Point:
    sun = light.disc_centre[0]
    left, right = (sun + 30, SIZE - 19) if sun < SIZE / 2 else (19, sun - 30)
    return float(generator.uniform(left, right)), float(generator.uniform(25, 33))


def _paint_clouds(canvas: Canvas, light: Light, generator: np.random.Generator) -> None:
    count = int(generator.integers(4, 6))
    for index in range(count):
        x = (index + 0.5 + generator.uniform(-0.3, 0.3)) * SIZE / count
        y = generator.uniform(9, 20) if index % 2 else generator.uniform(24, 38)
        _paint_cloud(canvas, (x, y), float(generator.uniform(9, 12.5)), light, generator)


def _paint_cloud(canvas: Canvas, centre: Point, size: float, light: Light, generator: np.random.Generator) -> None:
    x, y = centre
    puffs = [(-1.25, 0.12, 0.62), (-0.5, -0.3, 0.82), (0.4, -0.42, 0.92), (1.2, 0.08, 0.66)]
    puffs = [(dx + generator.uniform(-0.12, 0.12), dy, part) for dx, dy, part in puffs]
    for fill, drop in ((light.cloud_shade, 0.26), (light.cloud, 0.0)):
        for dx, dy, part in puffs:
            radius = part * size * 0.72
            canvas.ellipse((x + dx * size, y + (dy * 0.8 + drop) * size), (radius * 1.15, radius * 0.8), fill)
        canvas.ellipse((x, y + (0.22 + drop) * size), (1.7 * size, 0.4 * size), fill)
