"""The noise schedule: betas, cumulative alphas, and which timesteps are visited. Pure functions."""

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import NoiseSchedule


def betas(schedule: NoiseSchedule) -> NDArray[np.float64]:
    """Return the variance added at each training timestep, `[train_timesteps]` (Ho et al. 2020, section 2)."""
    if schedule.trained_betas is not None:
        return np.array(schedule.trained_betas)
    start, end, count = schedule.beta_start, schedule.beta_end, schedule.train_timesteps
    if schedule.beta_schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, count) ** 2
    return np.linspace(start, end, count)


def cumulative_alphas(schedule: NoiseSchedule) -> NDArray[np.float64]:
    """Return alpha_bar, the share of the picture's variance left at each timestep (Ho et al. 2020, equation 4)."""
    return np.asarray(np.cumprod(1.0 - betas(schedule)))


def spaced_timesteps(schedule: NoiseSchedule, steps: int) -> NDArray[np.int64]:
    """Return `steps` training timesteps, falling (Lin et al. 2023, table 2).

    Raises ValueError unless 1 ≤ steps ≤ train_timesteps.
    """
    count = schedule.train_timesteps
    if not 1 <= steps <= count:
        raise ValueError(f"steps must be from 1 to {count}, not {steps}")
    timesteps: NDArray[np.float64]
    if schedule.timestep_spacing == "linspace":
        timesteps = np.linspace(0, count - 1, steps).round()[::-1]
    elif schedule.timestep_spacing == "leading":
        timesteps = (np.arange(steps, dtype=np.float64) * (count // steps))[::-1] + schedule.steps_offset
    else:
        timesteps = np.round(np.arange(count, 0, -count / steps))[:steps] - 1  # rounding can make arange one longer
    # With as many steps as timesteps the offset would lead one past the end.
    return np.minimum(timesteps, count - 1).astype(np.int64)
