"""How the predictions with the prompt, without it, and without a picture combine, and when."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def is_guided(scale: float) -> bool:
    """Tell whether a scale needs the unconditional prediction at all."""
    return scale > 1.0


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022), also by a picture (Brooks et al. 2023)."""

    scale: float
    """1 is the conditional prediction alone."""
    image_scale: float = 1.0
    """1 does not push towards the picture that the U-Net is shown."""
    rescale: float = 0.0
    """0…1: how far the prediction is brought back to the conditional one's deviation."""
    interval: tuple[float, float] = (0.0, 1.0)
    """The part of the way, as fractions of the steps, that is guided (Kynkäänniemi et al. 2024)."""

    def applies(self, way: float) -> bool:
        """Tell whether a step is guided that begins when a fraction `way` of the steps is done."""
        begin, end = self.interval
        return is_guided(self.scale) and begin <= way < end

    @property
    def needs_blind(self) -> bool:
        """Whether a guided step needs a prediction that is shown no picture either."""
        return self.image_scale != 1

    def predictions(self, way: float) -> int:
        """Return how many predictions a step combines that begins when a fraction `way` of the steps is done."""
        return 2 + self.needs_blind if self.applies(way) else 1

    def combine(self, unconditional: Array, conditional: Array, blind: Array | None = None) -> Array:
        """Push `[1, channels, h, w]` towards the prompt, and towards the picture that `blind` was not shown.

        The first push is Ho & Salimans' equation 6 with w = scale - 1, both together are Brooks et al.'s equation 3;
        the rescaling is section 3.4 of Lin et al. 2023.
        """
        guided = unconditional + np.float32(self.scale) * (conditional - unconditional)
        if blind is not None:
            guided += np.float32(self.image_scale - 1) * (unconditional - blind)
        if self.rescale == 0:
            return guided
        factor = float(conditional.std() / guided.std())  # equations 15 and 16
        return guided * np.float32(self.rescale * factor + 1 - self.rescale)
