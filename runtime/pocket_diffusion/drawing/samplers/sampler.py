"""What a sampler is, and the moves between noise levels that all samplers are made of."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.drawing.levels import Levels

Latents = NDArray[np.float32]
"""`[1, channels, height/8, width/8]`; with noise on it, x = x_0 + sigma · noise."""
Denoise = Callable[[Latents, float], Latents]
"""(x, sigma) to the model's x_0, the clean latents that it sees in x."""
Noise = Callable[[float, float], Latents]
"""Standard normal noise for the way from one sigma down to another."""


class Sampler(ABC):
    """Moves one picture's latents from noise level to noise level; made anew for each, so that it may remember."""

    def __init__(self, levels: Levels) -> None:
        """Walk along these levels."""
        self.levels = levels

    @abstractmethod
    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Return the latents at `sigmas[i + 1]` of those at `sigmas[i]`; called for successive `i`.

        The first call starts anywhere: drawing from a picture skips levels.
        """

    def interval(self, i: int) -> tuple[float, float]:
        """Return the noise levels that step `i` leads from and to."""
        return self.levels.sigmas[i], self.levels.sigmas[i + 1]

    def is_last(self, i: int) -> bool:
        """Tell whether no step follows step `i`."""
        return i == self.levels.steps - 1


class StochasticSampler(Sampler):
    """A sampler that replaces some of the noise at each step by fresh noise."""

    def __init__(self, levels: Levels, eta: float = 0.0, s_noise: float = 1.0) -> None:
        """Walk along levels; `eta` is how much of the noise is replaced, `s_noise` multiplies the fresh noise.

        `eta` is from 0, which is deterministic, to 1, which is as much as the reverse diffusion has.
        """
        super().__init__(levels)
        self.eta = eta
        self.s_noise = s_noise

    def renoise(self, x: Latents, up: float, noise: Noise, sigma: float, sigma_next: float) -> Latents:
        """Add the fresh noise of standard deviation `up` that belongs to the way from sigma to sigma_next."""
        up *= self.s_noise
        return x + up * noise(sigma, sigma_next) if up > 0 else x


def move(x: Latents, x_0: Latents, sigma: float, target: float) -> Latents:
    """Return latents at the noise level `target` with the same x_0 and the same noise.

    This is the Euler step of dx/dsigma = (x - x_0) / sigma (Karras et al. 2022, equation 5), DDIM's step (Song et al.
    2021, equation 12), and the exponential integrator of DPM-Solver++ (Lu et al. 2022, equation 9), which are one.
    """
    return x_0 + target / sigma * (x - x_0)


def slope(x: Latents, x_0: Latents, sigma: float) -> Latents:
    """Return dx/dsigma, which is the predicted noise."""
    return (x - x_0) / sigma


def combine(weights: Sequence[float], arrays: Sequence[Latents]) -> Latents:
    """Return the weighted sum of arrays."""
    total = weights[0] * arrays[0]
    for weight, array in zip(weights[1:], arrays[1:], strict=True):
        total += weight * array
    return total


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Split a noise level into what is kept of the old noise and what comes afresh: down² + up² = sigma_next².

    With `eta` 1 the fresh noise has the variance of the posterior (Ho et al. 2020, equation 7); Song et al. 2021,
    equation 16.
    """
    fresh = eta * math.sqrt(1 - (sigma_next / sigma) ** 2)
    return sigma_next * math.sqrt(1 - fresh**2), sigma_next * fresh


def exponential_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Split a noise level as `ancestral_split` does, but as the diffusion's exact solution with `eta`² of its noise.

    With `eta` 0 and 1 the two are the same (Lu et al. 2022, appendix A; k-diffusion's `sample_dpmpp_2m_sde`).
    """
    kept = (sigma_next / sigma) ** eta
    return sigma_next * kept, sigma_next * math.sqrt(1 - kept**2)


def middle_of(sigma: float, target: float) -> float:
    """Return the noise level half-way in log sigma."""
    return math.sqrt(sigma * target)


def x_0_ahead(x_0: Latents, last_x_0: Latents, sigma: float, sigma_next: float, last_sigma: float) -> Latents:
    """Extrapolate x_0 to the middle of the step ahead, linearly in log sigma, from here and from the step before.

    The step of DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) is a `move` with it.
    """
    weight = math.log(sigma / sigma_next) / (2 * math.log(last_sigma / sigma))
    return x_0 + weight * (x_0 - last_x_0)
