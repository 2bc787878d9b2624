"""Prompts for scenes: varied in order, wording and detail, never contradicting the scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocket_models.landscapes.scenes import Scene, sensible_scenes

_TIME_PHRASES = {
    "sunrise": ("at sunrise", "at dawn", "in the early morning", "at daybreak", "as the sun rises"),
    "noon": ("at noon", "at midday", "in bright daylight", "by day", "in the middle of the day"),
    "sunset": ("at sunset", "at dusk", "in the evening", "as the sun goes down", "at sundown"),
    "night": ("at night", "by night", "at midnight", "under the moon", "in the moonlight"),
}
_SKY_PHRASES = {
    "clear": ("under a clear sky", "with a clear sky", "with no clouds", "under a cloudless sky"),
    "cloudy": ("under a cloudy sky", "with clouds", "with a cloudy sky", "with clouds in the sky"),
}
_LAND_NOUNS = {
    "mountains": ("mountains", "a mountain range", "rocky mountains", "tall mountains", "bare mountains"),
    "snowy mountains": ("snowy mountains", "snow-capped mountains", "snowy peaks", "mountains covered in snow"),
    "hills": ("hills", "green hills", "rolling hills", "grassy hills"),
    "dunes": ("dunes", "sand dunes", "a desert", "desert dunes", "a sandy desert"),
    "beach": ("a beach", "a sandy beach", "the sea", "the seaside", "a beach by the sea"),
    "lake": ("a lake", "a calm lake", "a quiet lake", "a still lake"),
    "forest": ("a forest", "a pine forest", "pine woods", "a forest of pines", "the woods"),
}
_BACKDROP_PHRASES = ("under {}", "below {}", "with {} behind", "in front of {}", "with {} in the background")
_THING_NOUNS = {
    "house": ("a house", "a small house", "a cottage", "a cabin", "a little house"),
    "sailboat": ("a sailboat", "a sailing boat", "a boat", "a small sailboat", "a yacht"),
    "cactus": ("a cactus", "a green cactus", "a tall cactus", "a cactus plant"),
    "balloon": ("a balloon", "a hot air balloon", "a hot-air balloon", "a red balloon", "a colourful balloon"),
}
_THING_PLACES = {
    "house": ("in", "by", "near"),
    "sailboat": ("on", "at", "near"),
    "cactus": ("in", "among", "on"),
    "balloon": ("over", "above", "in the sky over", "floating over", "high above"),
}
_OPENINGS = ("a picture of", "a painting of", "a drawing of", "an illustration of", "a landscape with", "flat art of")


@dataclass(frozen=True)
class Prompt:
    """A text and the attributes it asks for, by name; what it leaves open is not in ``asked``."""

    text: str
    asked: dict[str, str]


def caption(scene: Scene, generator: np.random.Generator) -> Prompt:
    """Describe a scene for training: always its thing and its backdrop, mostly its time and land, often its sky."""
    # Without the land there would be nothing left to stand before a backdrop, or nothing at all.
    land = scene.thing is None or scene.behind is not None or generator.random() < 0.93
    return _describe(
        scene,
        generator,
        time=generator.random() < 0.93,
        sky=generator.random() < 0.6,
        land=land,
    )


def held_out_prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Return prompts no training caption equals: their time, land and thing (or sky) were never seen together.

    They go round the held-out scenes, so that a small count is a fair choice; the seed changes the wording.
    """
    generator = np.random.default_rng([seed, 2])
    scenes = [scene for scene in sensible_scenes() if scene.held_out]
    generator.shuffle(scenes)
    prompts = []
    for index in range(count):
        scene = scenes[index % len(scenes)]
        sky = scene.thing is None or bool(generator.random() < 0.5)
        prompts.append(_describe(scene, generator, time=True, sky=sky, land=True))
    return prompts


def _describe(scene: Scene, generator: np.random.Generator, *, time: bool, sky: bool, land: bool) -> Prompt:
    asked: dict[str, str] = {}
    subject = ""
    if land:
        asked["land"] = scene.land
        subject = _pick(generator, _LAND_NOUNS[scene.land])
    if scene.behind is not None:
        asked["behind"] = scene.behind
        peaks = _pick(generator, _LAND_NOUNS[scene.behind])
        subject = f"{subject} {_pick(generator, _BACKDROP_PHRASES).format(peaks)}"
    if scene.thing is not None:
        asked["thing"] = scene.thing
        subject = _with_thing(scene.thing, subject, generator)
    details = []
    if time:
        asked["time"] = scene.time
        details.append(_pick(generator, _TIME_PHRASES[scene.time]))
    if sky:
        asked["sky"] = scene.sky
        details.append(_pick(generator, _SKY_PHRASES[scene.sky]))
    if generator.random() < 0.4:
        details.reverse()
    return Prompt(_arrange(subject, details, generator), asked)


def _with_thing(thing: str, subject: str, generator: np.random.Generator) -> str:
    noun = _pick(generator, _THING_NOUNS[thing])
    if not subject:
        return noun
    if generator.random() < 0.35:
        joint = _pick(generator, ("with", "and"))
        return f"{subject} {joint} {noun}"
    return f"{noun} {_pick(generator, _THING_PLACES[thing])} {subject}"


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
    # Some look like sentences: people write a full stop, and it is a token.
    return f"{text[0].upper()}{text[1:]}." if generator.random() < 0.2 else text


def _pick(generator: np.random.Generator, phrases: tuple[str, ...]) -> str:
    return phrases[int(generator.integers(len(phrases)))]
