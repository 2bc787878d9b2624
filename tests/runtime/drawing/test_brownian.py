"""The Brownian path: what defines one, and what a sampler gains by it."""

import itertools
import math

import numpy as np
import pytest

from pocket_diffusion.drawing.brownian import BrownianNoise
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedule import NoiseSchedule, TrainedLevels

SHAPE = (1, 4, 64, 64)
COUNT = math.prod(SHAPE)
FIVE_SIGMA = 5 / math.sqrt(COUNT)
"""Of a mean or a correlation of so many numbers; chance exceeds it once in a million."""
INTERVALS = [(4096.0, 2000.0), (14.6, 9.3), (9.3, 9.29), (1.0, 0.4), (0.031, 0.0305), (0.03, 0.0)]


@pytest.mark.parametrize(("sigma", "sigma_next"), INTERVALS)
def test_is_standard_normal_float32(sigma: float, sigma_next: float) -> None:
    noise = BrownianNoise(3, SHAPE)(sigma, sigma_next)
    assert noise.dtype == np.float32
    assert noise.shape == SHAPE
    assert abs(noise.mean()) < FIVE_SIGMA
    assert abs(noise.var() - 1) < math.sqrt(2) * FIVE_SIGMA
    assert abs((noise**4).mean() - 3) < math.sqrt(96) * FIVE_SIGMA


def test_disjoint_intervals_are_independent() -> None:
    noise = BrownianNoise(3, SHAPE)
    for (a, b), (c, d) in itertools.combinations(INTERVALS, 2):
        if b >= c:
            assert abs((noise(a, b) * noise(c, d)).mean()) < FIVE_SIGMA, ((a, b), (c, d))


@pytest.mark.parametrize(("a", "b", "c"), [(12.0, 5.0, 0.25), (1024.0, 8.0, 0.0), (0.046875, 0.03125, 0.0)])
def test_increments_add_up(a: float, b: float, c: float) -> None:
    noise = BrownianNoise(3, SHAPE)
    whole = math.sqrt(a - c) * noise(a, c)
    parts = math.sqrt(a - b) * noise(a, b) + math.sqrt(b - c) * noise(b, c)
    np.testing.assert_allclose(parts, whole, atol=1e-6 * math.sqrt(a) * 5)  # float32, of five standard deviations


@pytest.mark.parametrize(("a", "b", "c"), [(14.3, 3.1, 0.7), (14.3, 14.2, 0.0), (0.0337, 0.0311, 0.0302)])
def test_overlapping_intervals_correlate_as_their_lengths(a: float, b: float, c: float) -> None:
    noise = BrownianNoise(3, SHAPE)
    found = (noise(a, c) * noise(b, c)).mean()
    assert found == pytest.approx(math.sqrt((b - c) / (a - c)), abs=math.sqrt(2) * FIVE_SIGMA)


def test_neither_order_nor_number_of_queries_matters() -> None:
    first, second = BrownianNoise(3, SHAPE), BrownianNoise(3, SHAPE)
    forwards = [first(*interval) for interval in INTERVALS]
    for sigma in np.linspace(14, 0.1, 7):
        second(float(sigma), 0.05)
    backwards = [second(*interval) for interval in reversed(INTERVALS)]
    np.testing.assert_array_equal(forwards, backwards[::-1])


def test_seeds_give_independent_paths() -> None:
    one, other = (BrownianNoise(seed, SHAPE)(9.0, 1.0) for seed in (3, 4))
    assert abs((one * other).mean()) < FIVE_SIGMA
    assert abs((BrownianNoise(2**32 - 1, SHAPE)(9.0, 1.0) * other).mean()) < FIVE_SIGMA


def test_levels_nearer_than_the_path_is_fine_get_standard_normal_noise_too() -> None:
    noise = BrownianNoise(3, SHAPE)(9.0, 9.0 - 1e-9)
    assert abs(noise.var() - 1) < math.sqrt(2) * FIVE_SIGMA


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"])
def test_more_steps_converge_to_one_picture(name: str) -> None:
    """Strong convergence, on a model that knows its data to be Gaussian; each halving of the steps halves the error."""
    shape = (1, 4, 8, 8)

    def walk(steps: int) -> np.ndarray:
        sigmas = tuple(np.geomspace(10, 0.1, steps + 1).tolist())
        levels = Levels(sigmas, (0.0,) * steps, 10.0, TrainedLevels(NoiseSchedule()))
        sampler, noise = SAMPLERS[name].sampler(levels), BrownianNoise(3, shape)
        x = 10 * np.ones(shape, np.float32)
        for i in range(steps):
            x = sampler.step(x, i, lambda x, sigma: x / (1 + sigma * sigma), noise)
        return x

    exact = walk(256)
    errors = [float(np.sqrt(((walk(steps) - exact) ** 2).mean())) for steps in (4, 16, 64)]
    assert errors[0] < 0.8  # with noise that is independent, it would be 1.4 whatever the number of steps
    assert errors[1] < errors[0] / 2.5
    assert errors[2] < errors[1] / 2.5
