"""UniPC: a unified predictor-corrector (Zhao et al. 2023), of order 2 with B(h) = exp(h) - 1 on x_0."""

import math
from collections import deque

from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.samplers.sampler import Denoise, Latents, Noise, Sampler, combine, move, x_0_ahead


class UniPCSampler(Sampler):
    """One evaluation a step, which also corrects the step before.

    The predictor is DPM-Solver++(2M).
    """

    def __init__(self, levels: Levels) -> None:
        """Start without a step to correct."""
        super().__init__(levels)
        self._seen: deque[tuple[float, Latents]] = deque(maxlen=2)
        self._origin: Latents | None = None
        self._order = 1

    def step(self, x: Latents, i: int, denoise: Denoise, noise: Noise) -> Latents:
        """Correct `x` by what the model sees in it, then predict; the first and the last step are of first order."""
        sigma, sigma_next = self.interval(i)
        x_0 = denoise(x, sigma)
        if self._origin is not None:
            x = self._correct(self._origin, x_0, sigma)
        self._order = 1 if not self._seen or self.is_last(i) else 2
        expected = x_0
        if self._order == 2:
            last_sigma, last_x_0 = self._seen[0]
            expected = x_0_ahead(x_0, last_x_0, sigma, sigma_next, last_sigma)
        self._seen.appendleft((sigma, x_0))
        self._origin = x
        return move(x, expected, sigma, sigma_next)

    def _correct(self, origin: Latents, x_0: Latents, sigma: float) -> Latents:
        """Repeat the last step from its origin, with the x_0 seen at its end (Zhao et al. 2023, algorithm 1)."""
        start, first = self._seen[0]
        if self._order == 1:
            return move(origin, combine((0.5, 0.5), (first, x_0)), start, sigma)
        before, last = self._seen[1]
        h = math.log(start / sigma)
        ratio = math.log(start / before) / h  # below 0
        # Equation 5: the weights that make the correction exact for x_0 of degree 2 in log sigma.
        phi_1 = math.expm1(-h)
        phi_2 = -phi_1 / h - 1
        phi_3 = -phi_2 / h - 1 / 2
        moments = phi_2 / phi_1, 2 * phi_3 / phi_1
        past = (moments[0] - moments[1]) / (1 - ratio)
        present = moments[0] - past
        expected = combine((1 - past / ratio - present, past / ratio, present), (first, last, x_0))
        return move(origin, expected, start, sigma)
