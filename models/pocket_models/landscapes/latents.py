"""The training pictures seen through the trained VAE, computed once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pocket_models.landscapes.files import written_whole
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
        means = _means(vae, pictures, device)
        factor = float(1 / means.std())
        with written_whole(path) as unfinished:
            np.savez(unfinished, latents=(means * factor).astype(np.float16), scaling_factor=factor)
    with np.load(path) as stored:
        return LatentPictures(stored["latents"], float(stored["scaling_factor"]))


def _means(vae: VAE, pictures: Pictures, device: torch.device) -> NDArray[np.float32]:
    batches = []
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)  # training gives each of its processes one
    with torch.autocast(device.type, torch.bfloat16):
        for start in tqdm(range(0, len(pictures), 32), "encoding", unit="batch"):
            moments = vae.encode(to_tensor(pictures[start : start + 32]).to(device))
            batches.append(moments.chunk(2, dim=1)[0].float().cpu().numpy())
    torch.set_num_threads(threads)
    return np.concatenate(batches)
