"""What processes that draw leave behind, made up."""

import numpy as np

from agreement import Drawn


def drawn(latents: float = 1.0, pictures: int = 100, noise: float = 1.0, decoded: float = 1.0) -> Drawn:
    return Drawn(
        noise=np.full((2, 4, 8, 8), noise, np.float32),
        decoded=np.full((1, 3, 64, 64), decoded, np.float32),
        latents=np.full((1, 4, 8, 8), latents, np.float32),
        pictures=np.full((1, 64, 64, 3), pictures, np.uint8),
    )
