"""Distilling the model into a LoRA, with which a few unguided steps draw what many guided steps did.

A consistency function maps each point of a trajectory to the trajectory's end (Song et al. 2023, section 3). Latent
consistency models (Luo et al. 2023) learn it from themselves, a step of a large teacher at a time. This teacher is
small enough to walk the whole way, so that its student learns the ends themselves, as Luhman & Luhman 2021 do from
pure noise. The runtime draws with the student as with any latent consistency model: sampler `lcm`, no guidance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from pocket_models.landscapes import schedule
from pocket_models.landscapes.diffusing import GRID_PROMPTS, Painter
from pocket_models.landscapes.files import written_whole
from pocket_models.landscapes.pictures import Pictures, to_bytes
from pocket_models.landscapes.stage import Budget, Stage, save_grid
from pocket_models.landscapes.trajectories import TIMESTEPS, Trajectories
from pocket_models.landscapes.vocabulary import Vocabulary
from pocket_models.vae import VAE

_FROM_NOISE = 0.4
"""Share of a batch that is pure noise: most of a picture is decided there, and the end is hardest to see."""
_SMALL_ERROR = 0.02
"""Errors pull with their square below this and alike above it: the pseudo-Huber loss of Song & Dhariwal 2023."""


class LowRank(nn.Module):
    """Changes of a network's matrices and convolutions, each of a low rank (Hu et al. 2021, equation 3).

    The network itself is no part of it, so that a stage trains and stores the changes alone.
    """

    def __init__(self, network: nn.Module, rank: int) -> None:
        """Begin with no change of any of the network's linear layers and convolutions; ``rank`` is the most."""
        super().__init__()
        layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        self._layers = list(layers)
        self.downs, self.ups = nn.ParameterList(), nn.ParameterList()
        for layer in layers.values():
            outputs, *inputs = layer.weight.shape
            fan_in = math.prod(inputs)
            width = min(rank, outputs, fan_in)
            self.downs.append(torch.randn(width, *inputs) / math.sqrt(fan_in))
            self.ups.append(torch.zeros(outputs, width, *[1] * (len(inputs) - 1)))

    def apply_to(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the network's weights, by name, with the changes in them."""
        changed = dict(weights)
        for layer, down, up in zip(self._layers, self.downs, self.ups, strict=True):
            weight = weights[f"{layer}.weight"]
            changed[f"{layer}.weight"] = weight + (up.flatten(1) @ down.flatten(1)).view_as(weight)
        return changed

    def published(self) -> dict[str, Tensor]:
        """Return the factors in float16, under the names within a network that diffusers gives LoRAs."""
        factors = {}
        for layer, down, up in zip(self._layers, self.downs, self.ups, strict=True):
            factors[f"{layer}.lora_A.weight"] = down.detach().half().cpu().contiguous()
            factors[f"{layer}.lora_B.weight"] = up.detach().half().cpu().contiguous()
        return factors


class Student(nn.Module):
    """The painter with changes of its U-Net. It sees at once what the painter's guided steps lead to."""

    def __init__(self, painter: Painter, changes: LowRank) -> None:
        """Use both as they are."""
        super().__init__()
        self.painter = painter
        self.changes = changes

    def forward(self, latents: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """Map noisy latents [batch, 4, h, w] at timesteps int64 [batch] to clean ones.

        `lcm` adds a boundary condition (Luo et al. 2023, equation 9). It counts at the first few timesteps of the
        schedule alone, and no drawing of up to ten steps visits those.
        """
        weights = self.changes.apply_to(dict(self.painter.unet.named_parameters()))
        noise = functional_call(self.painter.unet, weights, (latents, timestep, context)).float()
        alpha_bar = schedule.ALPHA_BARS.to(latents.device)[timestep].view(-1, 1, 1, 1)
        clean: Tensor = (latents - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
        return clean

    @torch.no_grad()
    def paint(
        self,
        vocabulary: Vocabulary,
        vae: VAE,
        scaling_factor: float,
        prompts: list[str],
        *,
        steps: int = 4,
        seed: int = 0,
    ) -> Pictures:
        """Paint prompts as the sampler `lcm` does (Luo et al. 2023, algorithm 3): uint8 [prompts, 128, 128, 3]."""
        device = next(self.parameters()).device
        generator = torch.Generator("cpu").manual_seed(seed)
        context = self.painter.text_encoder(torch.from_numpy(vocabulary.encode(prompts)).to(device))
        clean = torch.zeros((len(prompts), 4, 16, 16))
        for timestep in schedule.consistency_timesteps(steps):
            timesteps = torch.full((len(prompts),), timestep, device=device)
            noise = torch.randn(clean.shape, generator=generator).to(device)
            # The first latents are noise alone, not what training makes of an empty picture and noise.
            latents = noise if timestep == TIMESTEPS[0] else schedule.add_noise(clean, noise, timesteps)
            clean = self(latents, timesteps, context)
        return to_bytes(vae.decode(clean / scaling_factor))


def distil(
    folder: Path,
    painter: Painter,
    trajectories: Trajectories,
    vocabulary: Vocabulary,
    vae: VAE,
    scaling_factor: float,
    *,
    rank: int,
    budget: Budget,
    batch: int,
) -> LowRank:
    """Train (or go on training, or just load) changes of the U-Net; return their moving average."""
    device = next(painter.parameters()).device
    torch.manual_seed(0)
    stage = Stage("distilled", folder, LowRank(painter.unet, rank).to(device), budget=budget, peak_rate=1.5e-3)
    from_noise, later = (
        np.flatnonzero(which)
        for which in (trajectories.timesteps == TIMESTEPS[0], trajectories.timesteps < TIMESTEPS[0])
    )
    noise_share = round(_FROM_NOISE * batch)

    def loss(changes: LowRank, seed: list[int], progress: float) -> Tensor:
        generator = np.random.default_rng(seed)
        chosen = np.concatenate(
            [generator.choice(from_noise, noise_share), generator.choice(later, batch - noise_share)]
        )
        return _loss(Student(painter, changes), trajectories, chosen)

    def show() -> None:
        pictures = Student(painter, stage.average).paint(vocabulary, vae, scaling_factor, list(GRID_PROMPTS))
        save_grid(pictures, 4, folder / "distilled.png")

    stage.train(loss, show)
    return stage.average


def _loss(student: Student, trajectories: Trajectories, chosen: NDArray[np.int64]) -> Tensor:
    device = next(student.parameters()).device
    timestep = torch.from_numpy(trajectories.timesteps[chosen]).to(device)
    points, ends, context = (
        torch.from_numpy(values).float().to(device)
        for values in (
            trajectories.points[chosen],
            trajectories.ends[chosen],
            trajectories.contexts[trajectories.captions[chosen]],
        )
    )
    with torch.autocast(device.type, torch.bfloat16):
        error = student(points, timestep, context) - ends
    pull: Tensor = (error.square() + _SMALL_ERROR**2).sqrt()
    return pull.mean()


def save_lora(path: Path, changes: LowRank) -> None:
    """Write changes of the U-Net as a LoRA that diffusers and the runtime load."""
    factors = {f"unet.{name}": tensor for name, tensor in changes.published().items()}
    with written_whole(path) as unfinished:
        save_file(factors, unfinished, metadata={"format": "pt"})
