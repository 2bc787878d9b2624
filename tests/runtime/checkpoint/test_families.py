"""Which family a model belongs to, and how it is drawn that does not say it."""

from typing import Any

import msgspec
import pytest

from pocket_diffusion.bundle import Defaults, NoiseSchedule
from pocket_diffusion.checkpoint.architecture import TextEncoderSpec, UNetSpec
from pocket_diffusion.checkpoint.families import FAMILIES, find_family
from pocket_diffusion.checkpoint.families.family import Traits
from pocket_diffusion.drawing.defaults import with_our_names

CLIP = TextEncoderSpec(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
)
OPEN_CLIP = msgspec.structs.replace(CLIP, hidden_size=1024, num_hidden_layers=23, hidden_act="gelu")
UNET = UNetSpec(
    in_channels=4,
    out_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    attention_levels=(True, True, True, False),
    attention_heads=(8, 8, 8, 8),
    cross_attention_dim=768,
    use_linear_projection=False,
)
THREE_LEVELS = {"block_out_channels": (320, 640, 1280), "attention_heads": (5, 10, 20), "layers_per_block": 1}
TRAILING = NoiseSchedule(timestep_spacing="trailing")
VELOCITY = NoiseSchedule(prediction_type="v_prediction")
EULER = "EulerDiscreteScheduler"

USUAL = {"steps": 15, "sampler": "dpmpp_2m", "scheduler": "trailing", "guidance_scale": 7.5}
ONE_STEP = {"steps": 1, "sampler": "euler", "scheduler": "trailing", "guidance_scale": 1.0}
LCM = {"steps": 4, "sampler": "lcm", "scheduler": None}


def traits(
    *, name: str = "model", open_clip: bool = False, schedule: NoiseSchedule | None = None, **more: object
) -> Traits:
    """Stable Diffusion 1.5's, or 2.1's; `scheduler` and the fields of the U-Net may differ."""
    scheduler = more.pop("scheduler", None)
    return Traits(
        names=(name, ""),
        text_encoder=OPEN_CLIP if open_clip else CLIP,
        unet=msgspec.structs.replace(UNET, **more),
        schedule=schedule or NoiseSchedule(),
        scheduler=None if scheduler is None else str(scheduler),
    )


MODELS: dict[str, tuple[Traits, str, dict[str, Any]]] = {
    "SD 1.5": (traits(), "stable-diffusion-1", USUAL),
    "SD 1.5 from diffusers": (traits(scheduler="PNDMScheduler"), "stable-diffusion-1", USUAL),
    "velocity of SD 1.x": (traits(schedule=VELOCITY), "stable-diffusion-1", USUAL),
    "a name that says turbo": (traits(name="dreamy-turbo.safetensors"), "stable-diffusion-1", USUAL),
    "SD 2.1": (traits(open_clip=True, schedule=VELOCITY), "stable-diffusion-2-v", USUAL),
    "SD 2.1 base": (traits(open_clip=True), "stable-diffusion-2", USUAL),
    "SD-Turbo": (traits(open_clip=True, schedule=TRAILING, scheduler=EULER), "turbo", ONE_STEP),
    "SD-Turbo's file": (traits(open_clip=True, name="SD_Turbo.safetensors"), "turbo", ONE_STEP),
    "a longer word": (traits(open_clip=True, name="turbocharged.safetensors"), "stable-diffusion-2", USUAL),
    "velocity, called turbo": (
        traits(open_clip=True, name="turbo", schedule=VELOCITY),
        "stable-diffusion-2-v",
        USUAL,
    ),
    "Euler of SD 1.x": (traits(schedule=TRAILING, scheduler=EULER), "stable-diffusion-1", USUAL),
    "Euler as SD 2 has it": (traits(open_clip=True, scheduler=EULER), "stable-diffusion-2", USUAL),
    "LCM": (
        traits(time_cond_proj_dim=256, scheduler="LCMScheduler"),
        "latent-consistency",
        LCM | {"guidance_scale": 8.5},
    ),
    "LCM that repaints": (
        traits(time_cond_proj_dim=256, in_channels=9),
        "latent-consistency",
        LCM | {"guidance_scale": 8.5},
    ),
    "merged LCM-LoRA": (traits(scheduler="LCMScheduler"), "stable-diffusion-1", LCM | {"guidance_scale": 1.0}),
    "merged Hyper-SD": (
        traits(scheduler="TCDScheduler"),
        "stable-diffusion-1",
        {"steps": 4, "sampler": "tcd", "scheduler": None, "guidance_scale": 1.0},
    ),
    "inpainting": (traits(in_channels=9), "inpainting", USUAL),
    "inpainting of SD 2": (traits(in_channels=9, open_clip=True), "inpainting", USUAL),
    "inpainting with LCM-LoRA": (
        traits(in_channels=9, scheduler="LCMScheduler"),
        "inpainting",
        LCM | {"guidance_scale": 1.0},
    ),
    "InstructPix2Pix": (traits(in_channels=8), "instruct-pix2pix", USUAL | {"image_guidance_scale": 1.5}),
    "BK-SDM-Base": (traits(layers_per_block=1), "small-distilled", USUAL),
    "BK-SDM-Small": (traits(layers_per_block=1, mid_block=False), "small-distilled", USUAL),
    "BK-SDM-Tiny": (
        traits(**THREE_LEVELS, attention_levels=(True, True, True), mid_block=False),
        "small-distilled",
        USUAL,
    ),
    "SDXS-512-DreamShaper": (
        traits(**THREE_LEVELS, attention_levels=(False, True, True), mid_block=False, scheduler="LCMScheduler"),
        "sdxs",
        ONE_STEP,
    ),
    "SDXS-512-0.9": (
        traits(
            **THREE_LEVELS,
            attention_levels=(True, True, True),
            only_cross_attention=(True, False, False),
            mid_block=False,
            open_clip=True,
        ),
        "sdxs",
        ONE_STEP,
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_drawn_as_its_family_is(model: str) -> None:
    given, family, drawing = MODELS[model]
    found = find_family(given)
    defaults = with_our_names(msgspec.convert({"width": 512, "height": 512, **found.drawing}, Defaults))
    assert found.family.name == family
    assert {key: getattr(defaults, key) for key in drawing} == drawing
    assert bool(found.notes) == (family != "stable-diffusion-1" or drawing != USUAL)


def test_every_family_is_among_these_models() -> None:
    assert {family.name for family in FAMILIES} == {family for _, family, _ in MODELS.values()}


def test_sizes_that_files_were_trained_at() -> None:
    assert find_family(MODELS["SD 2.1"][0]).family.side == 96
    assert find_family(MODELS["SD 2.1 base"][0]).family.side == 64
