"""Samplers: how the latents move from one timestep to the next."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.samplers.ddpm import DDPMSampler

Latents = NDArray[np.float32]


class Sampler(Protocol):
    """What the sampling loop needs of a sampler, made for one schedule and one number of steps."""

    timesteps: NDArray[np.int64]
    """Those to visit, falling."""

    def add_noise(self, latents: Latents, noise: Latents, timestep: int) -> Latents:
        """Return clean latents as they look at a timestep."""

    def step(self, latents: Latents, prediction: Latents, index: int, draw_noise: Callable[[], Latents]) -> Latents:
        """Move from `timesteps[index]` to the next; `draw_noise` gives fresh noise of the latents' shape."""


SAMPLERS: dict[str, Callable[[NoiseSchedule, int], Sampler]] = {"ddpm": DDPMSampler}
"""By the name that `--sampler` takes."""

__all__ = ["SAMPLERS", "DDPMSampler", "Sampler"]
