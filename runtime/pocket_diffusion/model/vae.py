"""The autoencoder: pictures to scaled latents and back, in tiles where they are large."""

import logging
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import LatentSpec
from pocket_diffusion.errors import InvalidRequestError, OutOfMemoryError
from pocket_diffusion.model.components import Components
from pocket_diffusion.model.tiles import blend, in_tiles

Array = NDArray[np.float32]

_LOG_VARIANCE_LIMITS = (-30.0, 20.0)  # as in the autoencoder's training; keeps exp() finite

_log = logging.getLogger(__name__)


class VAE:
    """The two networks of the autoencoder (Kingma & Welling 2014; Rombach et al. 2022, section 3.1), or of a tiny one.

    A tiny one knows no distribution, and its latents are scaled as they are.
    """

    def __init__(self, components: Components, spec: LatentSpec) -> None:
        """Run the networks of `components` by the factors in `spec`."""
        self._components = components
        self._spec = spec
        self._is_tiny = components.bundle.manifest.has_tiny_vae
        self._scale = np.float32(1 if self._is_tiny else spec.scaling_factor)

    def encode(self, pictures: Array, noise: Array | None = None) -> Array:
        """Return scaled latents `[n, channels, h/8, w/8]` of pictures `[n, 3, h, w]` in -1…1.

        The latents are a sample of the VAE's distribution, made with `noise` (of the latents' shape), or its mean. A
        tiny VAE has the mean alone.

        Raises:
            InvalidRequestError: other shapes than these, or sides that are no multiples of 8.
            InferenceError: ONNX Runtime failed.

        """
        downscale = self._spec.downscale
        if any(side % downscale for side in pictures.shape[2:]):
            raise InvalidRequestError(
                f"the sides of a picture must be multiples of {downscale}, not {list(pictures.shape)}; resize it"
            )
        channels = self._spec.channels
        if self._is_tiny:
            return self._run("vae_encoder", "picture", "latents", pictures, channels, inward=downscale)
        moments = self._run("vae_encoder", "picture", "moments", pictures, 2 * channels, inward=downscale)
        latents, log_variance = np.split(moments, 2, axis=1)
        if noise is not None:
            if noise.shape != latents.shape:
                raise InvalidRequestError(f"noise must be {list(latents.shape)}, not {list(noise.shape)}")
            deviation = np.exp(np.float32(0.5) * log_variance.clip(*_LOG_VARIANCE_LIMITS))
            latents = latents + deviation * noise.astype(np.float32)
        return latents * self._scale

    def decode(self, latents: Array) -> Array:
        """Return pictures `[n, 3, h, w]` in -1…1 (not cut off) of scaled latents `[n, channels, h/8, w/8]`.

        Raises:
            InvalidRequestError: other shapes than these.
            InferenceError: ONNX Runtime failed.

        """
        return self._run("vae_decoder", "latents", "picture", latents / self._scale, 3, outward=self._spec.downscale)

    def _run(
        self, role: str, given: str, wanted: str, arrays: Array, channels: int, *, inward: int = 1, outward: int = 1
    ) -> Array:
        """Run one half on `[n, any channels, height, width]`, in tiles if they are large, to `channels`.

        A tiny VAE has no norms: its tiles have the colours of the whole, which `in_tiles` would have to restore.
        """
        if arrays.ndim != 4 or 0 in arrays.shape:
            raise InvalidRequestError(f"{given} must be [n, channels, height, width], not {list(arrays.shape)}")
        arrays = arrays.astype(np.float32, copy=False)  # Pillow, which resizes for tiles, knows no float16
        sides = tuple(side // inward for side in arrays.shape[-2:])
        mode = self._components.mode

        def process(piece: Array) -> Array:
            return self._components.run(role, **{given: piece})[wanted]

        def run(tile: int) -> Array:
            blends = self._is_tiny and max(sides) > tile
            in_parts = partial(blend, channels=channels) if blends else in_tiles
            # One by one: the VAE's activations are the largest of all, and a batch is no faster.
            return np.concatenate(
                [in_parts(process, one[None], tile=tile, inward=inward, outward=outward) for one in arrays]
            )

        tile = mode.vae_tile(*sides)
        try:
            return run(tile)
        except OutOfMemoryError as error:
            if self._components.provider == "cpu" or tile <= mode.tile:
                raise
            _log.warning("%s: it is run in tiles instead, as --memory balanced has it at once", error)
        return run(mode.tile)
