"""The sky: gradient, sun or moon, stars, clouds, rainbow, northern lights; and the weather that falls from it."""

from __future__ import annotations

import numpy as np

from pocket_models.landscapes.painting.canvas import SIZE, Canvas, Point, blend, colour
from pocket_models.landscapes.painting.palette import Light
from pocket_models.landscapes.painting.ridges import waves
from pocket_models.landscapes.painting.spots import scattered
from pocket_models.landscapes.scenes import Scene

_RAINBOW = [colour(code) for code in ("f2545b", "f8a145", "f9e05e", "62c370", "4d8fe0", "8a62c9")]


def paint_sky(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator) -> None:
    """Paint the sky over the whole canvas."""
    canvas.gradient(light.sky, bottom=78)
    if scene.sky == "starry":
        _paint_stars(canvas, light, generator)
    if scene.sky == "aurora":
        _paint_aurora(canvas, generator)
    if scene.sky != "rainy":
        canvas.glow(light.disc_centre, light.disc_radius * 1.9, light.disc, strength=0.25 if light.night else 0.55)
        _paint_disc(canvas, scene, light)
    if scene.sky == "rainbow":
        _paint_rainbow(canvas, generator)
    if scene.sky in ("cloudy", "rainy"):
        _paint_clouds(canvas, light, generator, low=scene.sky == "rainy")


def paint_weather(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator) -> None:
    """Paint falling rain, or falling snow where clouds bring it, before everything else."""
    if scene.sky == "rainy":
        fill = blend(light.haze, colour("e6f0fa"), 0.25 if light.night else 0.45)
        for x, y in scattered(generator, 24, 28, 124):
            canvas.stroke([(x + 1.8, y - 5), (x - 1.8, y + 5)], 1.0, fill)
    if scene.season == "winter" and scene.sky == "cloudy":
        fill = light.on_snow(colour("ffffff"))
        for x, y in scattered(generator, 26, 4, 124):
            radius = float(generator.uniform(1.0, 1.6))
            canvas.ellipse((x, y), (radius, radius), fill)


def _paint_disc(canvas: Canvas, scene: Scene, light: Light) -> None:
    (x, y), radius = light.disc_centre, light.disc_radius
    if scene.moon == "crescent":
        angles = np.linspace(-np.pi / 2, np.pi / 2, 17)
        outer = np.stack([np.cos(angles), np.sin(angles)])
        inner = outer[:, ::-1] * np.array([[0.35], [1.0]])
        tilt = np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]])
        points = (tilt @ np.concatenate([outer, inner], axis=1)).T * (radius * 1.1) + (x, y)
        canvas.polygon([(px, py) for px, py in points.tolist()], light.disc)
        return
    canvas.ellipse((x, y), (radius, radius), light.disc)
    if scene.moon == "full":
        shade = blend(light.disc, colour("8f93b0"), 0.35)
        for dx, dy, part in ((-0.3, -0.25, 0.24), (0.35, 0.1, 0.3), (-0.15, 0.45, 0.18)):
            canvas.ellipse((x + dx * radius, y + dy * radius), (part * radius, part * radius), shade)


def _paint_stars(canvas: Canvas, light: Light, generator: np.random.Generator) -> None:
    for x, y in scattered(generator, 16, 3, 60):
        if np.hypot(x - light.disc_centre[0], y - light.disc_centre[1]) > light.disc_radius + 6:
            size = float(generator.uniform(2.0, 2.9))
            thin = size * 0.36
            star = [(0, -size), (thin, -thin), (size, 0), (thin, thin), (0, size), (-thin, thin), (-size, 0)]
            canvas.polygon([(x + dx, y + dy) for dx, dy in [*star, (-thin, -thin)]], colour("fff6d0"))


def _paint_aurora(canvas: Canvas, generator: np.random.Generator) -> None:
    for y, fall, code, strength in ((50, 26, "35e0a1", 0.85), (30, 18, "7be06a", 0.5), (42, 34, "a05fe0", 0.45)):
        canvas.curtain(waves(generator, y, 9.0), fall, colour(code), strength)


def _paint_rainbow(canvas: Canvas, generator: np.random.Generator) -> None:
    centre = (float(generator.uniform(52, 76)), float(generator.uniform(84, 90)))
    radius = float(generator.uniform(60, 66))
    for band, tint in enumerate(_RAINBOW):
        canvas.arch(centre, radius - 2.6 * band, 1.8, tint, strength=0.72)


def _paint_clouds(canvas: Canvas, light: Light, generator: np.random.Generator, *, low: bool) -> None:
    """Paint clouds beside sun or moon; ``low`` ones close the whole top of the sky."""
    count = 5 if low else int(generator.integers(4, 6))
    for index in range(count):
        x = (index + 0.5 + generator.uniform(-0.3, 0.3)) * SIZE / count
        y = generator.uniform(9, 20) if index % 2 else generator.uniform(24, 38)
        size = float(generator.uniform(9, 12.5))
        if low:
            y, size = y * 0.7, size * 1.35
        away = np.hypot((x - light.disc_centre[0]) * 0.7, y - light.disc_centre[1])
        if low or away > light.disc_radius + size * 0.7:
            _paint_cloud(canvas, (float(x), float(y)), size, light, generator)


def _paint_cloud(canvas: Canvas, centre: Point, size: float, light: Light, generator: np.random.Generator) -> None:
    x, y = centre
    puffs = [(-1.25, 0.12, 0.62), (-0.5, -0.3, 0.82), (0.4, -0.42, 0.92), (1.2, 0.08, 0.66)]
    puffs = [(dx + generator.uniform(-0.12, 0.12), dy, part) for dx, dy, part in puffs]
    for fill, drop in ((light.cloud_shade, 0.26), (light.cloud, 0.0)):
        for dx, dy, part in puffs:
            radius = part * size * 0.72
            canvas.ellipse((x + dx * size, y + (dy * 0.8 + drop) * size), (radius * 1.15, radius * 0.8), fill)
        canvas.ellipse((x, y + (0.22 + drop) * size), (1.7 * size, 0.4 * size), fill)
