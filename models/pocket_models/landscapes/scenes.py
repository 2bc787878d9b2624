"""What a landscape can be: the attributes, which of them go together, and which are held out from training."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

TIMES = ("sunrise", "noon", "sunset", "night")
SKIES = ("clear", "cloudy")
LANDS = ("mountains", "snowy mountains", "hills", "dunes", "beach", "lake", "forest")
BACKDROPS = (None, "mountains", "snowy mountains")
THINGS = (None, "house", "sailboat", "cactus", "balloon")

ATTRIBUTES: dict[str, tuple[str | None, ...]] = {
    "time": TIMES,
    "sky": SKIES,
    "land": LANDS,
    "behind": BACKDROPS,
    "thing": THINGS,
}
"""Every attribute of a scene by its field name, with its values in the order classifiers number them."""

_LANDS_WITH_BACKDROP = ("lake", "forest")
_LANDS_OF_THING: dict[str | None, tuple[str, ...]] = {
    None: LANDS,
    "house": ("mountains", "snowy mountains", "hills", "beach", "lake", "forest"),
    "sailboat": ("beach", "lake"),
    "cactus": ("hills", "dunes"),
    "balloon": LANDS,
}


@dataclass(frozen=True)
class Scene:
    """One combination of attributes; construction refuses a combination that makes no sense.

    ``behind`` is what rises behind a lake or a forest (None: low hills); ``thing`` is the one object in the
    picture, if any: sailboats need water, cacti dry ground, houses firm ground, balloons only sky.
    """

    time: str
    sky: str
    land: str
    behind: str | None = None
    thing: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown value or a combination that makes no sense."""
        for name, values in ATTRIBUTES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}, must be one of {values}")
        if self.behind is not None and self.land not in _LANDS_WITH_BACKDROP:
            raise ValueError(f"{self.behind} behind {self.land}: only {_LANDS_WITH_BACKDROP} have a backdrop")
        if self.land not in _LANDS_OF_THING[self.thing]:
            raise ValueError(f"a {self.thing} does not belong in {self.land}")

    @property
    def held_out(self) -> bool:
        """Whether training never sees this combination.

        With a thing, about one in eight of the (time, land, thing) triples is held out; without, about one in
        eight of the (time, land, sky) triples: 15 of 124. The numbers were searched for so that every time,
        land, sky and thing is met among them and every pair inside a held-out triple is still trained on in
        other company.
        """
        time, land = TIMES.index(self.time), LANDS.index(self.land)
        third = SKIES.index(self.sky) if self.thing is None else 1 + THINGS.index(self.thing)
        return (8 * time + land + 4 * third) % 9 == 7


def sensible_scenes() -> list[Scene]:
    """Every scene that makes sense, held out or not, in a fixed order."""
    scenes = []
    for time, sky, land, thing in itertools.product(TIMES, SKIES, LANDS, THINGS):
        if land in _LANDS_OF_THING[thing]:
            backdrops = BACKDROPS if land in _LANDS_WITH_BACKDROP else (None,)
            scenes += [Scene(time, sky, land, behind, thing) for behind in backdrops]
    return scenes


def draw_scene(generator: np.random.Generator) -> Scene:
    """Draw a scene to train on: every land equally likely, then every thing that suits it, never a held-out one."""
    while True:
        land = str(generator.choice(LANDS))
        things = [thing for thing, lands in _LANDS_OF_THING.items() if land in lands]
        scene = Scene(
            time=str(generator.choice(TIMES)),
            sky=str(generator.choice(SKIES)),
            land=land,
            behind=BACKDROPS[generator.integers(3)] if land in _LANDS_WITH_BACKDROP else None,
            thing=things[generator.integers(len(things))],
        )
        if not scene.held_out:
            return scene
