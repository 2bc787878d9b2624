"""Ask the trained model for what it never saw: ``python -m pocket_models.landscapes.evaluate OUTPUT/model``.

Paints held-out prompts with PyTorch, reads the pictures with the probes and prints, by attribute, how many show
what was asked for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from pocket_models.landscapes.captions import held_out_prompts
from pocket_models.landscapes.diffusing import Painter, paint_prompts
from pocket_models.landscapes.probes import Probes
from pocket_models.landscapes.stage import save_grid
from pocket_models.landscapes.train import Recipe
from pocket_models.landscapes.vocabulary import Vocabulary
from pocket_models.vae import VAE

_BATCH = 25


def evaluate(model: Path, *, count: int, steps: int, guidance: float, grid: Path | None = None) -> dict[str, float]:
    """Score ``count`` held-out prompts, by attribute and ``overall``; write the pictures to ``grid`` if given."""
    recipe = Recipe()
    vocabulary = Vocabulary(model / "tokenizer")
    painter = Painter(recipe.text_encoder(vocabulary), recipe.unet)
    vae = VAE(recipe.vae)
    _load(painter.text_encoder, model / "text_encoder" / "model.safetensors")
    _load(painter.unet, model / "unet" / "diffusion_pytorch_model.safetensors")
    _load(vae, model / "vae" / "diffusion_pytorch_model.safetensors")
    scaling_factor = json.loads((model / "vae" / "config.json").read_text(encoding="utf-8"))["scaling_factor"]
    prompts = held_out_prompts(count)
    batches = []
    for start in range(0, count, _BATCH):
        texts = [prompt.text for prompt in prompts[start : start + _BATCH]]
        batches.append(
            paint_prompts(painter, vocabulary, vae, scaling_factor, texts, steps=steps, guidance=guidance, seed=start)
        )
    pictures = np.concatenate(batches)
    if grid is not None:
        save_grid(pictures, 10, grid)
    return Probes.load().score([prompt.asked for prompt in prompts], [Image.fromarray(picture) for picture in pictures])


def _load(module: nn.Module, path: Path) -> None:
    module.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    module.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, evaluate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the diffusers folder that training wrote")
    parser.add_argument("--count", type=int, default=100, help="how many held-out prompts")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--grid", type=Path, help="PNG for the pictures, ten a row")
    options = parser.parse_args(arguments)
    shares = evaluate(
        options.model, count=options.count, steps=options.steps, guidance=options.guidance, grid=options.grid
    )
    for name, share in shares.items():
        print(f"{name:10} {share:7.2%}")


if __name__ == "__main__":
    main()
