"""DPM-Solver-2 (Lu et al. 2022a), deterministic or ancestral, as in k-diffusion's `sample_dpm_2_ancestral`."""

from pocket_diffusion.drawing.samplers.sampler import (
    Denoise,
    Latents,
    Noise,
    StochasticSampler,
    ancestral_split,
    middle_of,
    move,
    slope,
)


class DPM2Sampler(StochasticSampler):
    """Two evaluations a step, second order."""

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Follow the slope in the middle; a step to level 0 has no middle in log sigma."""
        sigma, sigma_next = self.interval(i)
        x_0 = denoise(x, sigma)
        if sigma_next == 0:
            return move(x, x_0, sigma, sigma_next)
        down, up = ancestral_split(sigma, sigma_next, self.eta)
        middle = middle_of(sigma, down)
        half_way = move(x, x_0, sigma, middle)
        x = x + (down - sigma) * slope(half_way, denoise(half_way, middle), middle)
        return self.renoise(x, up, noise, sigma, sigma_next)
