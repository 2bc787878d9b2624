"""What a cache is, and which evaluations of the model it leaves out."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Run = Callable[..., Array]
"""Runs the U-Net; see `Denoiser`'s `Predict`."""


@dataclass(frozen=True)
class Rhythm:
    """Which evaluations are made in full: the first few, which settle what the picture shows, then every N-th."""

    every: int
    """N. With 1, all are."""
    first: int = 3

    def is_due(self, number: int, last: int) -> bool:
        """Tell whether an evaluation is made in full: its number, from 0, and that of the last one that was."""
        return number < self.first or number - last >= self.every

    def full(self, evaluations: int) -> int:
        """Return how many of so many evaluations are made in full, where the contexts stay the same."""
        made = last = 0
        for number in range(evaluations):
            if self.is_due(number, last):
                made, last = made + 1, number
        return made


class Cache:
    """What is done without a cache: the model is evaluated each time.

    One is made for each picture, so that it may remember.

    A cache is asked twice: for x_0, which it may know without an evaluation; and within an evaluation for each run of
    the U-Net, of which there are several where guidance needs them.
    """

    def x_0(self, x: Array, sigma: float, under: Hashable, evaluate: Callable[[], Array]) -> Array:
        """Return the clean latents that the model sees in `x` `[1, channels, h, w]` at a noise level.

        `under` stands for the contexts and whether guidance applies. What was kept under others is of no use.
        """
        return evaluate()

    def run(self, run: Run, *inputs: Any) -> Array:  # noqa: ANN401 - the U-Net's
        """Return the prediction for these inputs."""
        return run(*inputs)


class RhythmicCache(Cache):
    """A cache that goes by a rhythm, and begins anew under other contexts."""

    def __init__(self, rhythm: Rhythm) -> None:
        """Start with nothing kept."""
        self._rhythm = rhythm
        self._number = -1
        self._last = 0
        self._under: Hashable = None

    def is_due(self, under: Hashable) -> bool:
        """Count an evaluation, and tell whether it is made in full."""
        self._number += 1
        if under == self._under and not self._rhythm.is_due(self._number, self._last):
            return False
        self._last, self._under = self._number, under
        return True
