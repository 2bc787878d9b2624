"""DPM-Solver++ of the diffusion's SDE, single-step: k-diffusion's `sample_dpmpp_sde` with r = 1/2."""

from pocket_diffusion.drawing.samplers.sampler import (
    Denoise,
    Latents,
    Noise,
    StochasticSampler,
    ancestral_split,
    middle_of,
    move,
)


class DPMppSDESampler(StochasticSampler):
    """Two evaluations a step, with fresh noise for each, so that noise should come from one Brownian path."""

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Move towards the x_0 seen in the middle; a step to level 0 has no middle in log sigma."""
        sigma, sigma_next = self.interval(i)
        x_0 = denoise(x, sigma)
        if sigma_next > 0:
            middle = middle_of(sigma, sigma_next)
            x_0 = denoise(self._move(x, x_0, noise, sigma, middle), middle)
        return self._move(x, x_0, noise, sigma, sigma_next)

    def _move(self, x: Latents, x_0: Latents, noise: Noise, sigma: float, target: float) -> Latents:
        down, up = ancestral_split(sigma, target, self.eta)
        return self.renoise(move(x, x_0, sigma, down), up, noise, sigma, target)
