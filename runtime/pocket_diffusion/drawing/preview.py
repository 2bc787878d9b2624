"""What latents look like, roughly and at once: a linear map to colours instead of the VAE, or a tiny VAE."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket_diffusion.drawing.images import to_array, to_pictures
from pocket_diffusion.errors import PocketDiffusionError

Latents = NDArray[np.float32]
EncodeImage = Callable[[NDArray[np.float32]], Latents]
"""A picture `[1, 3, height, width]` in -1…1 to scaled latents `[1, channels, height/8, width/8]`."""

_SIDE, _PATCHES = 256, 8
"""Of the first picture that is learnt from: pixels, and colours along a side."""
_RIDGE = 1e-6
_MEMORY = 0.9
"""How much what was learnt before counts beside what comes new."""
_log = logging.getLogger(__name__)


class Decoder(Protocol):
    """What makes small pictures of latents: a tiny VAE."""

    @property
    def is_loaded(self) -> bool:
        """Whether it needs no more memory than it has."""

    def __call__(self, latents: Latents, /) -> NDArray[np.float32]:
        """Return a picture `[1, 3, …]`, about -1…1, of any size, of scaled latents `[1, channels, height, width]`."""


@dataclass(frozen=True)
class LatentPreview:
    """How one VAE's latents become colours: least squares over pictures whose latents are known."""

    gram: NDArray[np.float64]
    """`[channels + 1, channels + 1]`: products of latents, and of the constant 1 behind them, a pixel on average."""
    moments: NDArray[np.float64]
    """`[channels + 1, 3]`: products of these with colours in -1…1."""

    @classmethod
    def fit(cls, encode_image: EncodeImage) -> "LatentPreview":
        """Learn from a picture of colours that run into each other, before there is any better one."""
        patches = np.random.default_rng(0).integers(0, 256, (_PATCHES, _PATCHES, 3), np.uint8)
        picture = Image.fromarray(patches).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        return cls(*_normal_equations(encode_image(to_array(picture, _SIDE, _SIDE)), picture))

    def learn(self, latents: Latents, picture: Image.Image) -> "LatentPreview":
        """Return a map that knows one more picture and its latents `[1, channels, height/8, width/8]`."""
        gram, moments = _normal_equations(latents, picture)
        return LatentPreview(_MEMORY * self.gram + gram, _MEMORY * self.moments + moments)

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """`[channels + 1, 3]`: the last row is added to every pixel."""
        # Of latents that are all the same, the equations alone would tell too little.
        regular = self.gram + _RIDGE * np.eye(len(self.gram))
        return np.linalg.solve(regular, self.moments).astype(np.float32)

    def picture(self, latents: Latents) -> Image.Image:
        """Return a picture with a pixel for each latent of `[1, channels, height/8, width/8]`."""
        height, width = latents.shape[2:]
        colours = (_as_rows(latents) @ self.weights).reshape(1, height, width, 3)
        return to_pictures(colours.transpose(0, 3, 1, 2))[0]


class Previewer:
    """Previews of one VAE's latents: by a tiny VAE, or else by a map that gets better with each picture drawn."""

    def __init__(self, encode_image: EncodeImage, decode: Decoder | None = None) -> None:
        """Learn nothing yet. `decode` makes small pictures, where there is a tiny VAE."""
        self._encode_image = encode_image
        self._decode = decode
        self._preview: LatentPreview | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it is known how latents look, and what tells is loaded."""
        return self._preview is not None if self._decode is None else self._decode.is_loaded

    def prepare(self) -> None:
        """Learn how latents look, where that is not known yet.

        This loads the VAE's encoder; or the tiny VAE's decoder, which stays, with the memory that a preview takes. One
        that cannot be loaded is done without from then on.
        """
        if self.is_ready:
            return
        if self._decode is not None:
            try:
                self._decode(np.zeros((1, 4, _SIDE // 8, _SIDE // 8), np.float32))
            except PocketDiffusionError as error:
                _log.warning("previews come without the tiny VAE: %s", error)
                self._decode = None
        if self._decode is None:
            self._preview = LatentPreview.fit(self._encode_image)

    def picture(self, latents: Latents) -> Image.Image:
        """Return a picture of `[1, channels, height/8, width/8]`: with a pixel for each latent, or a tiny VAE's."""
        # At high noise, guidance makes predictions far stronger than latents of pictures are, whose deviation is 1.
        weaker = (latents / max(1.0, float(latents.std()))).astype(np.float32)
        if self._decode is not None:
            return to_pictures(self._decode(weaker))[0]
        self.prepare()
        assert self._preview is not None  # noqa: S101 - for the type checker: `prepare` has just seen to it
        return self._preview.picture(weaker)

    def learn(self, latents: Latents, picture: Image.Image) -> None:
        """Look at a finished picture, if previews are wanted at all."""
        if self._preview is not None and np.isfinite(latents).all():
            self._preview = self._preview.learn(latents, picture)


def _normal_equations(latents: Latents, picture: Image.Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    height, width = latents.shape[2:]
    reduced = picture.resize((width, height), Image.Resampling.BOX)
    rows = _as_rows(latents).astype(np.float64)
    colours = _pixels(to_array(reduced, width, height))
    return rows.T @ rows / len(rows), rows.T @ colours / len(rows)


def _pixels(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `[height · width, channels]` of `[1, channels, height, width]`."""
    return array.reshape(array.shape[1], -1).T


def _as_rows(latents: Latents) -> NDArray[np.float32]:
    rows = _pixels(latents)
    return np.hstack([rows, np.ones((len(rows), 1), np.float32)])
