"""Prompts for scenes: varied in order, words and detail, from one word to a sentence, never contradicting a scene."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pocket_models.landscapes.scenes import ATTRIBUTES, COLOURS, COUNTED, COUNTS, HELD_OUT, Scene, draw_held_out_scene

_TIME_PHRASES = {
    "sunrise": ("at sunrise", "at dawn", "in the early morning", "at daybreak", "as the sun rises"),
    "noon": ("at noon", "at midday", "in bright daylight", "by day", "in the middle of the day"),
    "sunset": ("at sunset", "at dusk", "in the evening", "as the sun goes down", "at sundown"),
    "night": ("at night", "by night", "at midnight", "in the dark of night", "late at night"),
}
_SKY_PHRASES = {
    "clear": ("under a clear sky", "with a clear sky", "with no clouds", "under a cloudless sky"),
    "cloudy": ("under a cloudy sky", "with clouds", "with a cloudy sky", "with clouds in the sky"),
    "rainy": ("in the rain", "with rain", "in rainy weather", "under rain clouds", "while it rains"),
    "rainbow": ("with a rainbow", "under a rainbow", "with a rainbow in the sky", "below a bright rainbow"),
    "starry": ("under the stars", "under a starry sky", "with stars in the sky", "with many stars"),
    "aurora": ("with northern lights", "under the northern lights", "with an aurora", "under an aurora"),
}
_MOON_PHRASES = {
    "full": ("under a full moon", "with a full moon", "in the light of a full moon"),
    "crescent": ("under a crescent moon", "with a crescent moon", "with a thin crescent moon"),
}
_SEASON_PHRASES = {
    "summer": ("in summer", "in the summertime", "in the warm summer", "in midsummer"),
    "autumn": ("in autumn", "in fall", "in autumn colours", "in the colours of autumn"),
    "winter": ("in winter", "in the snow", "covered in snow", "in the wintertime"),
}
_LAND_NOUNS = {
    "mountains": ("mountains", "a mountain range", "rocky mountains", "tall mountains", "bare mountains"),
    "snowy mountains": ("snowy mountains", "snow-capped mountains", "snowy peaks", "mountains with snow on top"),
    "hills": ("hills", "rolling hills", "gentle hills", "a hilly land"),
    "dunes": ("dunes", "sand dunes", "a desert", "desert dunes", "a sandy desert"),
    "beach": ("a beach", "a sandy beach", "the sea", "the seaside", "a beach by the sea"),
    "lake": ("a lake", "a calm lake", "a quiet lake", "a still lake"),
    "forest": ("a forest", "the woods", "a deep forest", "a quiet forest"),
    "meadow": ("a meadow", "a meadow with flowers", "a flower meadow", "a field of flowers"),
    "river": ("a river", "a winding river", "a stream", "a river valley"),
    "island": ("an island", "a small island", "an island in the sea", "a palm island"),
}
_BACKDROP_PHRASES = ("under {}", "below {}", "with {} behind", "in front of {}", "with {} in the background")
_THING_NOUNS = {
    "house": ("house", "cottage", "cabin", "hut"),
    "sailboat": ("sailboat", "sailing boat", "boat", "yacht"),
    "cactus": ("cactus", "green cactus", "tall cactus"),
    "balloon": ("balloon", "hot air balloon", "hot-air balloon"),
    "lighthouse": ("lighthouse", "tall lighthouse", "red and white lighthouse"),
    "tent": ("tent", "tent with a fire", "tent and a campfire", "camping tent"),
    "birds": ("birds", "flying birds", "a flock of birds", "some birds"),
    "windmill": ("windmill", "old windmill", "wooden windmill"),
}
_IN_THE_AIR = ("over", "above", "in the sky over", "floating over", "high above")
_ON_LAND = {
    "beach": ("on", "at"),
    "island": ("on",),
    "lake": ("by", "near"),
    "river": ("by", "near"),
}
"""How a thing stands to its land; in or near it, where nothing else is said."""
_PLACE_PHRASES = {
    "left": ("on the left", "to the left", "on the left side"),
    "middle": ("in the middle", "in the centre", "in the center"),
    "right": ("on the right", "to the right", "on the right side"),
    "far": ("far away", "in the distance", "in the far distance"),
}
_OPENINGS = ("a picture of", "a painting of", "a drawing of", "an illustration of", "a landscape with", "flat art of")

_JOINTS = ("a", "an", "and", "near", "off", "in", "there is", "there are", "sail", "sails")
"""Words between the phrases."""
_EXAMPLES = (
    "a lake under snowy mountains at sunset",
    "two red hot air balloons over hills in autumn",
    "a lighthouse on an island at night under a full moon",
    "a windmill in a meadow with a rainbow",
    "a yacht with a blue sail on a calm lake at sunrise",
    "snowy mountains at night under the northern lights",
    "a cactus in a sandy desert under the stars",
    "a cottage in a forest in winter with clouds",
    "a tent with a fire by a river in the evening",
    "a flock of birds above a beach at noon",
)

_HOW_OFTEN: dict[str, dict[str, float]] = {
    "land": {},
    "time": {},
    "sky": {"clear": 0.35, "cloudy": 0.6},
    "moon": {"full": 0.6, "crescent": 0.7},
    "season": {"summer": 0.3},
    "place": {"left": 0.65, "middle": 0.65, "right": 0.65, "far": 0.8},
    "colour": {"red": 0.75, "blue": 0.75, "yellow": 0.75},
}
"""What a caption may leave out, and how often it tells it, by value, where that is not nearly always.

What is striking is told more often.
"""
_NEARLY_ALWAYS = 0.93
_HELD_OUT_SHARE = 0.6
"""How often a held-out prompt tells what it need not tell."""
_SHORT = 0.06
"""Share of captions that tell one thing alone: "sunset"."""


@dataclass(frozen=True)
class Prompt:
    """A text and the attributes it asks for, by name; what it leaves open is not in ``asked``."""

    text: str
    asked: dict[str, str]


def vocabulary() -> dict[str, list[str]]:
    """Return the words that captions are made of, and prompts to begin with: what `vocabulary.json` of a bundle has."""
    tables = (_TIME_PHRASES, _SKY_PHRASES, _MOON_PHRASES, _SEASON_PHRASES, _LAND_NOUNS, _THING_NOUNS, _ON_LAND)
    phrases = [phrase for table in (*tables, _PLACE_PHRASES) for options in table.values() for phrase in options]
    phrases += [_plural(noun) for thing in COUNTED for noun in _THING_NOUNS[thing]]
    phrases += [*_BACKDROP_PHRASES, *_IN_THE_AIR, *_OPENINGS, *COUNTS, *COLOURS, *_JOINTS]
    return {"words": sorted(set(re.findall("[a-z]+", " ".join(phrases)))), "examples": list(_EXAMPLES)}


def caption(scene: Scene, generator: np.random.Generator) -> Prompt:
    """Describe a scene for training: its thing (unless one word is all), mostly its time and land, often more."""
    if generator.random() < _SHORT:
        return _short(scene, generator)
    told = {
        name
        for name, shares in _HOW_OFTEN.items()
        if generator.random() < shares.get(getattr(scene, name), _NEARLY_ALWAYS)
    }
    # Without the land there would be nothing left to stand before a backdrop, or nothing at all.
    if scene.thing is None or scene.behind is not None:
        told.add("land")
    return _describe(scene, told, generator)


def held_out_prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Return prompts no training caption equals: their time, land and thing, or sky, were never seen together.

    They go round the held-out combinations, so that every thing and sky is met; the seed changes scenes and wording.
    """
    generator = np.random.default_rng([seed, 2])
    prompts = []
    for number in range(count):
        scene = draw_held_out_scene(generator, number)
        told = {name for name in _HOW_OFTEN if generator.random() < _HELD_OUT_SHARE}
        prompts.append(_describe(scene, told | {"time", "land"} | _needed(scene), generator))
    return prompts


def _needed(scene: Scene) -> set[str]:
    """Return the sky's name where it is the sky that makes the scene a held-out one."""
    return {"sky"} if (scene.time, scene.land, scene.sky) in HELD_OUT else set()


def _short(scene: Scene, generator: np.random.Generator) -> Prompt:
    tellings = [
        ("time", _pick(generator, _TIME_PHRASES[scene.time]).removeprefix("at ")),
        ("land", _pick(generator, _LAND_NOUNS[scene.land])),
        ("sky", _pick(generator, _SKY_PHRASES[scene.sky])),
    ]
    name, text = tellings[int(generator.integers(len(tellings)))]
    if scene.thing is None or name == "time":
        return Prompt(text, {name: getattr(scene, name)})
    return Prompt(_thing_words(scene, {"count"}, generator), _asked(scene, {"thing", "count"}))


def _describe(scene: Scene, told: set[str], generator: np.random.Generator) -> Prompt:
    told = told | {"behind", "thing", "count"}
    subject = _pick(generator, _LAND_NOUNS[scene.land]) if "land" in told else ""
    if scene.behind is not None:
        peaks = _pick(generator, _LAND_NOUNS[scene.behind])
        subject = f"{subject} {_pick(generator, _BACKDROP_PHRASES).format(peaks)}"
    if scene.thing is not None:
        subject = _with_thing(scene, subject, told, generator)
    phrases = {
        "time": _TIME_PHRASES[scene.time],
        "sky": _SKY_PHRASES[scene.sky],
        "moon": _MOON_PHRASES.get(scene.moon or "", ()),
        "season": _SEASON_PHRASES[scene.season],
    }
    details = [_pick(generator, options) for name, options in phrases.items() if name in told and options]
    if generator.random() < 0.5:
        generator.shuffle(details)
    return Prompt(_arrange(subject, details, generator), _asked(scene, told))


def _asked(scene: Scene, told: set[str]) -> dict[str, str]:
    values = {name: getattr(scene, name) for name in ATTRIBUTES if name in told}
    return {name: value for name, value in values.items() if value is not None}


def _with_thing(scene: Scene, subject: str, told: set[str], generator: np.random.Generator) -> str:
    words = _thing_words(scene, told, generator)
    if not subject:
        return words
    if generator.random() < 0.35:
        joint = _pick(generator, ("with", "and"))
        return f"{subject} {joint} {words}"
    return f"{words} {_pick(generator, _prepositions(scene, subject))} {subject}"


def _prepositions(scene: Scene, land: str) -> Sequence[str]:
    sea = land.startswith("the sea")
    if scene.thing in ("balloon", "birds"):
        return _IN_THE_AIR
    if scene.thing == "sailboat":
        return ("on",) if sea or scene.land == "lake" else ("near", "off")
    return ("by", "near") if sea else _ON_LAND.get(scene.land, ("in", "near"))


def _thing_words(scene: Scene, told: set[str], generator: np.random.Generator) -> str:
    """Return the thing with its number, colour and place: "two red houses", "a yacht with a blue sail far away"."""
    noun = _pick(generator, _THING_NOUNS[str(scene.thing)])
    number = scene.count or "one"
    colour = scene.colour if scene.colour and "colour" in told else ""
    sails = scene.thing == "sailboat" and colour != ""
    if scene.thing == "birds":
        words = noun
    elif number == "one":
        words = f"{colour} {noun}" if colour and not sails else noun
        words = f"{_article(words, generator)} {words}"
    else:
        words = f"{number} {colour} {_plural(noun)}" if colour and not sails else f"{number} {_plural(noun)}"
    if sails:
        words = f"{words} with {f'a {colour} sail' if number == 'one' else f'{colour} sails'}"
    if scene.place and "place" in told:
        words = f"{words} {_pick(generator, _PLACE_PHRASES[scene.place])}"
    return words


def _plural(noun: str) -> str:
    return noun.replace("cactus", "cacti") if noun.endswith("cactus") else f"{noun}s"


def _article(words: str, generator: np.random.Generator) -> str:
    if generator.random() < 0.15:
        return "one"
    return "an" if words[0] in "aeiou" else "a"


def _arrange(subject: str, details: list[str], generator: np.random.Generator) -> str:
    style = generator.random()
    tail = " ".join(details)
    if style < 0.12 and details:
        return f"{tail}, {subject}"
    if style < 0.3:
        return ", ".join([subject, *details])
    text = f"{subject} {tail}".strip()
    if style < 0.55:
        text = f"{_pick(generator, _OPENINGS)} {text}"
    elif style < 0.65:
        text = _there_is(text)
    # Some look like sentences: people write a full stop, and it is a token.
    return f"{text[0].upper()}{text[1:]}." if generator.random() < 0.2 else text


def _there_is(text: str) -> str:
    if text.startswith(("two ", "three ", "some ")):
        return f"there are {text}"
    return f"there is {text}" if text.startswith(("a ", "an ", "one ")) else text


def _pick(generator: np.random.Generator, phrases: Sequence[str]) -> str:
    return phrases[int(generator.integers(len(phrases)))]
