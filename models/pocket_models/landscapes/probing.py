"""Train the probes: ``python -m pocket_models.landscapes.probing OUTPUT``. Run it again to go on.

They learn from painted scenes of every sensible combination, held-out ones too, softened and disturbed as a VAE
or a JPEG file might, and are then tried on scenes they have not seen.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from pocket_models.landscapes.files import written_whole
from pocket_models.landscapes.painting import paint
from pocket_models.landscapes.pictures import to_tensor
from pocket_models.landscapes.probes import ProbeNet, Probes
from pocket_models.landscapes.scenes import ATTRIBUTES, Scene, draw_scene
from pocket_models.landscapes.stage import Budget, Stage

_FIRST_TRIAL_SEED = 10**9


def painted_scene(seed: int) -> tuple[Scene, Image.Image]:
    """Paint any sensible scene, held out or not."""
    scene = draw_scene(np.random.default_rng([seed, 3]))
    return scene, paint(scene, seed)


def disturbed(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Blur a picture, shift its colours, add noise and compress it, each a little and not always."""
    if generator.random() < 0.7:
        picture = picture.filter(ImageFilter.GaussianBlur(float(generator.uniform(0.3, 1.5))))
    if generator.random() < 0.3:
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=int(generator.integers(30, 90)))
        picture = Image.open(packed)
    pixels = np.asarray(picture) * generator.uniform(0.92, 1.08, 3) + generator.uniform(-8, 8, 3)
    pixels += generator.normal(0, generator.uniform(0, 8), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def train_probes(folder: Path, *, batch: int, budget: Budget) -> Probes:
    """Train the probes (or go on, or just load) and return them as they are stored."""
    folder.mkdir(parents=True, exist_ok=True)
    stage = Stage("probes", folder, ProbeNet(), budget=budget, peak_rate=3e-3)

    def loss(net: ProbeNet, seed: list[int], progress: float) -> Tensor:
        generator = np.random.default_rng(seed)
        chosen = [painted_scene(seed) for seed in generator.integers(_FIRST_TRIAL_SEED, size=batch).tolist()]
        images = to_tensor(np.stack([np.asarray(disturbed(picture, generator)) for _, picture in chosen]))
        total = torch.zeros(())
        for name, logits in net(images).items():
            values = [ATTRIBUTES[name].index(getattr(scene, name)) for scene, _ in chosen]
            total = total + functional.cross_entropy(logits, torch.tensor(values))
        return total

    stage.train(loss, show=lambda: None)
    tensors = {key: tensor.half() for key, tensor in stage.average.state_dict().items()}
    with written_whole(folder / "probes.safetensors") as path:
        save_file(tensors, path)
    return Probes.load(folder / "probes.safetensors")


def accuracy(probes: Probes, count: int, *, disturb: bool) -> dict[str, float]:
    """Return the share of painted scenes read rightly, by attribute, on scenes that no training saw."""
    painted = [painted_scene(_FIRST_TRIAL_SEED + index) for index in range(count)]
    generator = np.random.default_rng(0)
    images = [disturbed(picture, generator) if disturb else picture for _, picture in painted]
    readings = probes.read(images)
    return {
        name: sum(reading[name] == getattr(scene, name) for reading, (scene, _) in zip(readings, painted, strict=True))
        / count
        for name in ATTRIBUTES
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, print the accuracy table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for checkpoint, curve and probes.safetensors")
    parser.add_argument("--minutes", type=float, default=6, help="training time")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread that share a step")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    probes = train_probes(options.output, batch=32, budget=Budget(options.minutes, options.workers))
    plain, soft = (accuracy(probes, 1000, disturb=disturb) for disturb in (False, True))
    for name in ATTRIBUTES:
        print(f"{name:10} {plain[name]:7.2%} painted, {soft[name]:7.2%} disturbed")


if __name__ == "__main__":
    main()
