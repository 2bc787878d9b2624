"""DPM-Solver++(3M) of the diffusion's SDE: k-diffusion's `sample_dpmpp_3m_sde`."""

import math
from collections import deque

from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.samplers.sampler import (
    Denoise,
    Latents,
    Noise,
    StochasticSampler,
    combine,
    exponential_split,
    move,
)


class DPMpp3MSDESampler(StochasticSampler):
    """One evaluation a step.

    The published weight of the second derivative (Lu et al. 2022b, equation 15 as implemented by its authors) is half
    of Taylor's, so that without noise the method is of second order. All implementations share it, and so do we: a
    picture should come out as elsewhere.
    """

    def __init__(self, levels: Levels, eta: float = 0.0, s_noise: float = 1.0) -> None:
        """See `StochasticSampler`."""
        super().__init__(levels, eta, s_noise)
        self._seen: deque[tuple[float, Latents]] = deque(maxlen=3)

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Move towards x_0 and add what its changes in log sigma come to; a step to level 0 is of first order."""
        sigma, sigma_next = self.interval(i)
        x_0 = denoise(x, sigma)
        self._seen.appendleft((sigma, x_0))
        down, up = exponential_split(sigma, sigma_next, self.eta)
        x = move(x, x_0, sigma, down)
        if 0 < sigma_next < sigma and len(self._seen) > 1:
            x = x + self._correction(math.log(sigma / sigma_next), math.log(sigma / down))
        return self.renoise(x, up, noise, sigma, sigma_next)

    def _correction(self, h: float, decay: float) -> Latents:
        """Return the part of x_0's first and second derivative; `h` is the step in log sigma, `decay` with noise."""
        (sigma, x_0), (last_sigma, last_x_0), *older = self._seen
        phi_2 = 1 + math.expm1(-decay) / decay
        h_1 = math.log(last_sigma / sigma)
        first = h / h_1 * (x_0 - last_x_0)
        if not older:
            return phi_2 * first
        oldest_sigma, oldest_x_0 = older[0]
        h_2 = math.log(oldest_sigma / last_sigma)
        change = first - h / h_2 * (last_x_0 - oldest_x_0)
        phi_3 = phi_2 / decay - 0.5
        return combine((phi_2, (phi_2 * h_1 - phi_3 * h) / (h_1 + h_2)), (first, change))
