"""What passes through a bundle's networks while it draws."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket_diffusion.bundle import Bundle, Defaults
from pocket_diffusion.model.budget import AUTO, MemoryBudget
from pocket_diffusion.model.components import Arrays, Components, Network
from pocket_diffusion.pipeline import Pipeline

PROMPTS = (
    "a lake under snowy mountains at sunset",
    "portrait photo of an old fisherman with a grey beard, detailed, soft light",
    "a bowl of lemons on a wooden table, oil painting",
)
"""What is drawn: pictures of different kinds, with a seed each."""
STEPS = 8
"""Of each picture, over the whole range of timesteps."""
_LARGEST_SIDE = 256
"""Default pictures that are longer are drawn at half their size, for time's sake."""


@dataclass
class Evaluation:
    """What went into a network once, and what came out."""

    inputs: dict[str, NDArray[Any]]
    outputs: Arrays


@dataclass
class Calibration:
    """Pictures that a bundle draws, and each network's evaluations on the way."""

    evaluations: dict[str, list[Evaluation]] = field(default_factory=dict)
    """By role."""
    pictures: list[Image.Image] = field(default_factory=list)


def calibrate(bundle: Bundle, *, encode: bool = False) -> Calibration:
    """Draw `PROMPTS`, guided, with a bundle's defaults; and encode the pictures again where that is asked for."""
    calibration = Calibration()

    def watched(role: str) -> Network:
        return _Watched(components.open_session(role), calibration.evaluations.setdefault(role, []))

    components = Components(bundle, provider="cpu", threads=None, budget=MemoryBudget.parse(AUTO), open_network=watched)
    width, height = picture_size(bundle.manifest.defaults)
    with Pipeline(components) as pipeline:
        for seed, prompt in enumerate(PROMPTS):
            drawn = pipeline.generate(prompt, seed=seed, steps=STEPS, width=width, height=height)
            calibration.pictures += drawn.images
            if encode:
                pipeline.encode_image(calibration.evaluations["vae_decoder"][-1].outputs["picture"].clip(-1, 1))
    return calibration


def picture_size(defaults: Defaults) -> tuple[int, int]:
    """Return the width and height of what is drawn."""
    halves = 2 if max(defaults.width, defaults.height) > _LARGEST_SIDE else 1
    width, height = (max(side // halves // 64 * 64, 64) for side in (defaults.width, defaults.height))
    return width, height


@dataclass
class _Watched:
    """A network that notes what passes through it."""

    network: Network
    notes: list[Evaluation]

    def run(self, **inputs: NDArray[Any]) -> Arrays:
        """See `Network`."""
        outputs = self.network.run(**inputs)
        self.notes.append(Evaluation(inputs, outputs))
        return outputs

    def close(self) -> None:
        """See `Network`."""
        self.network.close()


def psnr(pictures: list[Image.Image], others: list[Image.Image]) -> float:
    """Return how alike pictures are to others, in dB, as a median; at most 99."""
    return float(np.median([_psnr(a, b) for a, b in zip(pictures, others, strict=True)]))


def _psnr(picture: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(picture, np.float64) - np.asarray(other, np.float64)
    return min(10 * math.log10(255**2 / max(float(np.mean(difference**2)), 1e-12)), 99.0)
