"""How the conditional and the unconditional prediction combine."""

import numpy as np
from numpy.typing import NDArray


def is_guided(scale: float) -> bool:
    """Whether a scale needs the unconditional prediction at all."""
    return scale > 1.0


def classifier_free(
    unconditional: NDArray[np.float32], conditional: NDArray[np.float32], scale: float
) -> NDArray[np.float32]:
    """Push the prediction towards the prompt (Ho & Salimans 2022, equation 6, with w = scale - 1)."""
    return unconditional + np.float32(scale) * (conditional - unconditional)
