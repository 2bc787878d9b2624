"""What the latents start from, and what of the given picture must be kept: the three tasks' only difference."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.images import to_array, to_mask
from pocket_diffusion.noise import NoiseGenerator
from pocket_diffusion.request import Request
from pocket_diffusion.samplers import Sampler

Latents = NDArray[np.float32]
EncodeImage = Callable[[NDArray[np.float32], NDArray[np.float32]], Latents]
"""A picture `[1, 3, height, width]` and noise to scaled latents `[1, 4, height/8, width/8]`."""


@dataclass(frozen=True)
class Canvas:
    """One picture's start."""

    latents: Latents
    """`[1, 4, height/8, width/8]`, as noisy as the first timestep visited has them."""
    original: Latents | None = None
    """Inpainting: the given picture's latents, clean."""
    noise: Latents | None = None
    """Inpainting: the noise that the original is shown under."""
    mask: Latents | None = None
    """Inpainting: `[1, 1, height/8, width/8]`, 1 where it is repainted."""

    def restore(self, latents: Latents, sampler: Sampler, index: int) -> Latents:
        """Put what must be kept back into the latents after step `index`, at the noise of the next timestep."""
        if self.original is None or self.noise is None or self.mask is None:
            return latents
        kept = self.original
        if index + 1 < len(sampler.timesteps):
            kept = sampler.add_noise(kept, self.noise, int(sampler.timesteps[index + 1]))
        return (1 - self.mask) * kept + self.mask * latents


def prepare_canvas(
    request: Request, shape: tuple[int, ...], sampler: Sampler, generator: NoiseGenerator, encode_image: EncodeImage
) -> Canvas:
    """Draw the noise that comes before the first step, in the order in which diffusers' pipelines draw it.

    `shape` is that of one picture's latents, `[1, 4, height/8, width/8]`.
    """
    if request.image is None:
        return Canvas(generator.normal(shape))
    picture = to_array(request.image, request.width, request.height)
    original = encode_image(picture, generator.normal(shape))
    noise = generator.normal(shape)
    start = sampler.add_noise(original, noise, int(sampler.timesteps[request.first_step]))
    if request.mask is None:
        return Canvas(start)
    # diffusers encodes the masked picture too, which 4-channel U-Nets do not use; the noise it draws counts.
    generator.normal(shape)
    mask = to_mask(request.mask, request.width, request.height)
    downscale = request.height // shape[2]
    # At full strength the repainted part starts from noise alone.
    return Canvas(noise if request.strength == 1 else start, original, noise, mask[:, :, ::downscale, ::downscale])
