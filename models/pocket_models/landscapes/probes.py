"""Probes: a small classifier that reads a picture's attributes, to measure whether a prompt was followed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pocket_models.landscapes.painting import SIZE
from pocket_models.landscapes.pictures import to_tensor
from pocket_models.landscapes.scenes import ATTRIBUTES

_WEIGHTS = Path(__file__).with_name("probes.safetensors")
_BATCH = 64

Reading = dict[str, str | None]
"""What a picture shows: a value for every attribute of ``scenes.ATTRIBUTES``, None for no thing, no moon and so on."""


class ProbeNet(nn.Module):
    """Five convolutions on the picture at half size, then one head an attribute."""

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__()
        widths = (3, 24, 40, 64, 64, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2 if 0 < i < 3 else 1, padding=1)
            for i, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[1:])
        self.hidden = nn.Linear(64 * (4 + 16), 128)
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(values)) for name, values in ATTRIBUTES.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Map pictures [batch, 3, 128, 128], -1..1, to logits [batch, values] by attribute."""
        x = functional.avg_pool2d(pictures, 2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.silu(norm(convolution(x)))
        # Means of the quarters say how it looks; maxima of eight columns above and below say what is where, how often.
        quarters = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        strips = functional.adaptive_max_pool2d(x, (2, 8)).flatten(1)
        features = functional.silu(self.hidden(torch.cat([quarters, strips], dim=1)))
        return {name: head(features) for name, head in self.heads.items()}


class Probes:
    """A trained classifier; ``Probes.load()`` gives the one that judges the shipped model."""

    def __init__(self, net: ProbeNet) -> None:
        """Use ``net`` as it is."""
        self._net = net.eval()

    @classmethod
    def load(cls, path: Path = _WEIGHTS) -> Probes:
        """Read weights; raises FileNotFoundError when ``path`` is not there."""
        net = ProbeNet()
        net.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})
        return cls(net)

    @torch.no_grad()
    def read(self, images: Sequence[Image.Image]) -> list[Reading]:
        """Say what each image shows; images of another size than 128x128 are resized."""
        readings: list[Reading] = []
        for start in range(0, len(images), _BATCH):
            batch = [image.convert("RGB").resize((SIZE, SIZE)) for image in images[start : start + _BATCH]]
            logits = self._net(to_tensor(np.stack([np.asarray(image) for image in batch])))
            chosen = {name: values.argmax(dim=1).tolist() for name, values in logits.items()}
            readings += [{name: ATTRIBUTES[name][chosen[name][i]] for name in ATTRIBUTES} for i in range(len(batch))]
        return readings

    def score(self, asked: Sequence[Mapping[str, str]], images: Sequence[Image.Image]) -> dict[str, float]:
        """Return, by attribute, the share of images that show what was asked of them, and ``overall``.

        ``asked`` holds, per image, only the attributes its prompt names; ``overall`` counts every one of those
        alike. Attributes never asked for are left out. Raises ValueError when the lengths differ.
        """
        found: dict[str, list[bool]] = {}
        for wanted, seen in zip(asked, self.read(images), strict=True):
            for name, value in wanted.items():
                found.setdefault(name, []).append(seen[name] == value)
        shares = {name: sum(hits) / len(hits) for name, hits in found.items()}
        every = [hit for hits in found.values() for hit in hits]
        return shares | {"overall": sum(every) / len(every) if every else 0.0}
