"""What latents look like, roughly and at once: a linear map to colours instead of the VAE."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket_diffusion.images import to_array, to_pictures

Latents = NDArray[np.float32]
EncodeImage = Callable[[NDArray[np.float32]], Latents]
"""A picture `[1, 3, height, width]` in -1…1 to scaled latents `[1, channels, height/8, width/8]`."""

_LEVELS = (0, 85, 170, 255)
_SWATCH = 16
"""The side of a plain square, in pixels."""


@dataclass(frozen=True)
class LatentPreview:
    """How one VAE's latents become colours."""

    weights: NDArray[np.float32]
    """`[channels + 1, 3]`: the last row is added to every pixel."""

    @classmethod
    def fit(cls, encode_image: EncodeImage) -> "LatentPreview":
        """Find the map that best tells the colours of plain squares from their latents (least squares)."""
        swatches = _swatches()
        latents = encode_image(to_array(swatches, *swatches.size))
        height, width = latents.shape[2:]
        colours = to_array(swatches.resize((width, height), Image.Resampling.BOX), width, height)
        weights, *_ = np.linalg.lstsq(_as_rows(latents), _pixels(colours), rcond=None)
        return cls(weights.astype(np.float32))

    def picture(self, latents: Latents) -> Image.Image:
        """Return a picture with a pixel for each latent of `[1, channels, height/8, width/8]`."""
        height, width = latents.shape[2:]
        colours = (_as_rows(latents) @ self.weights).reshape(1, height, width, 3)
        return to_pictures(colours.transpose(0, 3, 1, 2))[0]


def _swatches() -> Image.Image:
    colours = np.array(list(product(_LEVELS, repeat=3)), np.uint8).reshape(8, 8, 3)
    return Image.fromarray(colours.repeat(_SWATCH, 0).repeat(_SWATCH, 1))


def _pixels(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `[height · width, channels]` of `[1, channels, height, width]`."""
    return array[0].reshape(array.shape[1], -1).T


def _as_rows(latents: Latents) -> NDArray[np.float32]:
    rows = _pixels(latents)
    return np.hstack([rows, np.ones((len(rows), 1), np.float32)])
