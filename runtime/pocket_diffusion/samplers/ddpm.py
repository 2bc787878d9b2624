"""Ancestral sampling of a denoising diffusion model (Ho et al. 2020, algorithm 2), on a subset of the timesteps."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.schedule import cumulative_alphas, spaced_timesteps

_MIN_VARIANCE = 1e-20


class DDPMSampler:
    """diffusers' `DDPMScheduler` with `variance_type="fixed_small"` and no clipping."""

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        """Pick the timesteps; raises ValueError unless 1 ≤ steps ≤ the schedule's training timesteps."""
        self.timesteps = spaced_timesteps(schedule, steps)
        self._predicts_velocity = schedule.prediction_type == "v_prediction"
        self._alpha_bar = cumulative_alphas(schedule)

    def add_noise(self, latents: NDArray[np.float32], noise: NDArray[np.float32], timestep: int) -> NDArray[np.float32]:
        """Return clean latents as they look at a timestep (Ho et al. 2020, equation 4)."""
        alpha_bar = self._alpha_bar[timestep]
        return _float32(alpha_bar**0.5) * latents + _float32((1 - alpha_bar) ** 0.5) * noise

    def step(
        self,
        latents: NDArray[np.float32],
        prediction: NDArray[np.float32],
        index: int,
        draw_noise: Callable[[], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Move from `timesteps[index]` to the next; noise is drawn at every step but at timestep 0.

        All arrays are `[batch, channels, height/8, width/8]`.
        """
        t = self.timesteps[index]
        last = index == len(self.timesteps) - 1
        alpha_bar = self._alpha_bar[t]
        alpha_bar_prev = 1.0 if last else self._alpha_bar[self.timesteps[index + 1]]
        alpha = alpha_bar / alpha_bar_prev

        x_0 = self._predict_clean(latents, prediction, alpha_bar)
        # The posterior's mean and variance: equations 6 and 7.
        mean = _float32(alpha_bar_prev**0.5 * (1 - alpha) / (1 - alpha_bar)) * x_0
        mean += _float32(alpha**0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar)) * latents
        if t == 0:
            return mean
        variance = max((1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha), _MIN_VARIANCE)
        return mean + _float32(variance**0.5) * draw_noise()

    def _predict_clean(
        self, latents: NDArray[np.float32], prediction: NDArray[np.float32], alpha_bar: float
    ) -> NDArray[np.float32]:
        signal, noise = _float32(alpha_bar**0.5), _float32((1 - alpha_bar) ** 0.5)
        if self._predicts_velocity:  # Salimans & Ho 2022, appendix D
            return signal * latents - noise * prediction
        return np.divide(latents - noise * prediction, signal, dtype=np.float32)


def _float32(x: float) -> np.float32:
    return np.float32(x)
