"""Inpainting models: the U-Net is shown a mask and the picture around it (Rombach et al. 2022, section 4.5)."""

from pocket_diffusion.checkpoint.families.family import USUAL_DRAWING, Family, Traits

CHANNELS = 9
"""The latents, the mask, and the latents of the masked picture."""


def _recognise(traits: Traits) -> str | None:
    return f"by its U-Net's {CHANNELS} channels" if traits.unet.in_channels == CHANNELS else None


INPAINTING = Family(
    name="inpainting",
    label="inpainting model",
    summary="it repaints the masked part of a picture",
    recognise=_recognise,
    drawing=USUAL_DRAWING,
)
