"""What a landscape can be: the attributes, which of them go together, and which are held out from training."""

from __future__ import annotations

import itertools
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
COUNTED = ("house", "sailboat", "cactus", "balloon")
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
        """Whether training never sees this combination of time and land with this thing, or with this sky."""
        return not HELD_OUT.isdisjoint({(self.time, self.land, self.thing), (self.time, self.land, self.sky)})


def sensible_values(name: str, scene: Mapping[str, Value]) -> tuple[Value, ...]:
    """Return what an attribute can be, given those that come before it in ``ATTRIBUTES``."""
    land, thing, night = scene.get("land"), scene.get("thing"), scene.get("time") == "night"
    values: tuple[Value, ...] = ATTRIBUTES[name]
    if name == "thing":
        values = (None, *(kind for kind, lands in _LANDS_OF_THING.items() if land in lands))
    elif name == "time" and thing == "birds":
        values = tuple(time for time in TIMES if time != "night")  # they would not be seen at night
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
        values = COUNTS if thing in COUNTED else (None,)
    elif name == "place":
        alone = thing not in (None, "birds") and scene["count"] in (None, "one")
        values = PLACES if alone else (None,)
    elif name == "colour":
        values = COLOURS if thing in _COLOURED else (None,)
    return values


def _combinations(last: str) -> list[tuple[str, str, str]]:
    """Return every sensible time and land with a thing or a sky, in a fixed order."""
    found = []
    for land, time in itertools.product(LANDS, TIMES):
        thing = last if last in THINGS else None
        if thing in sensible_values("thing", {"land": land}):
            scene = {"land": land, "thing": thing}
            if time in sensible_values("time", scene):
                skies = sensible_values("sky", scene | {"time": time})
                if last in THINGS or last in skies:
                    found.append((time, land, last))
    return found


HELD_OUT = frozenset(
    combination
    for number, last in enumerate((*THINGS, *SKIES))
    for combination in _combinations(last)[(2 + 5 * number) % 8 :: 9]
)
"""About a ninth of all times and lands with each thing and with each sky: no training picture shows one of them.

Every time, land, thing and sky is met among them, and each of their pairs is still trained on in other company (a test
counts); only stars and northern lights, which there are at night alone, are never seen over that land at all.
"""


def draw_scene(generator: np.random.Generator, fixed: Mapping[str, Value] | None = None) -> Scene:
    """Draw any scene with the values ``fixed``: every land equally likely, then whatever suits what came before."""
    fixed = fixed or {}
    while True:
        drawn: dict[str, Value] = {}
        for name in ATTRIBUTES:
            values = sensible_values(name, drawn)
            value = fixed.get(name, values[int(generator.integers(len(values)))])
            if value not in values:
                break
            drawn[name] = value
        else:
            return Scene(**drawn)  # type: ignore[arg-type]  # no None among the values of land, time, sky and season


def draw_training_scene(generator: np.random.Generator) -> Scene:
    """Draw a scene that is not held out."""
    while (scene := draw_scene(generator)).held_out:
        pass
    return scene


def draw_held_out_scene(generator: np.random.Generator, number: int) -> Scene:
    """Draw a scene with a held-out combination: each in turn, as ``number`` counts up."""
    time, land, last = _IN_TURN[number % len(_IN_TURN)]
    return draw_scene(generator, {"time": time, "land": land, "thing" if last in THINGS else "sky": last})


_IN_TURN = sorted(HELD_OUT, key=lambda combination: (combination[2], combination))
"""Held-out combinations in an order that does not change from run to run."""
