"""The light of each time of day: sky colours, the sun's place, and the tint everything below takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pocket_models.landscapes.painting.canvas import Colour, Point, blend, colour
from pocket_models.landscapes.painting.spots import Spot, clear_x
from pocket_models.landscapes.scenes import Scene


@dataclass(frozen=True)
class Light:
    """How a time of day looks; ``ground`` and ``thing`` multiply colours, ``haze`` is what distance fades to."""

    sky: tuple[Colour, ...]
    haze: Colour
    ground: Colour
    thing: Colour
    disc: Colour
    disc_centre: Point
    disc_radius: float
    cloud: Colour
    cloud_shade: Colour
    night: bool = False
    windows_lit: bool = False

    def on_snow(self, base: Colour, distance: float = 0.0) -> Colour:
        """Colour of snow in this light: it stays brighter than the ground around it."""
        return blend(base * (0.55 * self.ground + 0.45 * np.maximum(self.ground, 0.8)), self.haze, distance)

    def on_ground(self, base: Colour, distance: float = 0.0) -> Colour:
        """Colour of ground in this light; ``distance`` 0..1 is how much haze lies before it."""
        return blend(base * self.ground, self.haze, distance)


def draw_light(scene: Scene, spots: Sequence[Spot], generator: np.random.Generator) -> Light:
    """Draw the light of a scene, with a little variation in hue and in where sun or moon stand.

    A high sun or moon keeps clear of things in the sky. Rain greys everything.
    """
    floating = spots if scene.thing in ("balloon", "birds") else ()
    light = _of_time(scene.time, floating, generator)
    return _under_rain(light) if scene.sky == "rainy" else light


def _under_rain(light: Light) -> Light:
    grey = colour("2a3144") if light.night else colour("8d97a6")
    return replace(
        light,
        sky=tuple(blend(stop, grey, 0.5) for stop in light.sky),
        haze=blend(light.haze, grey, 0.5),
        ground=light.ground * 0.82,
        thing=light.thing * 0.92,
        cloud=blend(light.cloud, grey, 0.45) * 0.9,
        cloud_shade=blend(light.cloud_shade, grey, 0.45) * 0.85,
        windows_lit=True,
    )


def _of_time(time: str, floating: Sequence[Spot], generator: np.random.Generator) -> Light:
    warm = float(generator.uniform(-1, 1))
    hue = np.array([0.022 * warm, 0.0, -0.022 * warm])
    y, size = (float(generator.uniform(-1, 1)) for _ in range(2))
    # The low suns keep to their own side, so that sunrise and sunset differ in layout as well as colour.
    left_x, high_x, right_x = (
        clear_x(floating, generator, low, high) for low, high in ((16, 46), (22, 106), (82, 112))
    )
    if time == "sunrise":
        return Light(
            sky=tuple(colour(c) + hue for c in ("86bfe4", "c5d5ea", "fbd0d0", "ffe3a3")),
            haze=colour("f6d3d0") + hue,
            ground=np.array([0.98, 0.93, 0.93]),
            thing=np.array([1.0, 0.96, 0.94]),
            disc=colour("fff3a6"),
            disc_centre=(left_x, 46 + 4 * y),
            disc_radius=10.5 + size,
            cloud=colour("fff0f0"),
            cloud_shade=colour("f3b9c6"),
        )
    if time == "noon":
        return Light(
            sky=tuple(colour(c) + hue for c in ("2f8fe0", "5aaeec", "a6d7f7")),
            haze=colour("b5dcf5") + hue,
            ground=np.array([1.0, 1.0, 1.0]),
            thing=np.array([1.0, 1.0, 1.0]),
            disc=colour("fffbd6"),
            disc_centre=(high_x, 19 + 4 * y),
            disc_radius=9.5 + size,
            cloud=colour("ffffff"),
            cloud_shade=colour("cfe1ef"),
        )
    if time == "sunset":
        return Light(
            sky=tuple(colour(c) + hue for c in ("4b2a78", "a03a7c", "ee6a4a", "fba63c")),
            haze=colour("d8604f") + hue,
            ground=np.array([0.86, 0.60, 0.56]),
            thing=np.array([0.95, 0.76, 0.72]),
            disc=colour("ffd24a"),
            disc_centre=(right_x, 48 + 4 * y),
            disc_radius=12.0 + size,
            cloud=colour("f58a5e"),
            cloud_shade=colour("8e3f78"),
            windows_lit=True,
        )
    return Light(
        sky=tuple(colour(c) + hue * 0.6 for c in ("0b1030", "162255", "293f7c")),
        haze=colour("24366a") + hue * 0.6,
        ground=np.array([0.46, 0.52, 0.70]),
        thing=np.array([0.74, 0.76, 0.88]),
        disc=colour("f4f0d8"),
        disc_centre=(high_x, 20 + 4 * y),
        disc_radius=9.5 + size,
        cloud=colour("4a5a8c"),
        cloud_shade=colour("2c3869"),
        night=True,
        windows_lit=True,
    )
