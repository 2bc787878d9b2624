"""The land under the sky: one function a kind of land, each returning how high things stand or float on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocket_models.landscapes.painting.canvas import SIZE, Canvas, Colour, blend, colour
from pocket_models.landscapes.painting.palette import Light
from pocket_models.landscapes.painting.ridges import paint_peaks, waves
from pocket_models.landscapes.painting.spots import Spot, clear_x, scattered
from pocket_models.landscapes.scenes import Scene

_GREENS = [colour(code) for code in ("79b356", "64a54b", "4c9040")]
_RUSSETS = [colour(code) for code in ("dca24a", "cf8438", "b5652c")]
_SNOWS = [colour(code) for code in ("f4f8ff", "e6eefa", "d3e1f2")]
_SANDS = [colour(code) for code in ("f0c376", "e8b05c", "dd9c49")]
_LEAVES = [colour(code) for code in ("d9622b", "e8922f", "c23f2c", "e9b63c")]
_PETALS = [colour(code) for code in ("e8465a", "ffd84a", "ffffff", "f08fc0")]
_SAND, _WET_SAND, _FOAM = colour("f3da9f"), colour("e3c48c"), colour("f2fbff")
_SEA, _LAKE = colour("1f86b8"), colour("3f8fc0")

Heights = NDArray[np.float64]
"""A curve across the picture: y at SIZE + 1 evenly spaced x."""


@dataclass(frozen=True)
class Ground:
    """How high the foot of a thing stands, near and far, across the picture."""

    near: Heights
    far: Heights

    def foot(self, spot: Spot) -> float:
        """Return y of the foot (bottom centre) of a thing at ``spot``."""
        return float(np.interp(spot.x, np.arange(SIZE + 1), self.far if spot.far else self.near))


@dataclass(frozen=True)
class _Land:
    """What every land painter is given."""

    canvas: Canvas
    scene: Scene
    light: Light
    spots: Sequence[Spot]
    generator: np.random.Generator

    def ground_colour(self, level: int, distance: float = 0.0) -> Colour:
        """Colour of grass, fallen leaves or snow by season; ``level`` 0 is furthest away."""
        greens = {"summer": _GREENS, "autumn": _RUSSETS, "winter": _SNOWS}[self.scene.season]
        base = self.shifted(greens[level])
        return self.light.on_snow(base, distance) if self.scene.season == "winter" else self.lit(base, distance)

    def lit(self, base: Colour, distance: float = 0.0) -> Colour:
        return self.light.on_ground(base, distance)

    def shifted(self, base: Colour) -> Colour:
        return base + self.generator.uniform(-0.03, 0.03, 3)

    def waves(self, y: float, swing: float) -> Heights:
        return waves(self.generator, y, swing)

    @property
    def standing(self) -> Sequence[Spot]:
        """Spots on the ground: trees and water keep clear of these, not of what is in the sky."""
        return () if self.scene.thing in ("balloon", "birds") else self.spots


def paint_land(
    canvas: Canvas, scene: Scene, light: Light, spots: Sequence[Spot], generator: np.random.Generator
) -> Ground:
    """Paint the land and return how high things stand on it, or float on its water."""
    paint: dict[str, Callable[[_Land], Ground]] = {
        "mountains": _mountains,
        "snowy mountains": _mountains,
        "hills": _hills,
        "dunes": _dunes,
        "beach": _beach,
        "lake": _lake,
        "forest": _forest,
        "meadow": _meadow,
        "river": _river,
        "island": _island,
    }
    return paint[scene.land](_Land(canvas, scene, light, spots, generator))


def _mountains(land: _Land) -> Ground:
    snowy = land.scene.land == "snowy mountains"
    paint_peaks(land.canvas, land.light, land.generator, base=96, height=62, snowy=snowy)
    far, near = land.waves(92, 2.5), land.waves(107, 2.5)
    for level, heights in ((0, far), (2, near)):
        snow = land.light.on_snow(land.shifted(_SNOWS[level]))
        land.canvas.below(heights, snow if snowy else land.ground_colour(level))
    return Ground(near=near + 9, far=far + 5)


def _hills(land: _Land) -> Ground:
    layers = [land.waves(y, 8.0) for y in (68, 82, 98)]
    for level, heights in enumerate(layers):
        land.canvas.below(heights, land.ground_colour(level, distance=(0.42, 0.18, 0.0)[level]))
    return Ground(near=np.minimum(layers[2] + 13, 121), far=np.minimum(layers[1] + 4, layers[2] - 1))


def _dunes(land: _Land) -> Ground:
    layers = []
    for level, y in enumerate((72, 85, 101)):
        lit = land.lit(land.shifted(_SANDS[level]), distance=(0.2, 0.08, 0.0)[level])
        layers.append(_paint_dune(land, y, lit, lit * np.array([0.80, 0.74, 0.72])))
    return Ground(near=land.waves(116, 1.0), far=np.minimum(layers[1] + 6, layers[2] - 1))


def _paint_dune(land: _Land, y: float, lit: Colour, shade: Colour) -> Heights:
    crest = float(land.generator.uniform(25, 103))
    x = np.arange(SIZE + 1, dtype=np.float64)
    heights: Heights = y - 11 * np.exp(-(((x - crest) / 38) ** 2)) + 2.5 * np.sin(x / 21 + land.generator.uniform(0, 6))
    land.canvas.below(heights, lit)
    # The lee side: a dark flank that leaves the crest and runs out along the dune's foot.
    top = float(heights[round(crest)])
    flank = [(crest, top), *((float(i), float(heights[i])) for i in range(round(crest), min(SIZE, round(crest) + 52)))]
    bend = [(crest + 26, y + 14), (crest + 6, y + 17), (crest - 6, top + 14)]
    land.canvas.polygon([*flank, *bend], shade)
    return heights


def _beach(land: _Land) -> Ground:
    horizon = _paint_sea(land)
    for spot in land.standing:
        if spot.far and land.scene.thing != "sailboat":  # a headland for it to stand on
            land.canvas.ellipse((spot.x, horizon + 1), (26, 6), land.lit(_GREENS[2], 0.25))
            land.canvas.box(spot.x - 27, horizon + 3, spot.x + 27, horizon + 9, land.lit(_SEA, 0.2))
    lean = float(land.generator.uniform(4, 8)) * (1 if land.generator.random() < 0.5 else -1)
    shore = land.waves(99, 2.0) + np.linspace(lean, -lean, SIZE + 1)
    land.canvas.below(shore - 3.2, land.lit(_FOAM, distance=0.1))
    land.canvas.below(shore, land.lit(land.shifted(_WET_SAND)))
    land.canvas.below(shore + 4.0, land.lit(land.shifted(_SAND)))
    flat = np.zeros(SIZE + 1)
    if land.scene.thing == "sailboat":
        return Ground(near=flat + horizon + 24, far=flat + horizon + 6)
    return Ground(near=np.minimum(shore + 15, 122), far=flat + horizon - 3)


def _island(land: _Land) -> Ground:
    horizon = _paint_sea(land)
    standing = land.scene.thing == "lighthouse"
    size = 0.62 if standing and land.spots[0].far else 1.0
    boats = [spot for spot in land.standing if spot.far]
    x = land.spots[0].x if standing else clear_x(boats, land.generator, 44, 84)
    base = horizon + (12 if size < 1 else 26)
    land.canvas.ellipse((x, base), (38 * size, 6.5 * size), land.lit(_FOAM, 0.15))
    land.canvas.ellipse((x, base - 1.5 * size), (36 * size, 6.5 * size), land.lit(land.shifted(_SAND)))
    hill = [(x + 27 * size * np.cos(a), base - 3 * size - 14 * size * np.sin(a)) for a in np.linspace(0, np.pi, 15)]
    land.canvas.polygon([(float(px), float(py)) for px, py in hill], land.lit(land.shifted(_GREENS[1])))
    for side in (-1, 1):
        _paint_palm(land, x + side * float(land.generator.uniform(15, 19)) * size, base - 7 * size, side, size)
    flat = np.zeros(SIZE + 1)
    if land.scene.thing == "sailboat":
        return Ground(near=flat + 120, far=flat + horizon + 6)
    return Ground(near=flat + base - 13, far=flat + base - 13 * size)


def _paint_palm(land: _Land, x: float, foot: float, side: int, size: float) -> None:
    tall = 24 * size * float(land.generator.uniform(0.9, 1.1))
    top = (x + side * 5 * size, foot - tall)
    land.canvas.stroke([(x, foot), (x + side * size, foot - tall * 0.5), top], 2.4 * size, land.lit(colour("8a6038")))
    leaf = land.lit(colour("2f8f4a"))
    for dx, dy in ((-10, 3), (-7, -4), (7, -4), (10, 3), (1, 6)):
        tip, bend = (top[0] + dx * size, top[1] + dy * size), (top[0] + dx * 0.5 * size, top[1] + (dy - 4) * 0.7 * size)
        land.canvas.stroke([top, bend, tip], 2.6 * size, leaf)


def _paint_sea(land: _Land) -> float:
    horizon = float(land.generator.uniform(60, 66))
    sea = land.lit(land.shifted(_SEA), distance=0.08)
    land.canvas.box(0, horizon, SIZE, SIZE, blend(sea, land.light.haze, 0.25))
    land.canvas.box(0, horizon + 8, SIZE, SIZE, sea)
    _paint_glitter(land, horizon + 3, horizon + 26)
    return horizon


def _lake(land: _Land) -> Ground:
    shoreline = 78.0
    _paint_backdrop(land, base=shoreline)
    land.canvas.below(land.waves(shoreline - 4, 1.5), land.ground_colour(1, distance=0.1))
    land.canvas.mirror(shoreline, SIZE, land.lit(land.shifted(_LAKE), distance=0.1), share=0.45)
    _paint_glitter(land, shoreline + 5, 112)
    lean = float(land.generator.uniform(-5, 5))
    bank = land.waves(112, 1.5) + np.linspace(-lean, lean, SIZE + 1)
    land.canvas.below(bank, land.ground_colour(2))
    flat = np.zeros(SIZE + 1)
    if land.scene.thing == "sailboat":
        return Ground(near=flat + 103, far=flat + shoreline + 7)
    return Ground(near=bank + 8, far=flat + shoreline - 0.5)


def _paint_glitter(land: _Land, top: float, bottom: float) -> None:
    """Paint bright strokes on water under the sun or moon, fainter ones elsewhere."""
    bright, faint = (blend(land.light.haze, land.light.disc, share) for share in (0.6, 0.25))
    for y in np.arange(top, bottom, 5.0).tolist():
        if land.scene.sky != "rainy":
            x = land.light.disc_centre[0] + float(land.generator.uniform(-4, 4))
            half = float(land.generator.uniform(5, 9))
            land.canvas.box(x - half, y, x + half, y + 1.5, bright)
        x = float(land.generator.uniform(0, SIZE))
        land.canvas.box(x - 8, y + 2.5, x + 8, y + 3.5, faint)


def _forest(land: _Land) -> Ground:
    _paint_backdrop(land, base=84)
    dark = {"summer": colour("2e7d4f"), "autumn": colour("b8682e"), "winter": colour("55867c")}[land.scene.season]
    land.canvas.below(land.waves(84, 2.0), land.lit(dark, 0.25))
    _paint_trees(land, foot=89, height=24, spacing=10, distance=0.3)
    middle = land.waves(90, 1.5)
    land.canvas.below(middle, land.ground_colour(1, distance=0.1))
    _paint_trees(land, foot=108, height=38, spacing=17, distance=0.0)
    near = land.waves(107, 1.5)
    land.canvas.below(near, land.ground_colour(2))
    return Ground(near=near + 9, far=middle + 5)


def _paint_trees(land: _Land, *, foot: float, height: float, spacing: float, distance: float) -> None:
    x = float(land.generator.uniform(-spacing, 0))
    while x < SIZE + spacing:
        clear = distance > 0 or all(abs(x - spot.x) > 7 + 13 * spot.scale for spot in land.standing)
        tall = height * float(land.generator.uniform(0.85, 1.15))
        if clear and land.scene.season == "autumn":
            _paint_broadleaf(land, x, foot, tall, distance)
        elif clear:
            _paint_pine(land, x, foot, tall, distance)
        x += spacing * float(land.generator.uniform(0.8, 1.2))


def _paint_pine(land: _Land, x: float, foot: float, tall: float, distance: float) -> None:
    fill = land.lit(land.shifted(colour("1f6340" if distance == 0 else "2e7d4f")), distance)
    snow = land.light.on_snow(_SNOWS[1], distance)
    for bottom, part in ((0.0, 0.30), (0.28, 0.24), (0.54, 0.17)):
        half, y, tip = tall * part, foot - tall * bottom, foot - tall * (bottom + 0.46)
        land.canvas.polygon([(x - half, y), (x, tip), (x + half, y)], fill * (1 - 0.12 * bottom))
        if land.scene.season == "winter":
            land.canvas.polygon([(x - half * 0.5, y - tall * 0.2), (x, tip), (x + half * 0.5, y - tall * 0.2)], snow)


def _paint_broadleaf(land: _Land, x: float, foot: float, tall: float, distance: float) -> None:
    leaves = land.lit(land.shifted(_LEAVES[int(land.generator.integers(len(_LEAVES)))]), distance)
    land.canvas.box(x - tall * 0.04, foot - tall * 0.4, x + tall * 0.04, foot, land.lit(colour("6b4630"), distance))
    land.canvas.ellipse((x, foot - tall * 0.6), (tall * 0.25, tall * 0.34), leaves)


def _meadow(land: _Land) -> Ground:
    _paint_backdrop(land, base=80)
    far, near = land.waves(78, 3.0), land.waves(94, 3.0)
    land.canvas.below(far, land.ground_colour(0, distance=0.12))
    land.canvas.below(near, land.ground_colour(1))
    for x, y in scattered(land.generator, 20, 98, 126):
        radius = 1.6 + (y - 98) / 20
        petals = _PETALS[int(land.generator.integers(len(_PETALS)))]
        land.canvas.ellipse((x, y), (radius, radius * 0.8), land.lit(petals))
    return Ground(near=near + 15, far=far + 5)


def _river(land: _Land) -> Ground:
    _paint_backdrop(land, base=78)
    bank = land.waves(77, 2.0)
    land.canvas.below(bank, land.ground_colour(0, distance=0.1))
    land.canvas.below(land.waves(92, 2.0), land.ground_colour(1))
    # It meanders from the horizon between the things, far and near, and widens towards us.
    far, near = ([spot for spot in land.standing if spot.far == side] for side in (True, False))
    source, bend = clear_x(far, land.generator, 40, 88), clear_x(near, land.generator)
    mouth = float(land.generator.uniform(24, 104))
    y = np.linspace(78, SIZE, 26)
    middle = np.interp(y, (78, 96, SIZE), (source, bend, mouth))
    smooth = np.convolve(np.pad(middle, 4, mode="edge"), np.ones(9) / 9, "valid")
    half = 2 + 0.0074 * (y - 78) ** 2
    for wider, fill in ((2.0, land.ground_colour(2)), (0.0, land.lit(land.shifted(_LAKE), 0.15))):
        edges = np.concatenate([smooth - half - wider, (smooth + half + wider)[::-1]])
        land.canvas.polygon(list(zip(edges.tolist(), [*y.tolist(), *y[::-1].tolist()], strict=True)), fill)
    return Ground(near=np.full(SIZE + 1, 101.0), far=bank + 4)


def _paint_backdrop(land: _Land, base: float) -> None:
    if land.scene.behind is None:
        land.canvas.below(land.waves(base - 12, 5.0), land.ground_colour(0, distance=0.45))
    else:
        snowy = land.scene.behind == "snowy mountains"
        paint_peaks(land.canvas, land.light, land.generator, base=base, height=52, snowy=snowy)
