"""Linear multistep with the weights of the actual steps (k-diffusion's `sample_lms`)."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.samplers.sampler import Denoise, Latents, Noise, Sampler, combine, slope

_ORDER = 4


class LMSSampler(Sampler):
    """Integrates the polynomial in sigma through the last four slopes; lower orders first."""

    def __init__(self, levels: Levels) -> None:
        """Start without slopes."""
        super().__init__(levels)
        self._slopes: deque[Latents] = deque(maxlen=_ORDER)
        self._sigmas: deque[float] = deque(maxlen=_ORDER)

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Follow a weighted sum of the last slopes."""
        sigma, sigma_next = self.interval(i)
        self._slopes.appendleft(slope(x, denoise(x, sigma), sigma))
        self._sigmas.appendleft(sigma)
        return x + combine(integration_weights(list(self._sigmas), sigma_next), list(self._slopes))


def integration_weights(nodes: Sequence[float], end: float) -> list[float]:
    """Return the weight of a function's value at each node in its integral from the first node to `end`.

    Exact for polynomials of a degree below the number of nodes, which is what defines them.
    """
    # From -1 to 1, the powers are well-conditioned; no span at all has no integral.
    span = (nodes[-1] - end) or 1.0
    positions = (np.array(nodes) - nodes[0]) / span
    powers = np.arange(len(nodes))
    integrals = ((end - nodes[0]) / span) ** (powers + 1) / (powers + 1)
    weights: list[float] = (span * np.linalg.solve(positions[None, :] ** powers[:, None], integrals)).tolist()
    return weights
