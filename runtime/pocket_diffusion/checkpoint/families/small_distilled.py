"""Small models that were distilled block by block: BK-SDM (Kim et al. 2023), Segmind's small-sd and tiny-sd."""

from pocket_diffusion.checkpoint.families.family import USUAL_DRAWING, Family, Traits

_BASE = ((320, 640, 1280, 1280), 1)
"""BK-SDM-Base has all levels and the blocks in the middle, but one layer a level."""


def _recognise(traits: Traits) -> str | None:
    unet = traits.unet
    if not unet.mid_block:
        return "by its U-Net, which has no blocks in the middle"
    if (unet.block_out_channels, unet.layers_per_block) == _BASE:
        return "by its U-Net, which has one layer a level"
    return None


SMALL_DISTILLED = Family(
    name="small-distilled",
    label="small distilled Stable Diffusion",
    summary="it has fewer layers, and is drawn as usual",
    recognise=_recognise,
    drawing=USUAL_DRAWING,
)
