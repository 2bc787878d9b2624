"""U-Nets of Stable Diffusion's siblings against diffusers, on the same seeded weights."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel

from pocket_models import UNet, UNetConfig
from pocket_models.timestep import GuidanceEmbedding

# Two float32 implementations of the same sums differ only in their order of addition.
RELATIVE = 1e-5
WIDTH = 48  # of the context; unlike any level's

SD1 = UNetConfig(
    block_out_channels=(32, 64, 64),
    layers_per_block=1,
    attention_levels=(True, True, False),
    attention_heads=(4, 4, 4),
    cross_attention_dim=WIDTH,
    norm_num_groups=16,
)
TINY = replace(SD1, block_out_channels=(32, 64), attention_levels=(True, True), attention_heads=(4, 4), mid_block=False)
VARIANTS: dict[str, tuple[UNetConfig, int]] = {
    # With the channels of what is shown beside the latents.
    "latent consistency": (replace(SD1, time_cond_proj_dim=16), 0),
    "inpainting": (replace(SD1, in_channels=9), 5),
    "instruct-pix2pix": (replace(SD1, in_channels=8), 4),
    "latent consistency for inpainting": (replace(SD1, in_channels=9, time_cond_proj_dim=16), 5),
    "SD 2": (replace(SD1, attention_heads=(2, 4, 4), use_linear_projection=True), 0),
    "BK-SDM-Base, Segmind's small-sd": (SD1, 0),
    "BK-SDM-Small": (replace(SD1, mid_block=False), 0),
    "BK-SDM-Tiny, Segmind's tiny-sd": (TINY, 0),
    "SDXS-512-DreamShaper": (replace(TINY, attention_levels=(False, True)), 0),
    "attention to the context alone beside a middle": (replace(SD1, only_cross_attention=(False, True, True)), 0),
    "SDXS-512-0.9": (replace(TINY, only_cross_attention=(True, False), use_linear_projection=True), 0),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_unet_equals_diffusers(variant: str) -> None:
    config, beside = VARIANTS[variant]
    torch.manual_seed(3)
    theirs = UNet2DConditionModel.from_config(config.to_diffusers()).eval()
    ours = UNet(config).eval()
    ours.load_state_dict(theirs.state_dict())
    latents, shown, context = torch.randn(2, 4, 9, 13), torch.randn(2, beside, 9, 13), torch.randn(2, 77, WIDTH)
    guidance = torch.tensor([8.5, 1.0])
    more, condition = [], None
    if config.time_cond_proj_dim is not None:
        more, condition = [guidance], published_embedding(guidance, config.time_cond_proj_dim)
    if beside:
        # As it is given: a mask and latents, or latents.
        more += [*shown.split([1, 4], dim=1)] if beside == 5 else [shown]
    with torch.no_grad():
        found = ours(latents, torch.full((2,), 541), context, *more)
        wanted = theirs(torch.cat([latents, shown], 1), 541, context, timestep_cond=condition).sample
    assert (found - wanted).norm() / wanted.norm() < RELATIVE


def published_embedding(guidance: torch.Tensor, channels: int) -> torch.Tensor:
    nobody = cast("LatentConsistencyModelPipeline", SimpleNamespace())
    return cast("Any", LatentConsistencyModelPipeline.get_guidance_scale_embedding)(nobody, guidance - 1, channels)


def test_guidance_is_embedded_as_diffusers_does() -> None:
    """At the published width, where the fastest angle turns a thousand times."""
    scales = torch.tensor([1.0, 1.5, 7.5, 8.5, 14.0])
    torch.testing.assert_close(GuidanceEmbedding(256)(scales), published_embedding(scales, 256), rtol=0, atol=1e-6)


def test_guidance_changes_the_prediction() -> None:
    torch.manual_seed(4)
    network = UNet(VARIANTS["latent consistency"][0]).eval()
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([541]), torch.randn(1, 7, WIDTH)
    with torch.no_grad():
        weak, strong = (network(*inputs, torch.tensor([scale])) for scale in (2.0, 8.0))
    assert (weak - strong).abs().max() > 1e-3


def test_a_guided_model_has_a_weight_more() -> None:
    """As diffusers publishes it."""
    names = set(UNet(VARIANTS["latent consistency"][0]).state_dict()) - set(UNet(SD1).state_dict())
    assert names == {"time_embedding.cond_proj.weight"}
