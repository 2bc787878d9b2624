"""Quantiles of the beta distribution, against SciPy where it is installed."""

import numpy as np
import pytest

from pocket_diffusion.drawing.beta_distribution import symmetric_beta_quantile

P = np.concatenate([np.linspace(0, 1, 1001), [1e-12, 1e-6]])


@pytest.mark.parametrize("shape", [0.1, 0.3, 0.6, 1.0])
def test_quantiles_are_those_of_scipy(shape: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    # a few roundings of float64 on either side
    np.testing.assert_allclose(symmetric_beta_quantile(P, shape), stats.beta.ppf(P, shape, shape), rtol=1e-13)


def test_the_quantiles_of_the_arcsine_distribution_have_a_formula() -> None:
    # shape 1/2: p = 2/pi arcsin(sqrt(x)); the sine of an angle near pi/2 keeps 1e-16 absolute
    np.testing.assert_allclose(symmetric_beta_quantile(P, 0.5), np.sin(np.pi / 2 * P) ** 2, rtol=1e-13, atol=1e-15)
