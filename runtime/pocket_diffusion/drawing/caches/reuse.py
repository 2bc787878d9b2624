"""The model's last answer again, in place of an evaluation."""

from collections.abc import Callable, Hashable

import numpy as np

from pocket_diffusion.drawing.caches.cache import Array, Rhythm, RhythmicCache


class ReuseCache(RhythmicCache):
    """Goes on in the direction of the last evaluation (the idea of TeaCache, Liu et al. 2024, at a fixed rhythm).

    Without fresh noise, what changes least on the way is the predicted noise (x - x_0) / sigma: on a straight path it
    is constant (Karras et al. 2022, section 3). Where a sampler replaces noise, it is another noise each time, and x_0
    is what stays.
    """

    def __init__(self, rhythm: Rhythm, *, adds_noise: bool) -> None:
        """Start with nothing kept; `adds_noise` tells whether the sampler does."""
        super().__init__(rhythm)
        self._adds_noise = adds_noise
        self._kept: Array = np.zeros(0, np.float32)
        """The predicted noise, or x_0 where the sampler adds noise."""

    def x_0(self, x: Array, sigma: float, under: Hashable, evaluate: Callable[[], Array]) -> Array:
        """See `Cache`."""
        if self.is_due(under):
            x_0 = evaluate()
            self._kept = x_0 if self._adds_noise else (x - x_0) / np.float32(sigma)
            return x_0
        return self._kept if self._adds_noise else x - np.float32(sigma) * self._kept
