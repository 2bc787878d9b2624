"""Train the landscape model: ``python -m pocket_models.landscapes.train OUTPUT``. Run it again to go on.

The stages, each skipped when its result is in OUTPUT: paint pictures, learn a vocabulary from captions, train the
VAE, encode the pictures, train text encoder and U-Net, train the VAE's decoder further. OUTPUT/landscapes is written,
a diffusers folder. Only with --few-steps, the model is distilled then: OUTPUT/few-steps.safetensors is a LoRA for the
sampler `lcm`. A GPU is used where PyTorch finds one.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pocket_models.config import TextEncoderConfig, UNetConfig, VAEConfig
from pocket_models.landscapes.autoencoding import train_decoder, train_vae
from pocket_models.landscapes.captions import caption
from pocket_models.landscapes.diffusing import train_painter
from pocket_models.landscapes.distilling import distil, save_lora
from pocket_models.landscapes.latents import encode_pictures
from pocket_models.landscapes.pictures import scene_of, training_pictures
from pocket_models.landscapes.saving import save_diffusers
from pocket_models.landscapes.stage import Budget
from pocket_models.landscapes.trajectories import walk_trajectories
from pocket_models.landscapes.vocabulary import Vocabulary, train_vocabulary

_VAE = VAEConfig(block_out_channels=(16, 32, 64, 96), layers_per_block=1, norm_num_groups=8)
_UNET = UNetConfig(
    block_out_channels=(64, 128, 160),
    layers_per_block=1,
    attention_levels=(False, True, True),
    attention_heads=(4, 4, 4),
    cross_attention_dim=128,
    norm_num_groups=16,
)
_MINUTES = 81.0
_VAE_BUDGET = Budget(minutes=30, workers=2)
_UNET_BUDGET = Budget(minutes=42, workers=2)
_DECODER_BUDGET = Budget(minutes=9, workers=2)
_DISTILLING_BUDGET = Budget(minutes=20, workers=2)


@dataclass(frozen=True)
class FewSteps:
    """The stage that distils the model into a LoRA of a ``rank``, from so many ``drawings`` of the finished model."""

    drawings: int = 4_000
    rank: int = 16
    budget: Budget = _DISTILLING_BUDGET


@dataclass(frozen=True)
class Recipe:
    """How big the networks are, what they are shown, and for how long; the defaults made the shipped model.

    ``batch`` is one worker's share of a step, in noised latents; the VAE sees half as many 64x64 crops, its decoder
    alone an eighth as many whole pictures, and the few-step model half as many latents.
    """

    vae: VAEConfig = _VAE
    unet: UNetConfig = _UNET
    text_layers: int = 3
    pictures: int = 24_000
    batch: int = 32
    vae_budget: Budget = _VAE_BUDGET
    unet_budget: Budget = _UNET_BUDGET
    decoder_budget: Budget = _DECODER_BUDGET
    few_steps: FewSteps | None = None

    def text_encoder(self, vocabulary: Vocabulary) -> TextEncoderConfig:
        """Return the text encoder's shape: as wide as the U-Net's context, as many entries as the vocabulary."""
        width = self.unet.cross_attention_dim
        return TextEncoderConfig(
            vocab_size=vocabulary.size,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=self.text_layers,
            num_attention_heads=4,
        )


def train(output: Path, recipe: Recipe) -> Path:
    """Run every stage that is not done yet and return the diffusers folder."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    output.mkdir(parents=True, exist_ok=True)
    pictures = training_pictures(output / "pictures.npy", recipe.pictures)
    tokenizer = output / "tokenizer"
    if not tokenizer.exists():
        train_vocabulary((caption(scene_of(i), np.random.default_rng(i)).text for i in range(20_000)), tokenizer)
    vocabulary = Vocabulary(tokenizer)
    encoded = output / "latents.npz"
    vae = train_vae(
        output,
        recipe.vae,
        pictures,
        budget=recipe.vae_budget,
        batch=max(1, recipe.batch // 2),
        device=device,
        finished=encoded.exists(),
    )
    examples = encode_pictures(encoded, vae, pictures, device)
    painter = train_painter(
        output,
        (recipe.text_encoder(vocabulary), recipe.unet),
        examples,
        vocabulary,
        vae,
        budget=recipe.unet_budget,
        batch=recipe.batch,
        device=device,
    )
    train_decoder(output, vae, pictures, examples, budget=recipe.decoder_budget, batch=max(1, recipe.batch // 8))
    model = output / "landscapes"
    save_diffusers(model, painter, vae, examples.scaling_factor, tokenizer)
    if recipe.few_steps is not None:
        # Of this painter alone: a longer budget makes another one of it.
        distilled = output / f"distilled-{_fingerprint(painter)}"
        changes = distil(
            distilled,
            painter,
            walk_trajectories(distilled, painter, vocabulary, recipe.few_steps.drawings),
            vocabulary,
            vae,
            examples.scaling_factor,
            rank=recipe.few_steps.rank,
            budget=recipe.few_steps.budget,
            batch=max(2, recipe.batch // 2),
        )
        save_lora(output / "few-steps.safetensors", changes)
    return model


def _fingerprint(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for everything: data, checkpoints, curves, the model")
    parser.add_argument(
        "--minutes", type=float, default=_MINUTES, help="training time of the model; --few-steps takes a quarter more"
    )
    parser.add_argument("--pictures", type=int, default=Recipe.pictures, help="how many pictures to paint")
    parser.add_argument(
        "--few-steps",
        metavar="DRAWINGS",
        nargs="?",
        type=int,
        const=FewSteps.drawings,
        help=f"also distil the model, from so many of its drawings (default: {FewSteps.drawings})",
    )
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="a worker's share of a step")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread that share a step (CPU only)")
    options = parser.parse_args(arguments)
    drawings = options.few_steps
    if options.minutes <= 0 or min(options.pictures, options.workers, 1 if drawings is None else drawings) < 1:
        parser.error("--minutes must be more than 0, --pictures, --workers and --few-steps at least 1")
    if options.batch < 2 or options.batch % 2:
        parser.error(f"--batch is {options.batch}, must be an even number: each caption is used for two")
    torch.set_num_threads(1)
    workers = 1 if torch.cuda.is_available() else options.workers
    share = options.minutes / _MINUTES
    vae, unet, decoder, distilling = (
        replace(budget, minutes=share * budget.minutes, workers=workers)
        for budget in (_VAE_BUDGET, _UNET_BUDGET, _DECODER_BUDGET, _DISTILLING_BUDGET)
    )
    recipe = Recipe(
        pictures=options.pictures,
        batch=options.batch,
        vae_budget=vae,
        unet_budget=unet,
        decoder_budget=decoder,
        few_steps=None if drawings is None else FewSteps(drawings=drawings, budget=distilling),
    )
    print(f"the model is in {train(options.output, recipe)}")


if __name__ == "__main__":
    main()
