"""Stable Diffusion 1.x, and what was fine-tuned and merged of it."""

from pocket_diffusion.checkpoint.families.family import USUAL_DRAWING, Family

STABLE_DIFFUSION_1 = Family(
    name="stable-diffusion-1",
    label="Stable Diffusion 1.x",
    summary="it draws what a prompt says",
    recognise=lambda _traits: "by its text encoder",
    drawing=USUAL_DRAWING,
)
