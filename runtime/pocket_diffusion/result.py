"""What `Pipeline.generate` returns."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket_diffusion.images import save_picture
from pocket_diffusion.request import Request


@dataclass(frozen=True)
class Result:
    """Pictures, and how they came to be."""

    images: list[Image.Image]
    seeds: list[int]
    """One a picture: drawing again with it gives the same picture."""
    latents: NDArray[np.float32]
    """`[count, 4, height/8, width/8]`, as they went into the VAE decoder."""
    timings: dict[str, float]
    """Seconds by stage: `encode`, `denoise`, `decode`, `total`; `load` is also part of the first to need a graph."""
    request: Request
    model: str
    """The bundle's name."""

    def save(self, path: str | os.PathLike[str], index: int = 0) -> None:
        """Write a picture whole or not at all; a PNG carries how it was made.

        Raises:
            InvalidRequestError: the file's ending names no known format.
            OutputError: the file cannot be written.

        """
        save_picture(
            self.images[index],
            Path(path),
            self.request.parameters_text(index, self.model),
            self.request.metadata(index, self.model),
        )
