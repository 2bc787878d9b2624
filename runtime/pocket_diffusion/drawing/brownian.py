"""Noise from a Brownian path over sigma, which is the same path however many steps walk along it."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_DEPTH = 18
"""Halvings of an octave of sigma: a point of the path is within 2e-6 of it from the sigma that was asked for."""


class BrownianNoise:
    """A virtual Brownian tree (Li et al. 2020, section 4): nothing of the path is stored, and all of it is defined.

    W starts at W(0) = 0. Its increments over [0, 1], [1, 2], [2, 4], [4, 8], … are drawn, and each interval is halved
    by Brownian bridges. The normal numbers of a point depend on the seed and on that point alone, so that neither the
    order nor the number of queries matters.
    """

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        """Define the path; `seed` is from 0 to 2**64 - 1, `shape` is that of the latents."""
        self._seed = seed
        self._shape = shape
        # A step begins where the one before ended.
        self._value = lru_cache(maxsize=3)(self._descend)

    def __call__(self, sigma: float, sigma_next: float) -> Array:
        """Return (W(sigma) - W(sigma_next)) / sqrt(sigma - sigma_next), standard normal float32; sigma ≥ sigma_next."""
        here, value = self._value(sigma)
        there, next_value = self._value(sigma_next)
        if here <= there:  # nearer than the path is fine
            return self._normal(sigma)
        return (value - next_value) / math.sqrt(here - there)

    def _descend(self, sigma: float) -> tuple[float, Array]:
        """Return the point of the path that is next to sigma, and the path there."""
        low, high = 0.0, 1.0
        at_low = np.zeros(self._shape, np.float32)
        at_high = self._normal(high)
        while high < sigma:
            low, high, at_low = high, 2 * high, at_high
            at_high = at_low + math.sqrt(high - low) * self._normal(high)
        for _ in range(_DEPTH):
            middle = (low + high) / 2
            at_middle = self._normal(middle)
            at_middle *= math.sqrt(high - low) / 2
            at_middle += (at_low + at_high) * 0.5
            if sigma < middle:
                high, at_high = middle, at_middle
            else:
                low, at_low = middle, at_middle
        return (low, at_low) if sigma - low < high - sigma else (high, at_high)

    def _normal(self, point: float) -> Array:
        bits = int(np.float64(point).view(np.uint64))
        generator = np.random.Generator(np.random.Philox(key=[self._seed, bits]))
        return generator.standard_normal(self._shape, np.float32)
