"""SDXS (Song et al. 2024): a small U-Net, distilled to one step."""

from pocket_diffusion.checkpoint.families.family import ONE_STEP, Family, Traits


def _recognise(traits: Traits) -> str | None:
    """SDXS-512-DreamShaper has no attention at the finest level, SDXS-512-0.9 none to the picture itself."""
    unet = traits.unet
    if unet.mid_block or (unet.attention_levels[0] and not any(unet.only_cross_attention[:1])):
        return None
    return "by its U-Net, which has no self-attention at the finest level and no blocks in the middle"


SDXS = Family(
    name="sdxs",
    label="SDXS",
    summary="it draws in one step, without guidance",
    recognise=_recognise,
    drawing=ONE_STEP,
    distilled=True,
)
