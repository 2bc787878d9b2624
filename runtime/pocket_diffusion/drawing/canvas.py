"""What the latents start from, what the U-Net is shown, and what of a given picture must be kept.

That is all that the tasks differ in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from pocket_diffusion.bundle import IMAGE_LATENTS, MASK, MASKED_LATENTS
from pocket_diffusion.drawing.images import to_array, to_mask
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.noise import NoiseGenerator
from pocket_diffusion.drawing.resolve import Drawing

Latents = NDArray[np.float32]
EncodeImage = Callable[[NDArray[np.float32], NDArray[np.float32] | None], Latents]
"""A picture `[1, 3, height, width]` and noise, or None, to scaled latents `[1, 4, height/8, width/8]`."""


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
    shown: Mapping[str, Latents] = field(default_factory=dict)
    """What the U-Net takes at every step, by the names of its inputs."""

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
    manifest = drawing.manifest
    if manifest.repaints:
        return _to_repaint(drawing, shape, levels, generator, encode_image)
    if drawing.image is None:
        return Canvas(np.float32(levels.start) * generator.initial(shape))
    picture = to_array(drawing.image, drawing.width, drawing.height)
    if manifest.follows_instructions:
        seen = encode_image(picture, None) / np.float32(manifest.latents.scaling_factor)
        return Canvas(np.float32(levels.start) * generator.initial(shape), shown={IMAGE_LATENTS: seen})
    original = encode_image(picture, generator.normal(shape))
    noise = generator.initial(shape)
    start = original + np.float32(levels.sigmas[drawing.first_step]) * noise
    if drawing.mask is None:
        return Canvas(start)
    # diffusers encodes the masked picture too, which 4-channel U-Nets do not use; the noise it draws counts.
    generator.normal(shape)
    mask = to_mask(drawing.mask, drawing.width, drawing.height)
    # At full strength the repainted part starts from noise alone.
    if drawing.strength == 1:
        start = np.float32(levels.start) * noise
    return Canvas(start, original, noise, _of_latents(mask, shape))


def pasted(drawing: Drawing, drawn: Image.Image) -> Image.Image:
    """Put what is drawn into the given picture, if the mask has a feather; else return it as it is.

    As in AUTOMATIC1111's web UI, the mask is blurred by a Gaussian whose deviation is the feather, and doubled: all
    that it covers is drawn, and the feather lies around it.
    """
    if drawing.image is None or drawing.mask is None or not drawing.mask_feather:
        return drawn
    picture = drawing.image.resize(drawn.size, Image.Resampling.LANCZOS)
    mask = to_mask(drawing.mask, *drawn.size)[0, 0]
    covered = Image.fromarray((255 * mask).astype(np.uint8))
    blurred = covered.filter(ImageFilter.GaussianBlur(drawing.mask_feather))
    around = ImageChops.add(blurred, blurred)
    # A part that is thinner than the feather is covered too.
    return Image.composite(drawn, picture, ImageChops.lighter(covered, around))


def _to_repaint(
    drawing: Drawing, shape: tuple[int, ...], levels: Levels, generator: NoiseGenerator, encode_image: EncodeImage
) -> Canvas:
    """Return the canvas of a U-Net that is shown a mask and what that leaves of the picture.

    The order of the noise is that of diffusers' StableDiffusionInpaintPipeline with 9 channels. Where there is no
    mask, all is repainted; where there is no picture, none of it shows, as in A1111.
    """
    white = np.ones((1, 1, drawing.height, drawing.width), np.float32)
    mask = white if drawing.mask is None else to_mask(drawing.mask, drawing.width, drawing.height)
    if drawing.image is None:
        picture = np.zeros((1, 3, drawing.height, drawing.width), np.float32)
    else:
        picture = to_array(drawing.image, drawing.width, drawing.height)
    if drawing.image is None or drawing.strength == 1:
        start = np.float32(levels.start) * generator.initial(shape)
    else:
        original = encode_image(picture, generator.normal(shape))
        start = original + np.float32(levels.sigmas[drawing.first_step]) * generator.initial(shape)
    rest = encode_image(picture * (1 - mask), generator.normal(shape))
    return Canvas(start, shown={MASK: _of_latents(mask, shape), MASKED_LATENTS: rest})


def _of_latents(mask: NDArray[np.float32], shape: tuple[int, ...]) -> Latents:
    """Return a picture's mask at the size of its latents: that of each patch's first pixel, as in diffusers."""
    downscale = mask.shape[2] // shape[2]
    return mask[:, :, ::downscale, ::downscale]
