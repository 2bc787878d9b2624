"""Latent consistency models (Luo et al. 2023): the U-Net is told the guidance scale, and a few steps suffice."""

from pocket_diffusion.checkpoint.families.family import Family, Traits


def _recognise(traits: Traits) -> str | None:
    return "by its U-Net's input for the guidance scale" if traits.unet.time_cond_proj_dim is not None else None


LATENT_CONSISTENCY = Family(
    name="latent-consistency",
    label="latent consistency model",
    summary="it draws in 4 steps, and guidance costs nothing",
    recognise=_recognise,
    drawing={"steps": 4, "guidance_scale": 8.5, "sampler": "lcm"},
    distilled=True,
)
