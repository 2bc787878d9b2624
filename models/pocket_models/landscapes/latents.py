"""The training pictures seen through the trained VAE, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pocket_models.landscapes.pictures import Pictures, to_tensor
from pocket_models.vae import VAE


@dataclass(frozen=True)
class LatentPictures:
    """Pictures seen through the VAE, scaled to a standard deviation of 1.

    ``latents``: float16 [count, 4, 16, 16], already multiplied by ``scaling_factor``.
    """

    latents: NDArray[np.float16]
    scaling_factor: float


@torch.no_grad()
def encode_pictures(path: Path, vae: VAE, pictures: Pictures, device: torch.device) -> LatentPictures:
    """Encode all pictures with the trained VAE, or read what an earlier run encoded to ``path``."""
    if not path.exists():
        batches = [
            vae.encode(to_tensor(pictures[start : start + 32]).to(device)).chunk(2, dim=1)[0].cpu().numpy()
            for start in range(0, len(pictures), 32)
        ]
        means = np.concatenate(batches)
        factor = float(1 / means.std())
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(unfinished, latents=(means * factor).astype(np.float16), scaling_factor=factor)
        unfinished.replace(path)
    with np.load(path) as stored:
        return LatentPictures(stored["latents"], float(stored["scaling_factor"]))
