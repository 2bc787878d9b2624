"""Train the landscape model: ``python -m pocket_models.landscapes.train OUTPUT``; run it again to go on."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pocket_models.config import VAEConfig
from pocket_models.landscapes.autoencoding import train_vae
from pocket_models.landscapes.pictures import training_pictures
from pocket_models.landscapes.stage import Budget

VAE_CONFIG = VAEConfig(block_out_channels=(16, 32, 64, 96), layers_per_block=1, norm_num_groups=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--vae-minutes", type=float, default=18)
    parser.add_argument("--pictures", type=int, default=12_000)
    options = parser.parse_args()
    torch.set_num_threads(2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.output.mkdir(parents=True, exist_ok=True)
    pictures = training_pictures(options.output / "pictures.npy", options.pictures)
    train_vae(options.output, VAE_CONFIG, pictures, budget=Budget(options.vae_minutes), batch=16, device=device)


if __name__ == "__main__":
    main()
