"""Samplers against known solutions and against the papers' formulas, written another way. Needs NumPy alone."""

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from pocket_diffusion.drawing.samplers.lms import integration_weights
from pocket_diffusion.drawing.samplers.sampler import ancestral_split, exponential_split
from sampling import denoise, levels_at, make, smooth_noise, some_latents

Denoise = Callable[[np.ndarray, float], np.ndarray]

CENTERS, WIDTH = np.array([-1.0, 0.2, 1.5]), 0.6


def mixture(x: np.ndarray, sigma: float) -> np.ndarray:
    """See the mean x_0 of a mixture of three Gaussians (Karras et al. 2022, appendix B.3): exact, and nonlinear."""
    variance = WIDTH**2 + sigma**2
    logits = -((x[..., None] - CENTERS) ** 2) / (2 * variance)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    means = CENTERS + WIDTH**2 / variance * (x[..., None] - CENTERS)
    return (weights * means).sum(-1)


@cache
def true_way(start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where dx/dsigma = (x - x_0) / sigma begins and ends, by 1000 Runge-Kutta steps: exact to 1e-11."""

    def slope(x: np.ndarray, sigma: float) -> np.ndarray:
        return (x - mixture(x, sigma)) / sigma

    x = first = np.linspace(-6, 6, 25).reshape(1, 1, 5, 5)
    h = (end - start) / 1000
    for i in range(1000):
        sigma = start + i * h
        a = slope(x, sigma)
        b = slope(x + h / 2 * a, sigma + h / 2)
        c = slope(x + h / 2 * b, sigma + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, sigma + h))
    return first, x


def no_noise(sigma: float, sigma_next: float) -> np.ndarray:
    raise AssertionError("drew noise")


def noise(sigma: float, sigma_next: float) -> np.ndarray:
    return smooth_noise(sigma, sigma_next).astype(np.float64)


def walk(
    name: str, sigmas: np.ndarray, x: np.ndarray, see: Denoise, steps: int, eta: float | None = None
) -> np.ndarray:
    sampler = make(name, levels_at(sigmas), eta)
    for i in range(steps):
        x = sampler.step(x, i, see, no_noise)
    return x


@pytest.mark.parametrize(
    ("name", "eta", "order"),
    [
        ("euler", None, 1),
        ("ddim", 0.0, 1),
        ("heun", None, 2),
        ("dpm2", None, 2),
        ("dpmpp_2m", None, 2),
        ("dpmpp_2m_sde", 0.0, 2),
        ("dpmpp_3m_sde", 0.0, 2),  # and not 3: see its docstring
        ("dpmpp_sde", 0.0, 2),
        ("dpmpp_2s_a", 0.0, 2),
        ("deis", None, 2),
        ("unipc", None, 3),  # 2, and the corrector's one more
        ("pndm", None, 4),  # in the limit 3, by its first two steps, where the slopes hardly change here
        ("ipndm", None, 2),  # the first step is of order 1, once
        ("lms", None, 2),  # as IPNDM
    ],
)
def test_the_error_falls_with_the_order(name: str, eta: float | None, order: int) -> None:
    x, end = true_way(4.0, 0.5)
    errors = []
    for steps in (40, 80):
        # One level more, not walked to: some samplers end with a step of lower order.
        sigmas = np.linspace(4, 0.5, steps + 1)
        sigmas = np.append(sigmas, 2 * sigmas[-1] - sigmas[-2])
        errors.append(np.abs(walk(name, sigmas, x, mixture, steps, eta) - end).max())
    measured = math.log2(errors[0] / errors[1])
    # Up to half an order less on the way to the limit; a wrong coefficient costs at least a whole one.
    assert order - 0.5 < measured < order + 0.75, (measured, errors)


@pytest.mark.parametrize(
    ("name", "sigmas"),
    [
        ("lms", np.geomspace(5, 0.5, 8)),
        ("lms", np.array([9.0, 7.0, 4.0, 3.5, 1.2, 0.9, 0.0])),
        ("ipndm", np.linspace(5, 0.5, 8)),
        ("pndm", np.linspace(5, 0.5, 8)),
    ],
)
def test_multistep_methods_integrate_cubic_slopes_exactly(name: str, sigmas: np.ndarray) -> None:
    """From the fourth slope on, whatever came before."""
    slope = np.polynomial.Polynomial([0.3, -1.1, 0.4, -0.05])
    integral = slope.integ()
    sampler = make(name, levels_at(sigmas))
    x = np.zeros((1, 1, 2, 2))
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        end = sampler.step(x, i, lambda x, sigma: x - sigma * slope(sigma), no_noise)
        if i >= 3:
            np.testing.assert_allclose(end - x, integral(sigma_next) - integral(sigma), rtol=1e-11)
        x = end


def test_lms_has_no_weights_for_no_way() -> None:
    assert integration_weights([2.0], 2.0) == [0.0]
    np.testing.assert_allclose(integration_weights([2.0, 3.0], 2.0), 0, atol=1e-15)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("sigma", "sigma_next"), [(14.6, 9.0), (0.03, 0.0), (1e8, 3.0), (0.5, 0.5)])
def test_noise_levels_split_into_what_is_kept_and_what_is_fresh(eta: float, sigma: float, sigma_next: float) -> None:
    for split in (ancestral_split, exponential_split):
        down, up = split(sigma, sigma_next, eta)
        assert math.hypot(down, up) == pytest.approx(sigma_next)
        if eta == 1:
            # Ho et al. 2020, equation 7: beta_t (1 - alpha_bar') / (1 - alpha_bar) over alpha_bar'
            assert up**2 == pytest.approx(sigma_next**2 * (1 - sigma_next**2 / sigma**2))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_dpmpp_2s_ancestral_is_the_papers_algorithm_1(eta: float) -> None:
    """In variance-preserving form and log signal-to-noise, to the level that noise is then added to."""
    sigma, sigma_next = 5.0, 2.0
    up = min(sigma_next, eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5)
    down = (sigma_next**2 - up**2) ** 0.5
    time, target = -math.log(sigma), -math.log(down)
    h, r = target - time, 0.5
    between = math.exp(-(time + r * h))

    def vp(sigma: float) -> tuple[float, float]:
        return 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)

    (alpha, s), (alpha_1, s_1), (alpha_2, s_2) = vp(sigma), vp(between), vp(down)
    x = some_latents(sigma, np.float64)
    seen = denoise(x, sigma)
    u = s_1 / s * alpha * x - alpha_1 * math.expm1(-r * h) * seen
    both = (1 - 1 / (2 * r)) * seen + 1 / (2 * r) * denoise(u / alpha_1, between)
    expected = (s_2 / s * alpha * x - alpha_2 * math.expm1(-h) * both) / alpha_2 + up * noise(sigma, sigma_next)
    found = make("dpmpp_2s_a", levels_at([sigma, sigma_next, 0]), eta).step(x, 0, denoise, noise)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_3m_sde"])
def test_multistep_sdes_are_k_diffusions_formulas(name: str, eta: float) -> None:
    """Lu et al. 2022's multistep solvers with k-diffusion's eta, in h and the ratios of steps."""
    sigmas = [9.0, 6.0, 3.5, 2.5, 1.0, 0.0]
    sampler, x = make(name, levels_at(sigmas), eta), some_latents(9.0, np.float64)
    before, steps = [], []
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        found = sampler.step(x, i, denoise, noise)
        x_0 = denoise(x, sigma)
        if sigma_next == 0:
            expected = x_0
        else:
            h = math.log(sigma) - math.log(sigma_next)
            decay = h * (1 + eta)
            expected = math.exp(-decay) * x - math.expm1(-decay) * x_0
            phi_2 = math.expm1(-decay) / decay + 1
            if name == "dpmpp_2m_sde" and before:
                expected = expected - 0.5 * math.expm1(-decay) * (h / steps[-1]) * (x_0 - before[-1])
            elif len(before) == 1:
                expected = expected + phi_2 * (x_0 - before[-1]) / (steps[-1] / h)
            elif before:
                r_0, r_1 = steps[-1] / h, steps[-2] / h
                near, far = (x_0 - before[-1]) / r_0, (before[-1] - before[-2]) / r_1
                first = near + (near - far) * r_0 / (r_0 + r_1)
                second = (near - far) / (r_0 + r_1)
                expected = expected + phi_2 * first - (phi_2 / decay - 0.5) * second
            expected = expected + noise(sigma, sigma_next) * sigma_next * math.sqrt(-math.expm1(-2 * h * eta))
            steps.append(h)
        before.append(x_0)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
        x = found
