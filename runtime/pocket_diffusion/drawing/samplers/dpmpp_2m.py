"""DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2) and its SDE version (k-diffusion's `sample_dpmpp_2m_sde`)."""

from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.samplers.sampler import (
    Denoise,
    Latents,
    Noise,
    StochasticSampler,
    exponential_split,
    move,
    x_0_ahead,
)


class DPMpp2MSampler(StochasticSampler):
    """One evaluation a step, second order; with `eta` 0 it is DPM-Solver++(2M), with 1 the SDE version."""

    def __init__(self, levels: Levels, eta: float = 0.0, s_noise: float = 1.0) -> None:
        """See `StochasticSampler`."""
        super().__init__(levels, eta, s_noise)
        self._last: tuple[float, Latents] | None = None

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Move towards the x_0 expected in the middle; the first step, and one to level 0, are of first order."""
        sigma, sigma_next = self.interval(i)
        x_0 = denoise(x, sigma)
        expected = x_0
        if self._last is not None and sigma_next > 0:
            last_sigma, last_x_0 = self._last
            expected = x_0_ahead(x_0, last_x_0, sigma, sigma_next, last_sigma)
        self._last = sigma, x_0
        down, up = exponential_split(sigma, sigma_next, self.eta)
        return self.renoise(move(x, expected, sigma, down), up, noise, sigma, sigma_next)
