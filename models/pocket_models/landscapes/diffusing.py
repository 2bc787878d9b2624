"""Training text encoder and U-Net together to predict the noise in latents from a caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pocket_models.clip import TextEncoder
from pocket_models.config import TextEncoderConfig, UNetConfig
from pocket_models.landscapes import schedule
from pocket_models.landscapes.captions import caption
from pocket_models.landscapes.latents import LatentPictures
from pocket_models.landscapes.pictures import Pictures, scene_of, to_bytes
from pocket_models.landscapes.products import use_plain_products
from pocket_models.landscapes.stage import Budget, Stage, save_grid
from pocket_models.landscapes.vocabulary import Vocabulary
from pocket_models.unet import UNet
from pocket_models.vae import VAE

_NO_CAPTION = 0.1
"""Share of captions replaced by an empty one, for classifier-free guidance (Ho & Salimans 2022)."""
_DRAWS = 2
"""Noise draws a caption serves in one step: the text encoder costs half as much as the U-Net."""
GRID_PROMPTS = (
    "a lake under snowy mountains at sunset",
    "two red houses in a meadow with flowers at noon with a rainbow",
    "a sailboat with a yellow sail on the sea at sunrise",
    "three cacti in the desert at sunset under a clear sky",
    "a blue house on the left in a forest in winter in the early morning",
    "three yellow balloons over green hills at noon",
    "a lighthouse on an island at night under the stars",
    "a tent with a fire by a river at night under the northern lights",
    "a windmill on the right in rolling hills in autumn in the evening",
    "birds over a beach with clouds",
    "a red house far away in the mountains in the rain",
    "a blue balloon in the middle over snowy mountains under a crescent moon",
)


class Painter(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, text_config: TextEncoderConfig, unet_config: UNetConfig) -> None:
        """Build both with random weights."""
        super().__init__()
        self.text_encoder = TextEncoder(text_config)
        self.unet = UNet(unet_config)


def train_painter(
    folder: Path,
    configs: tuple[TextEncoderConfig, UNetConfig],
    examples: LatentPictures,
    vocabulary: Vocabulary,
    vae: VAE,
    *,
    budget: Budget,
    batch: int,
    device: torch.device,
) -> Painter:
    """Train (or go on training, or just load) text encoder and U-Net; return their moving average."""
    painter = Painter(*configs).to(device)
    if device.type == "cpu":
        use_plain_products(painter)
    stage = Stage("unet", folder, painter, budget=budget, peak_rate=1.2e-3)
    scenes = [scene_of(index) for index in range(len(examples.latents))]

    def loss(painter: Painter, seed: list[int], progress: float) -> Tensor:
        generator = np.random.default_rng(seed)
        torch.manual_seed(int(generator.integers(2**62)))
        chosen = generator.integers(len(scenes), size=batch // _DRAWS)
        texts = ["" if generator.random() < _NO_CAPTION else caption(scenes[index], generator).text for index in chosen]
        ids = torch.from_numpy(vocabulary.encode(texts)).to(device)
        latents = torch.from_numpy(examples.latents[chosen]).float().to(device)
        return _loss(painter, ids, latents)

    stage.train(loss, show=lambda: _show(stage.average, vocabulary, vae, examples.scaling_factor, folder))
    return stage.average


def _loss(painter: Painter, ids: Tensor, latents: Tensor) -> Tensor:
    latents = latents.repeat_interleave(_DRAWS, dim=0)
    # One timestep from each even share of the schedule: less chance in the loss than independent draws.
    count = len(latents)
    share = (torch.randperm(count, device=latents.device) + torch.rand(count, device=latents.device)) / count
    timestep = (share * schedule.TRAINING_STEPS).long().clamp(max=schedule.TRAINING_STEPS - 1)
    noise = torch.randn_like(latents)
    with torch.autocast(latents.device.type, torch.bfloat16):
        context = painter.text_encoder(ids).repeat_interleave(_DRAWS, dim=0)
        predicted = painter.unet(schedule.add_noise(latents, noise, timestep), timestep, context)
    error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
    weighted: Tensor = schedule.loss_weight(timestep) * error
    return weighted.mean()


@torch.no_grad()
def paint_prompts(
    painter: Painter,
    vocabulary: Vocabulary,
    vae: VAE,
    scaling_factor: float,
    prompts: list[str],
    *,
    steps: int = 25,
    guidance: float = 7.0,
    seed: int = 0,
) -> Pictures:
    """Paint prompts with the model as it is: uint8 [prompts, 128, 128, 3]."""
    device = next(painter.parameters()).device
    generator = torch.Generator("cpu").manual_seed(seed)
    ids = torch.from_numpy(vocabulary.encode([""] * len(prompts) + prompts)).to(device)
    context = painter.text_encoder(ids)

    def predict(latents: Tensor, timestep: int) -> Tensor:
        timesteps = torch.full((2 * len(latents),), timestep, device=device)
        without, told = painter.unet(torch.cat([latents, latents]), timesteps, context).chunk(2)
        guided: Tensor = without + guidance * (told - without)
        return guided

    noise = torch.randn((len(prompts), 4, 16, 16), generator=generator).to(device)
    latents = schedule.sample(predict, noise, steps=steps, generator=generator)
    return to_bytes(vae.decode(latents / scaling_factor))


def _show(painter: Painter, vocabulary: Vocabulary, vae: VAE, scaling_factor: float, folder: Path) -> None:
    pictures = paint_prompts(painter, vocabulary, vae, scaling_factor, list(GRID_PROMPTS))
    save_grid(pictures, 4, folder / "samples.png")
