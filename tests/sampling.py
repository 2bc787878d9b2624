"""What the samplers' tests share: a model that is a formula, noise that is one, and levels."""

from collections.abc import Sequence

import numpy as np

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.samplers import SAMPLERS, Sampler
from pocket_diffusion.drawing.schedule import TrainedLevels

SHAPE = (1, 4, 5, 3)
_BASE = np.linspace(-1, 1, int(np.prod(SHAPE))).reshape(SHAPE)


def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
    """See an x_0: smooth, nonlinear, and different for each number and level."""
    scaled = x / np.sqrt(1 + sigma**2).astype(x.dtype)
    return (1.2 * np.tanh(scaled + 0.5 * _BASE) + 0.3 * np.cos(3 * _BASE + np.log1p(sigma))).astype(x.dtype)


def smooth_noise(sigma: float, sigma_next: float) -> np.ndarray:
    """Stand for noise: changes smoothly with the levels, so that rounding them does not matter."""
    return (1.5 * np.sin(7 * _BASE + sigma + 3 * sigma_next)).astype(np.float32)


def some_latents(sigma: float, dtype: type = np.float32) -> np.ndarray:
    """Return latents of the right size for a level."""
    return (np.hypot(1, sigma) * np.random.default_rng(0).standard_normal(SHAPE)).astype(dtype)


def levels_at(sigmas: Sequence[float], timesteps: Sequence[float] | None = None) -> Levels:
    """Return levels as they are given, with timesteps that belong to them."""
    trained = TrainedLevels(NoiseSchedule())
    if timesteps is None:
        timesteps = trained.timestep(np.array(sigmas[:-1])).tolist()
    return Levels(tuple(map(float, sigmas)), tuple(map(float, timesteps)), float(np.hypot(1, sigmas[0])), trained)


def make(name: str, levels: Levels, eta: float | None = None) -> Sampler:
    """Make a sampler by its name."""
    return SAMPLERS[name].sampler(levels, eta)
