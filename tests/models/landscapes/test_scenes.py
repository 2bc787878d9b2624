import numpy as np
import pytest

from pocket_models.landscapes.painting import SIZE, paint
from pocket_models.landscapes.scenes import Scene, draw_scene, sensible_scenes


def test_a_scene_and_a_seed_always_give_the_same_picture() -> None:
    scene = Scene("night", "cloudy", "lake", behind="snowy mountains", thing="sailboat")
    first, again = paint(scene, seed=7), paint(scene, seed=7)
    assert first.size == (SIZE, SIZE)
    assert first.mode == "RGB"
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("scene", sensible_scenes()[::17], ids=str)
def test_another_seed_gives_a_clearly_different_picture(scene: Scene) -> None:
    first, second = (np.asarray(paint(scene, seed), np.float64) for seed in (1, 2))
    assert np.abs(first - second).mean() > 2


def test_attributes_change_the_picture() -> None:
    scene = Scene("noon", "clear", "lake")
    others = (
        Scene("sunset", "clear", "lake"),
        Scene("noon", "cloudy", "lake"),
        Scene("noon", "clear", "beach"),
        Scene("noon", "clear", "lake", behind="mountains"),
        Scene("noon", "clear", "lake", thing="balloon"),
    )
    plain = np.asarray(paint(scene, 3), np.float64)
    for other in others:
        assert np.abs(np.asarray(paint(other, 3), np.float64) - plain).mean() > 2, other


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"land": "forest", "thing": "sailboat"}, "sailboat does not belong in forest"),
        ({"land": "beach", "behind": "mountains"}, "behind beach"),
        ({"land": "swamp"}, "'swamp', must be one of"),
    ],
)
def test_refuses_a_scene_that_makes_no_sense(attributes: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Scene("noon", "clear", **attributes)


def _triple(scene: Scene) -> tuple[str, str, str]:
    return scene.time, scene.land, scene.sky if scene.thing is None else scene.thing


def test_every_pair_of_a_held_out_triple_is_trained_on_in_other_company() -> None:
    held_out = {_triple(scene) for scene in sensible_scenes() if scene.held_out}
    trained = {_triple(scene) for scene in sensible_scenes() if not scene.held_out}
    assert len(held_out) == 15
    assert not held_out & trained
    for time, land, third in held_out:
        assert any((time, land) == (t, i) for t, i, _ in trained)
        assert any((time, third) == (t, k) for t, _, k in trained)
        assert any((land, third) == (i, k) for _, i, k in trained)


def test_training_never_draws_a_held_out_scene() -> None:
    generator = np.random.default_rng(0)
    drawn = {draw_scene(generator) for _ in range(2000)}
    trainable = {scene for scene in sensible_scenes() if not scene.held_out}
    assert drawn <= trainable
    # The rarest scene has a chance of 1 in 840 a draw, so a few may still be missing.
    assert len(drawn) > 0.9 * len(trainable)
