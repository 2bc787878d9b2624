"""Heun's method (Karras et al. 2022, algorithm 1)."""

from pocket_diffusion.drawing.samplers.sampler import Denoise, Latents, Noise, Sampler, move, slope


class HeunSampler(Sampler):
    """Two evaluations a step, second order."""

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Follow the mean of the slopes at both ends; the slope at level 0 is not defined, and not needed."""
        sigma, sigma_next = self.interval(i)
        x_0 = denoise(x, sigma)
        ahead = move(x, x_0, sigma, sigma_next)
        if sigma_next == 0:
            return ahead
        second = slope(ahead, denoise(ahead, sigma_next), sigma_next)
        return x + (sigma_next - sigma) / 2 * (slope(x, x_0, sigma) + second)
