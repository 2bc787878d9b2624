import numpy as np
import pytest

from pocket_models.landscapes.painting import SIZE, paint
from pocket_models.landscapes.scenes import (
    ATTRIBUTES,
    HELD_OUT,
    LANDS,
    SKIES,
    THINGS,
    TIMES,
    Scene,
    draw_held_out_scene,
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


def test_what_is_not_asked_to_change_stays() -> None:
    """Each painter has a generator of its own; that the attributes show is for the probes' tests."""
    clear, cloudy, house = (
        np.asarray(paint(scene, 3))
        for scene in (
            Scene("hills"),
            Scene("hills", sky="cloudy"),
            Scene("hills", "house", count="one", place="left", colour="red"),
        )
    )
    np.testing.assert_array_equal(clear[90:], cloudy[90:])
    np.testing.assert_array_equal(clear[:, 64:], house[:, 64:])
    assert (clear[:60] != cloudy[:60]).any()
    assert (clear[80:, :64] != house[80:, :64]).any()


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


def test_every_pair_of_a_held_out_combination_is_trained_on_in_other_company() -> None:
    scenes = [scene for scene in _scenes(20_000) if not scene.held_out]
    trained = {(scene.time, scene.land, last) for scene in scenes for last in (scene.thing, scene.sky)}
    assert not trained & HELD_OUT
    assert {time for time, _, _ in HELD_OUT} == set(TIMES)
    assert {land for _, land, _ in HELD_OUT} == set(LANDS)
    assert {last for _, _, last in HELD_OUT} == {*THINGS, *SKIES}
    for time, land, last in HELD_OUT:
        assert any((time, land) == (t, i) for t, i, _ in trained)
        assert any((time, last) == (t, k) for t, _, k in trained)
        if last not in ("starry", "aurora"):  # there is no other time to see them at
            assert any((land, last) == (i, k) for _, i, k in trained)


def test_training_never_draws_a_held_out_scene() -> None:
    generator = np.random.default_rng(0)
    drawn = [draw_training_scene(generator) for _ in range(5000)]
    assert not any(scene.held_out for scene in drawn)
    for name, values in ATTRIBUTES.items():
        assert {getattr(scene, name) for scene in drawn} == set(values)


def test_every_held_out_combination_is_met_in_turn() -> None:
    generator = np.random.default_rng(1)
    scenes = [draw_held_out_scene(generator, number) for number in range(len(HELD_OUT))]
    assert all(scene.held_out for scene in scenes)
    assert {(s.time, s.land, last) for s in scenes for last in (s.thing, s.sky)} >= HELD_OUT
