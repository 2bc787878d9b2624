"""The noise schedule that a model was trained with: betas, cumulative alphas, and the noise level of each timestep."""

from typing import overload

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.errors import BundleFormatError

Array = NDArray[np.float64]

FINITE_TERMINAL_ALPHA = 2.0**-24
"""The last alpha_bar of a zero-terminal-SNR schedule where sigma must stay moderate: sigma 4096, as in diffusers."""
EXACT_TERMINAL_ALPHA = 1e-16
"""The same where diffusers has 0: at sigma 1e8, float32 latents keep nothing of the picture."""


def betas(schedule: NoiseSchedule) -> Array:
    """Return the variance added at each training timestep, `[train_timesteps]` (Ho et al. 2020, section 2)."""
    if schedule.trained_betas is not None:
        return np.array(schedule.trained_betas)
    start, end, count = schedule.beta_start, schedule.beta_end, schedule.train_timesteps
    if schedule.beta_schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, count) ** 2
    return np.linspace(start, end, count)


def cumulative_alphas(schedule: NoiseSchedule) -> Array:
    """Return alpha_bar, the share of the picture's variance left at each timestep (Ho et al. 2020, equation 4).

    With `rescale_betas_zero_snr` the last is 0 (Lin et al. 2023, algorithm 1).
    """
    alpha_bar: Array = np.asarray(np.cumprod(1.0 - betas(schedule)))
    if not schedule.rescale_betas_zero_snr:
        return alpha_bar
    root = np.sqrt(alpha_bar)
    rescaled: Array = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    return rescaled


class TrainedLevels:
    """The noise levels that a model was trained at, one a timestep: sigma = sqrt((1 - alpha_bar) / alpha_bar)."""

    sigmas: Array
    """`[train_timesteps]`, rising."""

    def __init__(self, schedule: NoiseSchedule, terminal_alpha: float = FINITE_TERMINAL_ALPHA) -> None:
        """Compute the levels; `terminal_alpha` is the last alpha_bar where the schedule's own is 0.

        Raises:
            BundleFormatError: some timestep adds no noise, or nothing is left before the last one.

        """
        with np.errstate(all="ignore"):  # a damaged bundle's betas may give anything; it is refused below
            alpha_bar = cumulative_alphas(schedule)
            if schedule.rescale_betas_zero_snr:
                alpha_bar[-1] = terminal_alpha
            self.sigmas = np.sqrt((1 - alpha_bar) / alpha_bar)
        if not (self.sigmas[0] > 0 and np.isfinite(self.sigmas).all() and (np.diff(self.sigmas) > 0).all()):
            raise BundleFormatError(
                "the bundle's noise schedule does not add noise at every timestep; export the bundle again"
            )
        self._log_sigmas = np.log(self.sigmas)
        self._timesteps = np.arange(len(self.sigmas), dtype=np.float64)

    @overload
    def sigma(self, timestep: float) -> float: ...
    @overload
    def sigma(self, timestep: Array) -> Array: ...
    def sigma(self, timestep: float | Array) -> float | Array:
        """Return the noise level of timesteps, whole or not: log sigma is linear between two (as in k-diffusion).

        Those outside of 0 to train_timesteps - 1 count as the nearest inside.
        """
        return _python(np.exp(np.interp(timestep, self._timesteps, self._log_sigmas)))

    @overload
    def timestep(self, sigma: float) -> float: ...
    @overload
    def timestep(self, sigma: Array) -> Array: ...
    def timestep(self, sigma: float | Array) -> float | Array:
        """Return the timestep of noise levels, the inverse of `sigma`; levels beyond the trained ones are clipped."""
        log_sigma = np.log(np.maximum(sigma, self.sigmas[0]))  # 0 has no logarithm
        return _python(np.interp(log_sigma, self._log_sigmas, self._timesteps))


def _python(values: Array) -> float | Array:
    return float(values) if np.ndim(values) == 0 else values
