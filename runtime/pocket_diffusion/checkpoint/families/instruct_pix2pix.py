"""InstructPix2Pix (Brooks et al. 2023): a prompt says what to change in a picture."""

from pocket_diffusion.checkpoint.families.family import USUAL_DRAWING, Family, Traits

CHANNELS = 8
"""The latents, and those of the picture."""


def _recognise(traits: Traits) -> str | None:
    return f"by its U-Net's {CHANNELS} channels" if traits.unet.in_channels == CHANNELS else None


INSTRUCT_PIX2PIX = Family(
    name="instruct-pix2pix",
    label="InstructPix2Pix",
    summary="it changes a picture as the prompt says",
    recognise=_recognise,
    drawing={**USUAL_DRAWING, "guidance_scale": 7.5, "image_guidance_scale": 1.5},
)
