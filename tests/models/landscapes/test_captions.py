import re

import numpy as np

from pocket_models.landscapes.captions import Prompt, caption, held_out_prompts
from pocket_models.landscapes.scenes import Scene, draw_scene

# Written apart from captions.py's own lists: what a reader would take each attribute from.
SIGNS = {
    "time": {
        "sunrise": r"sunrise|dawn|morning|daybreak|sun rises",
        "noon": r"noon|midday|daylight|by day|middle of the day",
        "sunset": r"sunset|dusk|evening|goes down|sundown",
        "night": r"night|moon",
    },
    "sky": {"clear": r"clear|no clouds|cloudless", "cloudy": r"cloudy|with clouds"},
    "land": {
        "hills": r"hills",
        "dunes": r"dunes|desert",
        "beach": r"beach|sea",
        "lake": r"lake",
        "forest": r"forest|woods",
    },
    "thing": {
        "house": r"house|cottage|cabin",
        "sailboat": r"boat|yacht",
        "cactus": r"cactus",
        "balloon": r"balloon",
    },
}
SNOWY = r"snow"
PEAKS = r"mountain|peaks"


def _named(text: str, attribute: str) -> set[str]:
    # "midnight" holds "night", "afternoon" would hold "noon": whole words only, but plurals and compounds pass.
    text = text.lower().replace("midnight", "night")
    return {value for value, pattern in SIGNS[attribute].items() if re.search(rf"\b(?:\w*)(?:{pattern})", text)}


def _scenes_and_captions(count: int) -> list[tuple[Scene, Prompt]]:
    generator = np.random.default_rng(5)
    scenes = [draw_scene(generator) for _ in range(count)]
    return [(scene, caption(scene, generator)) for scene in scenes]


def test_captions_name_what_they_ask_for_and_contradict_nothing() -> None:
    for scene, prompt in _scenes_and_captions(3000):
        for attribute in ("time", "sky", "thing"):
            expected = {prompt.asked[attribute]} if attribute in prompt.asked else set()
            assert _named(prompt.text, attribute) == expected, prompt
        peaks = {prompt.asked.get("land"), prompt.asked.get("behind")} & {"mountains", "snowy mountains"}
        assert bool(re.search(PEAKS, prompt.text.lower())) == bool(peaks), prompt
        assert bool(re.search(SNOWY, prompt.text.lower())) == ("snowy mountains" in peaks), prompt
        other_land = {prompt.asked.get("land")} - {None, "mountains", "snowy mountains"}
        assert _named(prompt.text, "land") == other_land, prompt
        assert prompt.asked.items() <= vars(scene).items()


def test_a_thing_is_never_left_out() -> None:
    assert all(prompt.asked.get("thing") == scene.thing for scene, prompt in _scenes_and_captions(500))


def test_captions_vary() -> None:
    generator = np.random.default_rng(0)
    scene = Scene("sunset", "clear", "lake", behind="snowy mountains")
    texts = {caption(scene, generator).text for _ in range(200)}
    assert len(texts) > 150
    assert len({len(text.split()) for text in texts}) > 8


def test_held_out_prompts_ask_for_what_no_caption_can() -> None:
    prompts = held_out_prompts(200)
    assert len(prompts) == 200
    assert held_out_prompts(200) == prompts
    trained = _scenes_and_captions(5000)
    for prompt in prompts:
        assert {"time", "land"} <= set(prompt.asked)
        assert "thing" in prompt.asked or "sky" in prompt.asked
        core = {name: prompt.asked.get(name) for name in ("time", "land", "thing")}
        if core["thing"] is None:
            core["sky"] = prompt.asked["sky"]
        assert not any(all(other.asked.get(name) == value for name, value in core.items()) for _, other in trained)
