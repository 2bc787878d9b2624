"""DEIS: diffusion exponential integrator sampler (Zhang & Chen 2023), of order 2 in log rho ("tAB-DEIS")."""

import math

from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.samplers.sampler import Denoise, Latents, Noise, Sampler, combine, slope

_ENOUGH_STEPS = 15
"""From so many on, diffusers' last step is of second order as well."""


class DEISSampler(Sampler):
    """One evaluation a step, second order: integrates the line in log sigma through the last two slopes."""

    def __init__(self, levels: Levels) -> None:
        """Start without a slope."""
        super().__init__(levels)
        self._last: tuple[float, Latents] | None = None

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Follow the last two slopes; the first step, and one to level 0, are of first order."""
        sigma, sigma_next = self.interval(i)
        here = slope(x, denoise(x, sigma), sigma)
        last, self._last = self._last, (sigma, here)
        lower_order = sigma_next == 0 or (self.is_last(i) and self.levels.steps < _ENOUGH_STEPS)
        if last is None or lower_order:
            return x + (sigma_next - sigma) * here
        last_sigma, before = last
        weights = (_weight(sigma, last_sigma, sigma, sigma_next), _weight(last_sigma, sigma, sigma, sigma_next))
        return x + combine(weights, (here, before))


def _weight(node: float, other: float, start: float, end: float) -> float:
    """Integrate from start to end the line in log sigma that is 1 at a node and 0 at the other."""

    def antiderivative(sigma: float) -> float:
        return sigma * (math.log(sigma / other) - 1) / math.log(node / other)

    return antiderivative(end) - antiderivative(start)
