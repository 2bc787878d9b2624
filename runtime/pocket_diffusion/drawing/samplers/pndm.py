"""Adams and Bashforth's linear multistep methods with the weights of equal steps: IPNDM and PNDM (PLMS)."""

from collections import deque

from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.samplers.sampler import Denoise, Latents, Noise, Sampler, combine, move, slope

_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""By how many slopes are known, newest first (Liu et al. 2022, equation 9; Hairer et al. 1993, section III.1)."""


class IPNDMSampler(Sampler):
    """Fourth order in the slopes, after three steps of lower order (Zhang & Chen 2023, "iPNDM")."""

    def __init__(self, levels: Levels) -> None:
        """Start without slopes."""
        super().__init__(levels)
        self._slopes: deque[Latents] = deque(maxlen=len(_WEIGHTS))

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Follow a weighted sum of the last slopes."""
        sigma, sigma_next = self.interval(i)
        self._slopes.appendleft(slope(x, denoise(x, sigma), sigma))
        weights = _WEIGHTS[len(self._slopes) - 1]
        return x + (sigma_next - sigma) * combine(weights, list(self._slopes))


class PNDMSampler(IPNDMSampler):
    """PNDM without its Runge-Kutta steps (Liu et al. 2022; diffusers' `skip_prk_steps`), known as PLMS.

    The first step evaluates the model at its end as well, and takes the mean of both slopes.
    """

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Follow a weighted sum of the last slopes, or in the first step the mean of those at its two ends."""
        if self._slopes or self.is_last(i):
            return super().step(x, i, denoise, noise)
        sigma, sigma_next = self.interval(i)
        x_0 = denoise(x, sigma)
        ahead = move(x, x_0, sigma, sigma_next)
        first, second = slope(x, x_0, sigma), slope(ahead, denoise(ahead, sigma_next), sigma_next)
        self._slopes.appendleft(first)
        return x + (sigma_next - sigma) / 2 * (first + second)
