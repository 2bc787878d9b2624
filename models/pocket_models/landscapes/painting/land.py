"""The land under the sky: one function a kind of land, each returning where a thing may stand or float."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pocket_models.landscapes.painting.canvas import SIZE, Canvas, Colour, Point, blend, colour
from pocket_models.landscapes.painting.palette import Light
from pocket_models.landscapes.painting.ridges import paint_peaks, waves
from pocket_models.landscapes.scenes import Scene

_SNOW = colour("f4f8ff")
_GREENS = [colour(code) for code in ("6fae4e", "5b9e44", "468a3a")]
_SANDS = [colour(code) for code in ("f0c376", "e8b05c", "dd9c49")]


def paint_land(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator) -> Point:
    """Paint the land and return the foot (bottom centre) of a thing standing on it or floating on its water."""
    paint: dict[str, Callable[..., Point]] = {
        "mountains": _mountains,
        "snowy mountains": _mountains,
        "hills": _hills,
        "dunes": _dunes,
        "beach": _beach,
        "lake": _lake,
        "forest": _forest,
    }
    return paint[scene.land](canvas, scene, light, generator)


def _shifted(base: Colour, generator: np.random.Generator) -> Colour:
    return base + generator.uniform(-0.035, 0.035, 3)


def _mountains(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator) -> Point:
    snowy = scene.land == "snowy mountains"
    paint_peaks(canvas, light, generator, base=96, height=62, snowy=snowy)
    near = [_SNOW, blend(_SNOW, colour("bcd0e6"), 0.45)] if snowy else [_GREENS[0], _GREENS[2]]
    in_light = light.on_snow if snowy else light.on_ground
    canvas.below(waves(generator, 92, 2.5), in_light(_shifted(near[0], generator)))
    canvas.below(waves(generator, 109, 2.5), in_light(_shifted(near[1], generator)))
    return _foot(generator, 111)


def _hills(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator) -> Point:
    for level, (y, base) in enumerate(zip((68, 82, 99), _GREENS, strict=True)):
        fill = light.on_ground(_shifted(base, generator), distance=(0.42, 0.18, 0.0)[level])
        canvas.below(waves(generator, y, 8.0), fill)
    return _foot(generator, 113)


def _dunes(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator) -> Point:
    for level, (y, base) in enumerate(zip((72, 85, 101), _SANDS, strict=True)):
        lit = light.on_ground(_shifted(base, generator), distance=(0.2, 0.08, 0.0)[level])
        _paint_dune(canvas, y, lit, lit * np.array([0.80, 0.74, 0.72]), generator)
    return _foot(generator, 115)


def _paint_dune(canvas: Canvas, y: float, lit: Colour, shade: Colour, generator: np.random.Generator) -> None:
    crest = float(generator.uniform(25, 103))
    x = np.arange(SIZE + 1, dtype=np.float64)
    heights = y - 11 * np.exp(-(((x - crest) / 38) ** 2)) + 2.5 * np.sin(x / 21 + generator.uniform(0, 6))
    canvas.below(heights, lit)
    # The lee side: a dark flank that leaves the crest and runs out along the dune's foot.
    top = float(heights[round(crest)])
    flank = [(crest, top), *((float(i), float(heights[i])) for i in range(round(crest), min(SIZE, round(crest) + 52)))]
    bend = [(crest + 26, y + 14), (crest + 6, y + 17), (crest - 6, top + 14)]
    canvas.polygon([*flank, *bend], shade)


def _beach(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator) -> Point:
    horizon = float(generator.uniform(60, 66))
    sea = light.on_ground(_shifted(colour("1f86b8"), generator), distance=0.08)
    canvas.box(0, horizon, SIZE, SIZE, blend(sea, light.haze, 0.25))
    canvas.box(0, horizon + 8, SIZE, SIZE, sea)
    _paint_glitter(canvas, light, horizon + 3, horizon + 26, generator)
    lean = float(generator.uniform(8, 14)) * (1 if generator.random() < 0.5 else -1)
    shore = waves(generator, 100, 2.0) + np.linspace(lean, -lean, SIZE + 1) * 0.6
    canvas.below(shore - 3.2, light.on_ground(colour("f2fbff"), distance=0.1))
    canvas.below(shore, light.on_ground(_shifted(colour("e3c48c"), generator)))
    canvas.below(shore + 4.0, light.on_ground(_shifted(colour("f3da9f"), generator)))
    if scene.thing == "sailboat":
        return _foot(generator, horizon + 21)
    x = float(generator.uniform(26, 102))
    return x, float(shore[round(x)]) + 15


def _lake(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator) -> Point:
    shoreline = 78.0
    _paint_backdrop(canvas, scene, light, generator, base=shoreline)
    canvas.below(waves(generator, shoreline - 4, 1.5), light.on_ground(_shifted(_GREENS[1], generator), 0.1))
    water = light.on_ground(_shifted(colour("3f8fc0"), generator), distance=0.1)
    canvas.mirror(shoreline, 128, water, share=0.45)
    _paint_glitter(canvas, light, shoreline + 5, 112, generator)
    corner = 1.0 if generator.random() < 0.5 else -1.0
    bank = waves(generator, 113, 1.5) + corner * np.linspace(-9, 7, SIZE + 1)
    canvas.below(bank, light.on_ground(_shifted(_GREENS[2], generator)))
    if scene.thing == "sailboat":
        return _foot(generator, 99)
    # The house stands where the bank is broad.
    x = 64 - corner * float(generator.uniform(-38, -22))
    return x, float(bank[round(x)]) + 9


def _paint_glitter(canvas: Canvas, light: Light, top: float, bottom: float, generator: np.random.Generator) -> None:
    """Paint short bright strokes on water: a column under the sun or moon, a few elsewhere."""
    bright = blend(light.haze, light.disc, 0.75)
    for y in np.arange(top, bottom, 4.2).tolist():
        x = light.disc_centre[0] + float(generator.uniform(-4, 4))
        half = float(generator.uniform(4, 8))
        canvas.box(x - half, y, x + half, y + 1.2, bright)
        x = float(generator.uniform(0, SIZE))
        canvas.box(x - 7, y + 2, x + 7, y + 2.9, blend(light.haze, light.disc, 0.3))


def _forest(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator) -> Point:
    _paint_backdrop(canvas, scene, light, generator, base=84)
    green = colour("2e7d4f")
    canvas.below(waves(generator, 84, 2.0), light.on_ground(green, 0.25))
    _paint_pines(canvas, light.on_ground(_shifted(green, generator), 0.3), generator, foot=88, height=24, spacing=9)
    canvas.below(waves(generator, 90, 1.5), light.on_ground(blend(green, _GREENS[1], 0.5), 0.1))
    foot = _foot(generator, 115)
    clear_of = foot[0] if scene.thing == "house" else None
    dark = light.on_ground(_shifted(colour("1f6340"), generator))
    _paint_pines(canvas, dark, generator, foot=108, height=38, spacing=17, clear_of=clear_of)
    canvas.below(waves(generator, 107, 1.5), light.on_ground(_shifted(_GREENS[2], generator)))
    return foot


def _paint_pines(
    canvas: Canvas,
    fill: Colour,
    generator: np.random.Generator,
    *,
    foot: float,
    height: float,
    spacing: float,
    clear_of: float | None = None,
) -> None:
    x = float(generator.uniform(-spacing, 0))
    while x < SIZE + spacing:
        if clear_of is None or abs(x - clear_of) > 19:
            tall = height * float(generator.uniform(0.85, 1.15))
            for bottom, part in ((0.0, 0.30), (0.28, 0.24), (0.54, 0.17)):
                half, y = tall * part, foot - tall * bottom
                canvas.polygon([(x - half, y), (x, y - tall * 0.46), (x + half, y)], fill * (1 - 0.12 * bottom))
        x += spacing * float(generator.uniform(0.8, 1.2))


def _paint_backdrop(canvas: Canvas, scene: Scene, light: Light, generator: np.random.Generator, base: float) -> None:
    if scene.behind is None:
        canvas.below(waves(generator, base - 12, 5.0), light.on_ground(_shifted(_GREENS[0], generator), 0.45))
    else:
        snowy = scene.behind == "snowy mountains"
        paint_peaks(canvas, light, generator, base=base, height=52, snowy=snowy)


def _foot(generator: np.random.Generator, y: float) -> Point:
    return float(generator.uniform(27, 101)), y + float(generator.uniform(-2, 2))
