"""What a landscape can be: the attributes, which of them go together, and which are held out from training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Value = str | None

TIMES = ("sunrise", "noon", "sunset", "night")
SKIES = ("clear", "cloudy", "rainy", "rainbow", "starry", "aurora")
MOONS = ("full", "crescent")
SEASONS = ("summer", "autumn", "winter")
LANDS = ("mountains", "snowy mountains", "hills", "dunes", "beach", "lake", "forest", "meadow", "river", "island")
PEAKS = ("mountains", "snowy mountains")
THINGS = ("house", "sailboat", "cactus", "balloon", "lighthouse", "tent", "birds", "windmill")
COUNTS = ("one", "two", "three")
PLACES = ("left", "middle", "right", "far")
COLOURS = ("red", "blue", "yellow")

ATTRIBUTES: dict[str, tuple[Value, ...]] = {
    "land": LANDS,
    "thing": (None, *THINGS),
    "time": TIMES,
    "sky": SKIES,
    "moon": (None, *MOONS),
    "season": SEASONS,
    "behind": (None, *PEAKS),
    "count": (None, *COUNTS),
    "place": (None, *PLACES),
    "colour": (None, *COLOURS),
}
"""Every attribute of a scene by its field name, with its values in the order classifiers number them."""

_LANDS_OF_THING: dict[str, tuple[str, ...]] = {
    "house": ("mountains", "snowy mountains", "hills", "beach", "lake", "forest", "meadow", "river"),
    "sailboat": ("beach", "lake", "island"),
    "cactus": ("dunes", "beach"),
    "balloon": LANDS,
    "lighthouse": ("beach", "island"),
    "tent": ("mountains", "snowy mountains", "hills", "lake", "forest", "meadow", "river"),
    "birds": LANDS,
    "windmill": ("hills", "meadow", "river"),
}
_LANDS_WITH_BACKDROP = ("lake", "forest", "meadow", "river")
_LANDS_IN_AUTUMN = ("mountains", "hills", "lake", "forest", "meadow", "river")
_LANDS_IN_WINTER = ("hills", "lake", "forest", "river")
_COUNTED = ("house", "sailboat", "cactus", "balloon")
_COLOURED = ("house", "sailboat", "balloon")


@dataclass(frozen=True)
class Scene:
    """One combination of attributes; construction refuses a combination that makes no sense.

    ``behind`` is what rises behind a lake, a forest, a meadow or a river (None: low hills). ``thing`` is what stands,
    sails or floats in the picture, if anything: one to three of those that are counted, else one, or a flock of birds.
    Only a single thing has a place. Houses, sails and balloons have a colour. A night has a moon unless it rains.
    """

    land: str
    thing: Value = None
    time: str = "noon"
    sky: str = "clear"
    moon: Value = None
    season: str = "summer"
    behind: Value = None
    count: Value = None
    place: Value = None
    colour: Value = None

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown value or a combination that makes no sense."""
        for name, known in ATTRIBUTES.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} is {value!r}, must be one of {known}")
            allowed = sensible_values(name, vars(self))
            if value not in allowed:
                raise ValueError(f"{name} is {value!r} in {self}, must be one of {allowed}")

    @property
    def held_out(self) -> bool:
        """Whether training never sees this combination of time, land and thing (without a thing: sky)."""
        return (self.time, self.land, self.thing or self.sky) in HELD_OUT


def sensible_values(name: str, scene: Mapping[str, Value]) -> tuple[Value, ...]:
    """Return what an attribute can be, given those that come before it in ``ATTRIBUTES``."""
    land, thing, night = scene.get("land"), scene.get("thing"), scene.get("time") == "night"
    values: tuple[Value, ...] = ATTRIBUTES[name]
    if name == "thing":
        values = (None, *(kind for kind, lands in _LANDS_OF_THING.items() if land in lands))
    elif name == "time" and thing == "birds":
        values = ("sunrise", "noon", "sunset")  # they would not be seen at night
    elif name == "sky":
        values = ("clear", "cloudy", "rainy", *(("starry", "aurora") if night else ("rainbow",)))
    elif name == "moon":
        values = MOONS if night and scene["sky"] != "rainy" else (None,)
    elif name == "season":
        autumn = ("autumn",) if land in _LANDS_IN_AUTUMN else ()
        winter = ("winter",) if land in _LANDS_IN_WINTER and scene["sky"] not in ("rainy", "rainbow") else ()
        values = ("summer", *autumn, *winter)
    elif name == "behind":
        # Bare rock in deep winter would be neither the one nor the other.
        peaks = ("snowy mountains",) if scene["season"] == "winter" else PEAKS
        values = (None, *peaks) if land in _LANDS_WITH_BACKDROP else (None,)
    elif name == "count":
        values = COUNTS if thing in _COUNTED else (None,)
    elif name == "place":
        alone = thing not in (None, "birds") and scene["count"] in (None, "one")
        values = PLACES if alone else (None,)
    elif name == "colour":
        values = COLOURS if thing in _COLOURED else (None,)
    return values


def _cores() -> list[tuple[str, str, str]]:
    """Return every sensible triple of time, land and thing (without a thing: sky), in a fixed order."""
    return [
        (time, land, thing or sky)
        for land in LANDS
        for thing in sensible_values("thing", {"land": land})
        for time in TIMES
        if time in sensible_values("time", {"land": land, "thing": thing})
        for sky in (("",) if thing else sensible_values("sky", {"land": land, "time": time}))
        if isinstance(sky, str)
    ]


# Every ninth, so that all times, lands, things and skies are met among them and every pair inside one of them is
# still trained on in other company (a test counts).
HELD_OUT = frozenset(core for core in _cores()[5::9])
"""Triples of time, land and thing (without a thing: sky) that no training picture shows."""


def draw_scene(generator: np.random.Generator, core: tuple[str, str, str] | None = None) -> Scene:
    """Draw any scene: every land equally likely, then whatever suits what was drawn before.

    ``core`` settles its time, land and thing, or its time, land and sky and that there is no thing.
    """
    drawn: dict[str, Value] = {}
    if core is not None:
        time, land, last = core
        drawn = {"time": time, "land": land, "thing": last if last in THINGS else None}
        drawn |= {"sky": last} if last in SKIES else {}
    for name in ATTRIBUTES:
        if name not in drawn:
            values = sensible_values(name, drawn)
            drawn[name] = values[int(generator.integers(len(values)))]
    return Scene(**drawn)  # type: ignore[arg-type]  # land, time, sky and season have no None among their values


def draw_training_scene(generator: np.random.Generator) -> Scene:
    """Draw a scene that is not held out."""
    while (scene := draw_scene(generator)).held_out:
        pass
    return scene
