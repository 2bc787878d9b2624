"""Which family a model belongs to, and how it is drawn when it does not say so itself.

One file a family, and this table. What a family's networks are is read from configs and shapes, not from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pocket_diffusion.checkpoint.families.family import Family, Traits
from pocket_diffusion.checkpoint.families.few_steps import FEW_STEPS
from pocket_diffusion.checkpoint.families.inpainting import INPAINTING
from pocket_diffusion.checkpoint.families.instruct_pix2pix import INSTRUCT_PIX2PIX
from pocket_diffusion.checkpoint.families.latent_consistency import LATENT_CONSISTENCY
from pocket_diffusion.checkpoint.families.sdxs import SDXS
from pocket_diffusion.checkpoint.families.small_distilled import SMALL_DISTILLED
from pocket_diffusion.checkpoint.families.stable_diffusion_1 import STABLE_DIFFUSION_1
from pocket_diffusion.checkpoint.families.stable_diffusion_2 import STABLE_DIFFUSION_2, STABLE_DIFFUSION_2_V
from pocket_diffusion.checkpoint.families.turbo import TURBO

FAMILIES = (
    LATENT_CONSISTENCY,
    INSTRUCT_PIX2PIX,
    INPAINTING,
    SDXS,
    SMALL_DISTILLED,
    TURBO,
    STABLE_DIFFUSION_2_V,
    STABLE_DIFFUSION_2,
    STABLE_DIFFUSION_1,
)
"""The first that recognises a model is its family; the last recognises all."""


@dataclass(frozen=True)
class Membership:
    """A model's family, and what follows of it."""

    family: Family
    drawing: Mapping[str, Any]
    """How the model is drawn: fields of `Defaults` but for the size."""
    notes: tuple[str, ...]
    """Why, for people; nothing of Stable Diffusion 1.x, which is the usual."""


def find_family(traits: Traits) -> Membership:
    """Return a model's family and how it is drawn."""
    family, why = next((family, why) for family in FAMILIES if (why := family.recognise(traits)) is not None)
    notes = [] if family is STABLE_DIFFUSION_1 else [f"{family.label}, {why}: {family.summary}"]
    few_steps = None if traits.scheduler is None else FEW_STEPS.get(traits.scheduler)
    if few_steps is None or family.distilled:
        return Membership(family, family.drawing, tuple(notes))
    notes.append(f"distilled to few steps, by its scheduler, {traits.scheduler}")
    return Membership(family, {**family.drawing, "scheduler": None, **few_steps}, tuple(notes))
