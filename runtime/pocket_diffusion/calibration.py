"""What passes through a bundle's networks while it draws, and what other networks make of that."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket_diffusion.bundle import Bundle, Component, Defaults, FileRecord, Manifest, sha256_of
from pocket_diffusion.drawing.images import to_pictures
from pocket_diffusion.machine.session import GraphSession
from pocket_diffusion.model.budget import AUTO, MemoryBudget
from pocket_diffusion.model.components import Arrays, Components, Network, OpenNetwork
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.text import one_line

PROMPTS = (
    "a lake under snowy mountains at sunset",
    "portrait photo of an old fisherman with a grey beard, detailed, soft light",
    "a bowl of lemons on a wooden table, oil painting",
)
"""What is drawn: pictures of different kinds, with a seed each."""
STEPS = 8
"""Of each picture, over the whole range of timesteps."""
_SHOWN = 200
"""Characters of a prompt."""
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

    bundle: Bundle
    prompts: Sequence[str]
    steps: int
    guidance_scale: float | None = None
    """None is the bundle's own."""
    memory: str = AUTO
    """The mode in which it was drawn, or a limit."""
    evaluations: dict[str, list[Evaluation]] = field(default_factory=dict)
    """By role."""
    pictures: list[Image.Image] = field(default_factory=list)

    @property
    def what(self) -> str:
        """What was drawn, in one line; prompts that were given are named."""
        width, height = picture_size(self.bundle.manifest.defaults)
        several = f"{len(self.prompts)} pictures" if len(self.prompts) > 1 else "a picture"
        given = [] if set(self.prompts) <= set(PROMPTS) else [repr(one_line(each, _SHOWN)) for each in self.prompts]
        return ", ".join([f"{several} of {width}x{height}", f"{self.steps} steps each", *given])

    def errors(self, role: str, component: Component, evaluations: Sequence[Evaluation]) -> list[float]:
        """Return how far the outputs of a component of the same folder are from each evaluation's, relative to it."""
        return errors_of(self.bundle.root, role, component, evaluations)

    def psnr(self, role: str, component: Component) -> float | None:
        """Return how alike pictures are whose network of that role is another, in dB; None where it draws none."""
        if role == "vae_encoder":
            return None
        if role == "vae_decoder":
            session = GraphSession(self.bundle.root, role, component, "cpu")
            outputs = [session.run(**one.inputs)["picture"] for one in self.evaluations[role]]
            return _psnr_of_all(self.pictures, [to_pictures(output)[0] for output in outputs])
        path = self.bundle.path(component.graph)
        files = self.bundle.manifest.files | {
            component.graph: FileRecord(size=path.stat().st_size, sha256=sha256_of(path))
        }
        manifest = msgspec.structs.replace(self.bundle.manifest, files=files, **{role: component})
        bundle = Bundle(self.bundle.root, manifest)
        again = calibrate(bundle, self.prompts, self.steps, guidance_scale=self.guidance_scale, memory=self.memory)
        return _psnr_of_all(self.pictures, again.pictures)


def errors_of(folder: Path, role: str, component: Component, evaluations: Sequence[Evaluation]) -> list[float]:
    """Return how far the outputs of a component in a folder are from each evaluation's, relative to it."""
    session = GraphSession(folder, role, component, "cpu")
    return [_error(role, session.run(**one.inputs), one.outputs) for one in evaluations]


def calibrate(
    bundle: Bundle,
    prompts: Sequence[str] = PROMPTS,
    steps: int = STEPS,
    *,
    guidance_scale: float | None = None,
    memory: str = AUTO,
    encode: bool = False,
    open_network: OpenNetwork | None = None,
) -> Calibration:
    """Draw with a bundle's defaults, but for what is given; and encode the pictures again where that is asked for.

    `open_network` loads a network in place of the bundle's own.
    """
    calibration = Calibration(bundle, prompts, steps, guidance_scale, memory)

    def watched(role: str) -> Network:
        return _Watched((open_network or components.open_session)(role), calibration.evaluations.setdefault(role, []))

    budget = MemoryBudget.parse(memory)
    components = Components(bundle, provider="cpu", threads=None, budget=budget, open_network=watched)
    width, height = picture_size(bundle.manifest.defaults)
    image, mask = _picture_and_mask(bundle.manifest, width, height)
    with Pipeline(components) as pipeline:
        for seed, prompt in enumerate(prompts):
            drawn = pipeline.generate(
                prompt,
                seed=seed,
                steps=steps,
                guidance_scale=guidance_scale,
                width=width,
                height=height,
                image=image,
                mask=mask,
            )
            calibration.pictures += drawn.images
            if encode:
                pipeline.encode_image(calibration.evaluations["vae_decoder"][-1].outputs["picture"].clip(-1, 1))
    return calibration


def _picture_and_mask(manifest: Manifest, width: int, height: int) -> tuple[Image.Image | None, Image.Image | None]:
    """Return what a U-Net is to be shown, each where it is: a smooth picture, and a mask that repaints its left."""
    if not manifest.sees_pictures:
        return None, None
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / width, 255 * y / height, 128 + 100 * np.sin(x / 9) * np.cos(y / 7)]
    picture = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
    mask = Image.fromarray(np.where(x < width // 2, 255, 0).astype(np.uint8))
    return picture, mask if manifest.repaints else None


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

    def run(self, *more: str, **inputs: NDArray[Any]) -> Arrays:
        """See `Network`."""
        outputs = self.network.run(*more, **inputs)
        self.notes.append(Evaluation(inputs, outputs))
        return outputs

    def close(self) -> None:
        """See `Network`."""
        self.network.close()


def _error(role: str, found: Arrays, exact: Arrays) -> float:
    """Return how far an output is from the exact one, relative to it. Of an encoder, the mean counts."""
    (name,) = exact
    ours, theirs = found[name], exact[name]
    if role == "vae_encoder":
        ours, theirs = (np.split(moments, 2, axis=1)[0] for moments in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def _psnr_of_all(pictures: list[Image.Image], others: list[Image.Image]) -> float:
    """Return how alike pictures are to others, in dB, as a median; at most 99."""
    return float(np.median([_psnr(a, b) for a, b in zip(pictures, others, strict=True)]))


def _psnr(picture: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(picture, np.float64) - np.asarray(other, np.float64)
    return min(10 * math.log10(255**2 / max(float(np.mean(difference**2)), 1e-12)), 99.0)
