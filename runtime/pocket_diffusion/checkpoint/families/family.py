"""What a family of models is: how its members are recognised, and how they are drawn."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pocket_diffusion.bundle import Architecture, NoiseSchedule
from pocket_diffusion.checkpoint.architecture import TextEncoderSpec, UNetSpec

USUAL_DRAWING: Mapping[str, Any] = MappingProxyType({"steps": 15, "sampler": "dpmpp_2m", "scheduler": "trailing"})
"""How a model is drawn that was not distilled: near the solution in few steps (benchmarks/samplers.py)."""
ONE_STEP: Mapping[str, Any] = MappingProxyType(
    {"steps": 1, "guidance_scale": 1.0, "sampler": "euler", "scheduler": "trailing"}
)
"""How a model is drawn that was distilled to one step: from full noise, without guidance."""


def architecture_of(text_encoder: TextEncoderSpec) -> Architecture:
    """Tell which text encoder it is: OpenCLIP computes an exact GELU, OpenAI's CLIP an approximation."""
    return "stable-diffusion-2" if text_encoder.hidden_act == "gelu" else "stable-diffusion-1"


@dataclass(frozen=True)
class Traits:
    """All that tells which family a model belongs to."""

    names: tuple[str, ...]
    """The name of the file or folder, and the title that a file's metadata give it."""
    text_encoder: TextEncoderSpec
    unet: UNetSpec
    schedule: NoiseSchedule
    scheduler: str | None = None
    """The class of the scheduler in a diffusers folder."""

    @property
    def architecture(self) -> Architecture:
        """See `architecture_of`."""
        return architecture_of(self.text_encoder)

    def is_named(self, word: str) -> bool:
        """Tell whether a name has that word, in any letters."""
        return any(re.search(rf"(?<![a-z]){word}(?![a-z])", name.lower()) for name in self.names)


@dataclass(frozen=True)
class Family:
    """A row of `FAMILIES`."""

    name: str
    label: str
    """As people write it."""
    summary: str
    """A sentence for people who have such a model."""
    recognise: Callable[[Traits], str | None] = field(repr=False)
    """Says by what a model is known as a member; None: it is none."""
    drawing: Mapping[str, Any] = field(repr=False)
    """Fields of `Defaults` but for the size."""
    distilled: bool = False
    """Few steps are all that it was made for, whatever scheduler a folder names."""
    side: int = 64
    """The side of the latents that single files were trained at; a folder says its own."""
