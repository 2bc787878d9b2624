import re

import numpy as np

from pocket_diffusion.bundle import Bundle
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_models.landscapes.captions import Prompt, caption, held_out_prompts, vocabulary
from pocket_models.landscapes.scenes import ATTRIBUTES, HELD_OUT, Scene, draw_training_scene

# Written apart from captions.py's own lists: what a reader would take each attribute from.
SIGNS = {
    "land": {
        "hills": r"hill",
        "dunes": r"dunes|desert",
        "beach": r"beach|seaside|the sea\b(?<!in the sea)",
        "lake": r"lake",
        "forest": r"forest|woods",
        "meadow": r"meadow|field",
        "river": r"river|stream",
        "island": r"island",
    },
    "thing": {
        "house": r"house(?<!lighthouse)|cottage|cabin|\bhut",
        "sailboat": r"boat|yacht",
        "cactus": r"cact",
        "balloon": r"balloon",
        "lighthouse": r"lighthouse",
        "tent": r"tent",
        "birds": r"birds",
        "windmill": r"windmill",
    },
    "time": {
        "sunrise": r"sunrise|dawn|morning|daybreak|sun rises",
        "noon": r"noon|midday|daylight|by day|middle of the day",
        "sunset": r"sunset|dusk|evening|goes down|sundown",
        "night": r"night",
    },
    "sky": {
        "clear": r"clear|no clouds|cloudless",
        "cloudy": r"cloudy|with clouds",
        "rainy": r"\brain\b|rainy|rains",
        "rainbow": r"rainbow",
        "starry": r"star",
        "aurora": r"northern|aurora",
    },
    "moon": {"full": r"full moon", "crescent": r"crescent"},
    "season": {"summer": r"summer", "autumn": r"autumn|\bfall\b", "winter": r"winter|in the snow|covered in snow"},
    "count": {"two": r"\btwo\b", "three": r"\bthree\b"},
    "place": {
        "left": r"left",
        "middle": r"in the (?:middle(?! of )|centre|center)",
        "right": r"right(?!ly)(?<!bright)",
        "far": r"far away|distance",
    },
    "colour": {"red": r"\bred\b(?! and white)", "blue": r"blue", "yellow": r"yellow"},
}
SNOWY = r"snowy (?:mountains|peaks)|snow-capped|snow on top"
PEAKS = r"mountain|peaks"


def _named(text: str, attribute: str) -> set[str]:
    return {value for value, pattern in SIGNS[attribute].items() if re.search(pattern, text.lower())}


def _scenes_and_captions(count: int) -> list[tuple[Scene, Prompt]]:
    generator = np.random.default_rng(5)
    scenes = [draw_training_scene(generator) for _ in range(count)]
    return [(scene, caption(scene, generator)) for scene in scenes]


def test_captions_name_what_they_ask_for_and_contradict_nothing() -> None:
    for scene, prompt in _scenes_and_captions(4000):
        assert prompt.asked.items() <= vars(scene).items()
        for attribute in SIGNS:
            said = prompt.asked.get(attribute)
            if attribute == "land" and said in ("mountains", "snowy mountains"):
                said = None
            if attribute == "count" and said == "one":
                said = None
            assert _named(prompt.text, attribute) == ({said} - {None}), (attribute, prompt)
        peaks = {prompt.asked.get("land"), prompt.asked.get("behind")} & {"mountains", "snowy mountains"}
        assert bool(re.search(PEAKS, prompt.text.lower())) == bool(peaks), prompt
        assert bool(re.search(SNOWY, prompt.text.lower())) == ("snowy mountains" in peaks), prompt


def test_a_thing_is_left_out_only_where_the_time_is_all_that_is_said() -> None:
    for scene, prompt in _scenes_and_captions(1000):
        assert prompt.asked.get("thing") == scene.thing or set(prompt.asked) == {"time"}


def test_captions_vary_from_a_word_to_a_sentence() -> None:
    generator = np.random.default_rng(0)
    scene = Scene("lake", "house", "sunset", behind="snowy mountains", count="one", place="left", colour="red")
    texts = {caption(scene, generator).text for _ in range(300)}
    assert len(texts) > 250
    lengths = {len(text.split()) for text in texts}
    assert min(lengths) <= 2
    assert max(lengths) >= 18


def test_held_out_prompts_ask_for_what_no_caption_can() -> None:
    prompts = held_out_prompts(200)
    assert len(prompts) == 200
    assert held_out_prompts(200) == prompts
    assert len({prompt.text for prompt in prompts}) > 190
    for prompt in prompts:
        asked = prompt.asked
        lasts = (asked.get("thing"), asked.get("sky"))
        assert any((asked["time"], asked["land"], last) in HELD_OUT for last in lasts), prompt
    for name, values in ATTRIBUTES.items():
        assert {prompt.asked.get(name) for prompt in prompts} >= set(values) - {None}, name


def test_captions_are_english() -> None:
    for _, prompt in _scenes_and_captions(4000):
        text = prompt.text.lower()
        assert not re.search(r"there is (?:two|three|some|snowy|mountains|dunes|the)|there are (?:a|an|one) ", text), (
            text
        )
        assert not re.search(r"\ba [aeiou](?!ne)|\ban [^aeiou]|  | ,|yellow little|one one", text), text
        assert not re.search(r"\b(?:in|on) (?:a |the )?(?:calm |quiet |still )?(?:river|stream)", text), text
        if re.search("house|cottage|cabin|hut|tent", text):
            assert not re.search(
                r"\b(?:in|on) (?:a |the )(?:calm |quiet |still )?(?:lake|sea)\b(?<!island in the sea)", text
            ), text


def test_the_vocabulary_is_what_captions_are_made_of_and_the_embedded_bundles() -> None:
    generator = np.random.default_rng(0)
    told = (caption(draw_training_scene(generator), generator).text.lower() for _ in range(4000))
    assert {word for text in told for word in re.findall("[a-z]+", text)} == set(vocabulary()["words"])
    embedded = Bundle.open(DEFAULT_BUNDLE).vocabulary()
    assert embedded is not None
    assert {"words": list(embedded.words), "examples": list(embedded.examples)} == vocabulary()
    assert [embedded.unknown_words(example) for example in embedded.examples] == [[]] * len(embedded.examples)
