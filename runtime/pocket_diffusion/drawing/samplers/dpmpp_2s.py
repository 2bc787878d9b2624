"""DPM-Solver++(2S) (Lu et al. 2022b, algorithm 1), ancestral: k-diffusion's `sample_dpmpp_2s_ancestral`."""

from pocket_diffusion.drawing.samplers.sampler import (
    Denoise,
    Latents,
    Noise,
    StochasticSampler,
    ancestral_split,
    middle_of,
    move,
)


class DPMpp2SSampler(StochasticSampler):
    """Two evaluations a step, second order."""

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Move towards the x_0 seen in the middle; a step to level 0 has no middle in log sigma."""
        sigma, sigma_next = self.interval(i)
        x_0 = denoise(x, sigma)
        if sigma_next == 0:
            return move(x, x_0, sigma, sigma_next)
        down, up = ancestral_split(sigma, sigma_next, self.eta)
        middle = middle_of(sigma, down)
        x_0 = denoise(move(x, x_0, sigma, middle), middle)
        return self.renoise(move(x, x_0, sigma, down), up, noise, sigma, sigma_next)
