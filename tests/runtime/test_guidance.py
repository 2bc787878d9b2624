"""Classifier-free guidance."""

import numpy as np
import pytest

from pocket_diffusion.guidance import classifier_free, is_guided


@pytest.mark.parametrize(("scale", "guided"), [(0.0, False), (1.0, False), (1.01, True), (7.5, True)])
def test_only_scales_above_one_need_the_unconditional_prediction(scale: float, guided: bool) -> None:
    assert is_guided(scale) == guided


def test_scales_go_from_the_unconditional_through_the_conditional_prediction_and_beyond() -> None:
    unconditional, conditional = np.float32([1, 2]), np.float32([3, 1])
    for scale, expected in ((0, [1, 2]), (1, [3, 1]), (7.5, [16, -5.5])):
        found = classifier_free(unconditional, conditional, scale)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected)
