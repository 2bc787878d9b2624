"""Multistep sampling of a latent consistency model (Luo et al. 2023, algorithm 3)."""

import math

from pocket_diffusion.drawing.samplers.sampler import Denoise, Latents, Noise, StochasticSampler, move

_TIMESTEP_SCALING = 10.0
_SIGMA_DATA = 0.5


class LCMSampler(StochasticSampler):
    """For models distilled to see the finished picture at once: noise is put back on it, and it is seen again.

    With `eta` 1, as published, all of that noise is fresh.
    """

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Evaluate the consistency function, then go to the next level."""
        sigma, sigma_next = self.interval(i)
        # The boundary condition, f(x, 0) = x, is that of Song et al. 2023, appendix C, in timesteps.
        scaled = self.levels.timesteps[i] * _TIMESTEP_SCALING
        norm = scaled**2 + _SIGMA_DATA**2
        skip, out = _SIGMA_DATA**2 / norm, scaled / math.sqrt(norm)
        clean = out * denoise(x, sigma) + skip / math.hypot(1, sigma) * x
        kept = math.sqrt(1 - self.eta**2)
        return self.renoise(move(x, clean, sigma, kept * sigma_next), self.eta * sigma_next, noise, sigma, sigma_next)
