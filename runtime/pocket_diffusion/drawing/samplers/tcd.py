"""Trajectory consistency distillation's strategic stochastic sampling (Zheng et al. 2024, algorithm 1)."""

import math

from pocket_diffusion.drawing.samplers.sampler import Denoise, Latents, Noise, StochasticSampler, move


class TCDSampler(StochasticSampler):
    """For models distilled to jump along the way: each step jumps beyond its target, then adds fresh noise.

    `eta` is the paper's gamma: how far beyond, as a share of the target's timestep.
    """

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Jump to the timestep (1 - eta) · target, and come back by noise."""
        sigma, sigma_next = self.interval(i)
        target = 0.0 if self.is_last(i) else self.levels.timesteps[i + 1]
        beyond = min(self.levels.trained.sigma(math.floor((1 - self.eta) * target)), sigma_next)
        x = move(x, denoise(x, sigma), sigma, beyond)
        return self.renoise(x, math.sqrt(sigma_next**2 - beyond**2), noise, sigma, sigma_next)
