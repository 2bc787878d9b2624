"""Classifier-free guidance, its rescaling, and when it applies."""

import numpy as np
import pytest

from pocket_diffusion.drawing.guidance import Guidance, is_guided


@pytest.mark.parametrize(("scale", "guided"), [(0.0, False), (1.0, False), (1.01, True), (7.5, True)])
def test_only_scales_above_one_need_the_unconditional_prediction(scale: float, guided: bool) -> None:
    assert is_guided(scale) == guided
    assert Guidance(scale=scale).applies(0.5) == guided


def test_scales_go_from_the_unconditional_through_the_conditional_prediction_and_beyond() -> None:
    unconditional, conditional = np.float32([1, 2]), np.float32([3, 1])
    for scale, expected in ((0, [1, 2]), (1, [3, 1]), (7.5, [16, -5.5])):
        found = Guidance(scale=scale).combine(unconditional, conditional)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_is_that_of_diffusers(rescale: float) -> None:
    torch = pytest.importorskip("torch")
    pipelines = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    unconditional, conditional = np.random.default_rng(0).normal(0.2, 1.5, (2, 1, 4, 8, 6)).astype(np.float32)
    guided = torch.tensor(unconditional + 7 * (conditional - unconditional))
    expected = pipelines.rescale_noise_cfg(guided, torch.tensor(conditional), rescale).numpy()
    found = Guidance(scale=7, rescale=rescale).combine(unconditional, conditional)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # float32 sums


def test_rescaling_whole_gives_the_conditional_deviation() -> None:
    unconditional, conditional = np.random.default_rng(1).normal(0, 1, (2, 1, 4, 8, 8)).astype(np.float32)
    found = Guidance(scale=9, rescale=1).combine(unconditional, conditional)
    assert found.std() == pytest.approx(conditional.std(), rel=1e-5)


def test_an_interval_guides_the_steps_that_begin_in_it() -> None:
    guidance = Guidance(scale=7, interval=(0.2, 0.6))
    assert [guidance.applies(step / 10) for step in range(10)] == [False] * 2 + [True] * 4 + [False] * 4
