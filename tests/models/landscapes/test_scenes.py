from dataclasses import replace

import numpy as np
import pytest

from pocket_models.landscapes.painting import SIZE, paint
from pocket_models.landscapes.scenes import (
    ATTRIBUTES,
    HELD_OUT,
    LANDS,
    THINGS,
    TIMES,
    Scene,
    draw_scene,
    draw_training_scene,
)


def _scenes(count: int, seed: int = 0) -> list[Scene]:
    generator = np.random.default_rng(seed)
    return [draw_scene(generator) for _ in range(count)]


def test_a_scene_and_a_seed_always_give_the_same_picture() -> None:
    scene = Scene("lake", "sailboat", "night", "cloudy", "crescent", "autumn", "snowy mountains", "two", None, "red")
    first, again = paint(scene, seed=7), paint(scene, seed=7)
    assert first.size == (SIZE, SIZE)
    assert first.mode == "RGB"
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("scene", _scenes(30), ids=str)
def test_another_seed_gives_a_clearly_different_picture(scene: Scene) -> None:
    first, second = (np.asarray(paint(scene, seed), np.float64) for seed in (1, 2))
    assert np.abs(first - second).mean() > 1.5


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_value_of_every_attribute_shows(name: str) -> None:
    """Of two scenes that differ in one attribute the pictures differ, whatever the value."""
    compared = set()
    for scene in _scenes(1500):
        for value in ATTRIBUTES[name]:
            try:
                other = replace(scene, **{name: value})
            except ValueError:
                continue
            pair = frozenset((getattr(scene, name), value))
            if len(pair) == 2 and pair not in compared:
                compared.add(pair)
                difference = np.asarray(paint(scene, 3), np.float64) - np.asarray(paint(other, 3), np.float64)
                # A small far thing fills a hundredth of the picture.
                assert np.abs(difference).mean() > 0.2, (scene, other)
    assert compared or name == "count"  # one thing has a place and two have none: both would differ


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"land": "forest", "thing": "sailboat"}, "'sailboat' in .*must be one of"),
        ({"land": "beach", "behind": "mountains"}, "'mountains' in"),
        ({"land": "swamp"}, "'swamp', must be one of"),
        ({"land": "hills", "sky": "aurora"}, "'aurora' in"),
        ({"land": "hills", "moon": "full"}, "'full' in"),
        ({"land": "dunes", "season": "winter"}, "'winter' in"),
        ({"land": "hills", "thing": "house", "count": "two", "place": "left", "colour": "red"}, "'left' in"),
        ({"land": "hills", "thing": "house", "count": "one", "place": "left"}, "colour is None"),
        ({"land": "hills", "thing": "birds", "time": "night", "moon": "full"}, "'night' in"),
    ],
)
def test_refuses_a_scene_that_makes_no_sense(attributes: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Scene(**attributes)


def test_every_pair_of_a_held_out_triple_is_trained_on_in_other_company() -> None:
    trained = {(scene.time, scene.land, scene.thing or scene.sky) for scene in _scenes(20_000)} - HELD_OUT
    assert len(HELD_OUT) == 38
    assert {time for time, _, _ in HELD_OUT} == set(TIMES)
    assert {land for _, land, _ in HELD_OUT} == set(LANDS)
    assert len({last for _, _, last in HELD_OUT} & set(THINGS)) == 5
    for time, land, last in HELD_OUT:
        assert any((time, land) == (t, i) for t, i, _ in trained)
        assert any((time, last) == (t, k) for t, _, k in trained)
        assert any((land, last) == (i, k) for _, i, k in trained)


def test_training_never_draws_a_held_out_scene() -> None:
    generator = np.random.default_rng(0)
    drawn = [draw_training_scene(generator) for _ in range(5000)]
    assert not any(scene.held_out for scene in drawn)
    for name, values in ATTRIBUTES.items():
        assert {getattr(scene, name) for scene in drawn} == set(values)


def test_a_core_is_kept() -> None:
    generator = np.random.default_rng(1)
    for core in HELD_OUT:
        scene = draw_scene(generator, core)
        assert (scene.time, scene.land, scene.thing or scene.sky) == core
        assert scene.held_out
