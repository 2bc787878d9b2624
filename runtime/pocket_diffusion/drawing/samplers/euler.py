"""Euler's method, with or without fresh noise; DDIM and DDPM are the same step on other levels."""

from pocket_diffusion.drawing.samplers.sampler import Denoise, Latents, Noise, StochasticSampler, ancestral_split, move


class EulerSampler(StochasticSampler):
    """One evaluation a step, first order.

    With `eta` 0 it is Euler (Karras et al. 2022, algorithm 1 without its second-order correction) and DDIM (Song et al.
    2021); with `eta` 1 it is Euler ancestral and DDPM (Ho et al. 2020, algorithm 2); between them, DDIM's `eta`.
    """

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Keep the part of the noise that `eta` leaves, and add fresh noise for the rest."""
        sigma, sigma_next = self.interval(i)
        down, up = ancestral_split(sigma, sigma_next, self.eta)
        x = move(x, denoise(x, sigma), sigma, down)
        return self.renoise(x, up, noise, sigma, sigma_next)
