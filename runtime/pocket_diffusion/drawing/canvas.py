"""What the latents start from, and what of the given picture must be kept: the three tasks' only difference."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.drawing.images import to_array, to_mask
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.noise import NoiseGenerator
from pocket_diffusion.drawing.resolve import Drawing

Latents = NDArray[np.float32]
EncodeImage = Callable[[NDArray[np.float32], NDArray[np.float32]], Latents]
"""A picture `[1, 3, height, width]` and noise to scaled latents `[1, 4, height/8, width/8]`."""


@dataclass(frozen=True)
class Canvas:
    """One picture's start; latents are x = x_0 + sigma · noise."""

    latents: Latents
    """`[1, 4, height/8, width/8]`, at the first noise level visited."""
    original: Latents | None = None
    """Inpainting: the given picture's latents, clean."""
    noise: Latents | None = None
    """Inpainting: the noise that the original is shown under."""
    mask: Latents | None = None
    """Inpainting: `[1, 1, height/8, width/8]`, 1 where it is repainted."""

    def restore(self, x: Latents, levels: Levels, i: int) -> Latents:
        """Put what must be kept back into the latents after step `i`."""
        if self.original is None or self.noise is None or self.mask is None:
            return x
        sigma = levels.sigmas[i + 1]
        if i + 1 < levels.steps:
            kept = self.original + np.float32(sigma) * self.noise
        else:  # clean, even where a sampler leaves some noise; the loop then divides by this factor
            kept = self.original * np.float32((1 + sigma * sigma) ** 0.5)
        return (1 - self.mask) * kept + self.mask * x


def prepare_canvas(
    drawing: Drawing, shape: tuple[int, ...], levels: Levels, generator: NoiseGenerator, encode_image: EncodeImage
) -> Canvas:
    """Draw the noise that comes before the first step, in the order in which diffusers' pipelines draw it.

    `shape` is that of one picture's latents, `[1, 4, height/8, width/8]`.
    """
    if drawing.image is None:
        return Canvas(np.float32(levels.start) * generator.normal(shape))
    picture = to_array(drawing.image, drawing.width, drawing.height)
    original = encode_image(picture, generator.normal(shape))
    noise = generator.normal(shape)
    start = original + np.float32(levels.sigmas[drawing.first_step]) * noise
    if drawing.mask is None:
        return Canvas(start)
    # diffusers encodes the masked picture too, which 4-channel U-Nets do not use; the noise it draws counts.
    generator.normal(shape)
    mask = to_mask(drawing.mask, drawing.width, drawing.height)
    downscale = drawing.height // shape[2]
    # At full strength the repainted part starts from noise alone.
    if drawing.strength == 1:
        start = np.float32(levels.start) * noise
    return Canvas(start, original, noise, mask[:, :, ::downscale, ::downscale])
