"""The light of each time of day: sky colours, the sun's place, and the tint everything below takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocket_models.landscapes.painting.canvas import Colour, Point, blend, colour


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
    windows_lit: bool
    starry: bool

    def on_snow(self, base: Colour) -> Colour:
        """Colour of snow in this light: it stays brighter than the ground around it."""
        return base * (0.55 * self.ground + 0.45 * np.maximum(self.ground, 0.8))

    def on_ground(self, base: Colour, distance: float = 0.0) -> Colour:
        """Colour of ground in this light; ``distance`` 0..1 is how much haze lies before it."""
        return blend(base * self.ground, self.haze, distance)


def draw_light(time: str, generator: np.random.Generator) -> Light:
    """Draw the light of a time of day, with a little variation in hue and in where sun or moon stand."""
    warm = float(generator.uniform(-1, 1))
    hue = np.array([0.022 * warm, 0.0, -0.022 * warm])
    x, y, size = (float(generator.uniform(-1, 1)) for _ in range(3))
    # The low suns keep to their own side, so that sunrise and sunset differ in layout as well as colour.
    if time == "sunrise":
        return Light(
            sky=tuple(colour(c) + hue for c in ("86bfe4", "c5d5ea", "fbd0d0", "ffe3a3")),
            haze=colour("f6d3d0") + hue,
            ground=np.array([0.98, 0.93, 0.93]),
            thing=np.array([1.0, 0.96, 0.94]),
            disc=colour("fff3a6"),
            disc_centre=(26 + 8 * x, 46 + 4 * y),
            disc_radius=10.5 + size,
            cloud=colour("fff0f0"),
            cloud_shade=colour("f3b9c6"),
            windows_lit=False,
            starry=False,
        )
    if time == "noon":
        return Light(
            sky=tuple(colour(c) + hue for c in ("2487dd", "4fa8ec", "9fd4f7")),
            haze=colour("b5dcf5") + hue,
            ground=np.array([1.0, 1.0, 1.0]),
            thing=np.array([1.0, 1.0, 1.0]),
            disc=colour("fffbd6"),
            disc_centre=(64 + 32 * x, 19 + 4 * y),
            disc_radius=9.5 + size,
            cloud=colour("ffffff"),
            cloud_shade=colour("cfe1ef"),
            windows_lit=False,
            starry=False,
        )
    if time == "sunset":
        return Light(
            sky=tuple(colour(c) + hue for c in ("4b2a78", "a03a7c", "ee6a4a", "fba63c")),
            haze=colour("d8604f") + hue,
            ground=np.array([0.86, 0.60, 0.56]),
            thing=np.array([0.95, 0.74, 0.68]),
            disc=colour("ffd24a"),
            disc_centre=(101 + 8 * x, 48 + 4 * y),
            disc_radius=12.0 + size,
            cloud=colour("f58a5e"),
            cloud_shade=colour("8e3f78"),
            windows_lit=True,
            starry=False,
        )
    return Light(
        sky=tuple(colour(c) + hue * 0.6 for c in ("070b26", "111c4a", "20336e")),
        haze=colour("1c2c5c") + hue * 0.6,
        ground=np.array([0.46, 0.52, 0.70]),
        thing=np.array([0.70, 0.72, 0.86]),
        disc=colour("f4f0d8"),
        disc_centre=(64 + 40 * x, 22 + 5 * y),
        disc_radius=8.5 + size,
        cloud=colour("4a5a8c"),
        cloud_shade=colour("2c3869"),
        windows_lit=True,
        starry=True,
    )
