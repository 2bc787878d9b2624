"""What the guided model makes of noise, step by step: the examples that a model of few steps learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pocket_models.landscapes import schedule
from pocket_models.landscapes.captions import caption
from pocket_models.landscapes.diffusing import Painter
from pocket_models.landscapes.files import written_whole
from pocket_models.landscapes.pictures import scene_of
from pocket_models.landscapes.vocabulary import Vocabulary

TIMESTEPS = (999, 919, 839, 759, 672, 586, 499, 419, 339, 259, 173, 86)
"""Where the teacher evaluates: at all timesteps that the sampler `lcm` visits in four steps, and at two after each."""
_RESTARTS = (759, 499, 259)
"""Where it starts again from its own clean latents, because `lcm` puts fresh noise on what it has drawn."""
_GUIDANCE = 7.0
_BROKEN_OFF = 0.2
"""Share of captions of which only the first words are there, as while somebody is typing."""
_TOGETHER = 64


@dataclass(frozen=True)
class Trajectories:
    """Points that the teacher passed, each with the end of its trajectory."""

    points: NDArray[np.float16]
    """`[examples, 4, 16, 16]`: noisy latents of variance 1, as the U-Net takes them."""
    timesteps: NDArray[np.int64]
    """`[examples]`."""
    ends: NDArray[np.float16]
    """`[examples, 4, 16, 16]`: clean latents."""
    captions: NDArray[np.int64]
    """`[examples]`: the row of each in `contexts`."""
    contexts: NDArray[np.float16]
    """`[captions, 77, width]`: the text encoder's output."""


def walk_trajectories(folder: Path, painter: Painter, vocabulary: Vocabulary, count: int) -> Trajectories:
    """Let the model draw ``count`` captions; those that an earlier run drew are read from ``folder``, 64 to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in tqdm(range(0, count, _TOGETHER), "walking", unit="batch"):
        numbers = range(start, min(start + _TOGETHER, count))
        path = folder / f"{numbers.start}-{numbers.stop}.npz"
        if not path.exists():
            walked = _walk(painter, vocabulary, numbers)
            with written_whole(path) as unfinished:
                np.savez(unfinished, **{field.name: getattr(walked, field.name) for field in fields(walked)})
        with np.load(path) as stored:
            parts.append(Trajectories(**stored))
    return _joined(parts)


def _joined(parts: Sequence[Trajectories]) -> Trajectories:
    arrays = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Trajectories)
    }
    rows = np.cumsum([0, *(len(part.contexts) for part in parts)])
    arrays["captions"] = np.concatenate([part.captions + row for part, row in zip(parts, rows, strict=False)])
    return Trajectories(**arrays)


@torch.no_grad()
def _walk(painter: Painter, vocabulary: Vocabulary, numbers: range) -> Trajectories:
    """Walk from noise to clean latents under each caption, and under half of the captions a part of the way again."""
    generator = np.random.default_rng([numbers.start, 4])
    torch.manual_seed(int(generator.integers(2**62)))
    device = next(painter.parameters()).device
    texts = [_caption(number, generator) for number in numbers]
    told, untold = (
        painter.text_encoder(torch.from_numpy(vocabulary.encode(words)).to(device)) for words in (texts, [""])
    )
    examples: list[tuple[Tensor, int, Tensor, NDArray[np.int64]]] = []

    def walk(start: Tensor, timesteps: Sequence[int], rows: NDArray[np.int64]) -> Tensor:
        contexts = torch.cat([untold.expand(len(rows), -1, -1), told[rows]])
        points, end = schedule.walk(lambda x, t: _guided(painter, x, t, contexts), start, timesteps)
        examples.extend((point, timestep, end, rows) for point, timestep in zip(points, timesteps, strict=True))
        return end

    everyone = np.arange(len(texts))
    ends = walk(torch.randn((len(texts), 4, 16, 16)).to(device), TIMESTEPS, everyone)
    for number, restart in enumerate(_RESTARTS):
        rows = everyone[number :: 2 * len(_RESTARTS)]
        noise = torch.randn((len(rows), 4, 16, 16)).to(device)
        noised = schedule.add_noise(ends[rows], noise, torch.full((len(rows),), restart, device=device))
        walk(noised, TIMESTEPS[TIMESTEPS.index(restart) :], rows)
    points, timesteps, arrivals, rows_of = zip(*examples, strict=True)
    return Trajectories(
        points=_stored(torch.cat(points)),
        timesteps=np.repeat(timesteps, [len(rows) for rows in rows_of]),
        ends=_stored(torch.cat(arrivals)),
        captions=np.concatenate(rows_of),
        contexts=_stored(told),
    )


def _guided(painter: Painter, latents: Tensor, timestep: int, contexts: Tensor) -> Tensor:
    """Predict the noise in latents [batch, 4, h, w]; of contexts [2 · batch, 77, width], those without words first."""
    timesteps = torch.full((len(contexts),), timestep, device=latents.device)
    with torch.autocast(latents.device.type, torch.bfloat16):
        without, told = painter.unet(torch.cat([latents, latents]), timesteps, contexts).float().chunk(2)
    guided: Tensor = without + _GUIDANCE * (told - without)
    return guided


def _caption(number: int, generator: np.random.Generator) -> str:
    text = caption(scene_of(number), generator).text
    if generator.random() >= _BROKEN_OFF:
        return text
    words = text.split()
    return " ".join(words[: generator.integers(len(words))])


def _stored(tensor: Tensor) -> NDArray[np.float16]:
    return tensor.cpu().numpy().astype(np.float16)
