"""Training the VAE to carry pictures through 16x16 latents and back; first all of it, later its decoder alone."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pocket_models.config import VAEConfig
from pocket_models.landscapes.latents import LatentPictures
from pocket_models.landscapes.painting import SIZE
from pocket_models.landscapes.pictures import Pictures, to_bytes, to_tensor
from pocket_models.landscapes.stage import Budget, Stage, save_grid
from pocket_models.vae import VAE

_CROP = 64
_CROPS_UNTIL = 0.7
"""Share of the training spent on crops; the rest is on whole pictures, as the VAE is used."""
_KL_WEIGHT = 5e-5
_LATENT_ERROR = 0.05
"""Noise on the latents the decoder is trained further with: the U-Net's are not exact either."""


def train_vae(
    folder: Path,
    config: VAEConfig,
    pictures: Pictures,
    *,
    budget: Budget,
    batch: int,
    device: torch.device,
    finished: bool,
) -> VAE:
    """Train (or go on training, or just load) the VAE and return its moving average.

    It must be ``finished`` from the moment pictures are encoded: other latents would no longer be what they were.
    """
    stage = Stage("vae", folder, VAE(config).to(device), budget=budget, peak_rate=1.5e-3)
    if finished:
        return stage.average

    def loss(vae: VAE, seed: list[int], progress: float) -> torch.Tensor:
        generator = np.random.default_rng(seed)
        torch.manual_seed(int(generator.integers(2**62)))
        whole = progress > _CROPS_UNTIL
        # A whole picture is four crops: the same work a step.
        chosen = pictures[np.sort(generator.integers(len(pictures), size=max(1, batch // 4) if whole else batch))]
        return _loss(vae, to_tensor(chosen if whole else _crop(chosen, generator)).to(device))

    stage.train(loss, show=lambda: _show(stage.average, pictures[:8], folder, device))
    return stage.average


def train_decoder(
    folder: Path, vae: VAE, pictures: Pictures, examples: LatentPictures, *, budget: Budget, batch: int
) -> None:
    """Train the decoder half of ``vae`` further, in place, on the latents that the U-Net has learned to make.

    The encoder must stay as it is from the moment pictures are encoded, but the decoder need not.
    """
    device = vae.post_quant_conv.weight.device
    halves = nn.Sequential(vae.post_quant_conv, vae.decoder).requires_grad_(True)
    stage = Stage("decoder", folder, copy.deepcopy(halves), budget=budget, peak_rate=1e-3)

    def loss(decoder: nn.Sequential, seed: list[int], progress: float) -> torch.Tensor:
        generator = np.random.default_rng(seed)
        chosen = np.sort(generator.integers(len(pictures), size=batch))
        latents = examples.latents[chosen] + generator.normal(0, _LATENT_ERROR, examples.latents[chosen].shape)
        scaled = torch.from_numpy(latents / examples.scaling_factor).float().to(device)
        with torch.autocast(device.type, torch.bfloat16):
            picture = decoder(scaled)
        return _difference(picture.float(), to_tensor(pictures[chosen]).to(device))

    stage.train(loss, show=lambda: None)
    halves.load_state_dict(stage.average.state_dict())
    _show(vae, pictures[:8], folder, device)


def _crop(pictures: Pictures, generator: np.random.Generator) -> Pictures:
    corners = generator.integers(0, SIZE - _CROP + 1, (len(pictures), 2)).tolist()
    crops = [picture[y : y + _CROP, x : x + _CROP] for picture, (y, x) in zip(pictures, corners, strict=True)]
    return np.stack(crops)


def _loss(vae: VAE, target: torch.Tensor) -> torch.Tensor:
    """How far the reconstruction is off in colour and in edges, plus the price of precise latents."""
    with torch.autocast(target.device.type, torch.bfloat16):
        moments = vae.encode(target).float()
        mean, log_variance = moments.chunk(2, dim=1)
        log_variance = log_variance.clamp(-20, 10)
        latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        picture = vae.decode(latents)
    picture = picture.float()
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return _difference(picture, target) + _KL_WEIGHT * divergence


def _difference(picture: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    # Weighed so that the absolute and the squared error pull about equally where the picture is nearly right.
    colour = functional.l1_loss(picture, target) + 5 * functional.mse_loss(picture, target)
    across, down = (functional.l1_loss(picture.diff(dim=axis), target.diff(dim=axis)) for axis in (2, 3))
    return colour + 0.5 * (across + down)


@torch.no_grad()
def _show(vae: VAE, pictures: Pictures, folder: Path, device: torch.device) -> None:
    mean = vae.encode(to_tensor(pictures).to(device)).chunk(2, dim=1)[0]
    save_grid(np.concatenate([pictures, to_bytes(vae.decode(mean))]), len(pictures), folder / "vae.png")
