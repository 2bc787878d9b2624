"""What the siblings' U-Nets are shown, and how it guides, against diffusers' pipelines with the same weights and seed.

The U-Net is diffusers' own, behind the runtime's seam for other engines, so that drawing alone is compared.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    LCMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from PIL import Image

import reference
from against_diffusers import (
    LATENTS_RELATIVE,
    NEGATIVE,
    PIXEL_LEVELS,
    PROMPT,
    make_scheduler,
    mask,
    picture,
    relative_error,
)
from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import GUIDANCE, IMAGE_LATENTS, MASK, MASKED_LATENTS, Bundle
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.components import Arrays, Components
from pocket_diffusion.result import Result
from siblings import INSTRUCTED, REPAINTING, SELF_GUIDED, with_inputs

SIZE = (72, 64)
SEEDS = (7, 8)
TRAILING = {"timestep_spacing": "trailing"}

# PyTorch's arrays are older than NumPy 2, and diffusers hands them to it.
theirs_warn = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@dataclass
class TheirUNet:
    """diffusers' U-Net as a network of ours; it notes how many samples each run has."""

    unet: UNet2DConditionModel
    runs: list[int]

    @torch.no_grad()
    def run(self, *_: str, **inputs: NDArray[np.float32]) -> Arrays:
        given = {name: torch.from_numpy(np.asarray(array, np.float32)) for name, array in inputs.items()}
        context = given["context"]
        self.runs.append(len(context))
        channels = [given[name] for name in ("latents", MASK, MASKED_LATENTS, IMAGE_LATENTS) if name in given]
        sample = torch.cat(channels, dim=1).expand(len(context), -1, -1, -1)
        embedded = None
        if GUIDANCE in given:
            embedded = StableDiffusionPipeline.get_guidance_scale_embedding(
                None, given[GUIDANCE] - 1, embedding_dim=self.unet.config.time_cond_proj_dim
            )
        return {"noise": self.unet(sample, given["timestep"], context, timestep_cond=embedded).sample.numpy()}

    def close(self) -> None:
        """Nothing is to be given back."""


def make_unet(**changes: object) -> UNet2DConditionModel:
    torch.manual_seed(1)
    return UNet2DConditionModel.from_config({**reference.UNET.to_diffusers(), "sample_size": 8, **changes}).eval()


def load(
    root: Path, unet: UNet2DConditionModel, names: tuple[str, ...], memory: str = "fast"
) -> tuple[Pipeline, list[int]]:
    """Return a pipeline of the tiny bundle with that U-Net, which takes inputs of these names, and its runs."""
    bundle = Bundle.open(root)
    bundle = Bundle(root, with_inputs(bundle.manifest, names))
    network = TheirUNet(unet, [])
    components = Components(
        bundle,
        provider="cpu",
        threads=None,
        budget=MemoryBudget.parse(memory),
        open_network=lambda role: network if role == "unet" else components.open_session(role),
    )
    return Pipeline(components), network.runs


def draw_theirs(
    kind: type,
    pipeline: StableDiffusionPipeline,
    unet: UNet2DConditionModel,
    seed: int,
    *,
    scheduler: Any = None,  # noqa: ANN401 - diffusers' schedulers have no class in common
    **options: Any,  # noqa: ANN401 - those of diffusers' pipelines
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return latents and pixels, 0 to 255."""
    components = pipeline.components | {"unet": unet} | ({} if scheduler is None else {"scheduler": scheduler})
    theirs = kind(**components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    latents = theirs(prompt=PROMPT, generator=generator, output_type="latent", **options).images
    with torch.no_grad():
        decoded = theirs.vae.decode(latents / theirs.vae.config.scaling_factor).sample
    return latents.numpy(), theirs.image_processor.postprocess(decoded, output_type="np") * 255


def check(
    ours: Result,
    index: int,
    theirs: tuple[NDArray[np.float32], NDArray[np.float32]],
    tolerance: float = LATENTS_RELATIVE,
) -> None:
    latents, pixels = theirs
    assert relative_error(ours.latents[index : index + 1], latents) < tolerance
    assert np.abs(np.asarray(ours.images[index], float) - pixels[0]).max() <= PIXEL_LEVELS


@pytest.fixture(scope="module")
def repainting() -> UNet2DConditionModel:
    return make_unet(in_channels=9)


@pytest.fixture(scope="module")
def instructed() -> UNet2DConditionModel:
    return make_unet(in_channels=8)


@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_a_model_that_repaints_is_shown_what_the_mask_leaves(
    tiny_pipeline: StableDiffusionPipeline,
    tiny_bundle_fp32: Path,
    repainting: UNet2DConditionModel,
    strength: float,
) -> None:
    options = {"negative_prompt": NEGATIVE, "guidance_scale": 5.0, "image": picture(*SIZE), "strength": strength}
    size = {"width": SIZE[0], "height": SIZE[1]}
    pipeline, _ = load(tiny_bundle_fp32, repainting, REPAINTING)
    ours = pipeline.generate(
        PROMPT, **size, **options, mask=mask(*SIZE), steps=3, sampler="ddpm", seed=SEEDS[0], count=2
    )
    for i, seed in enumerate(SEEDS):  # each with noise of its own on the masked picture
        theirs = draw_theirs(
            StableDiffusionInpaintPipeline,
            tiny_pipeline,
            repainting,
            seed,
            **size,
            **options,
            mask_image=mask(*SIZE),
            num_inference_steps=3,
        )
        check(ours, i, theirs)


@pytest.mark.parametrize("given", [{}, {"strength": 0.7}], ids=["nothing", "a picture"])
def test_without_a_mask_all_is_repainted(
    tiny_pipeline: StableDiffusionPipeline,
    tiny_bundle_fp32: Path,
    repainting: UNet2DConditionModel,
    given: dict[str, float],
) -> None:
    image = {"image": picture(*SIZE)} if given else {}
    size = {"width": SIZE[0], "height": SIZE[1]}
    pipeline, _ = load(tiny_bundle_fp32, repainting, REPAINTING)
    wanted = (
        "by a strength of 0.7; give a mask" if given else "there is none: all is repainted; give an image and a mask"
    )
    with pytest.warns(UserWarning, match=wanted):
        ours = pipeline.generate(PROMPT, **size, **image, **given, steps=3, guidance_scale=5.0, sampler="ddpm", seed=7)
    theirs = draw_theirs(
        StableDiffusionInpaintPipeline,
        tiny_pipeline,
        repainting,
        7,
        **size,
        image=picture(*SIZE),  # nothing of which is left at full strength
        mask_image=Image.new("L", SIZE, 255),
        strength=given.get("strength", 1.0),
        num_inference_steps=3,
        guidance_scale=5.0,
    )
    # The encoder's norms divide by the deviation of a picture that is grey all over: what they see is rounding.
    check(ours, 0, theirs, tolerance=1e-2)


@theirs_warn
@pytest.mark.parametrize(
    ("memory", "image_guidance_scale", "runs"),
    [("fast", 1.6, [2, 1]), ("low", 1.6, [1, 1, 1]), ("fast", 1.0, [2])],
)
def test_an_instruction_is_followed_by_three_predictions_a_step(
    tiny_pipeline: StableDiffusionPipeline,
    tiny_bundle_fp32: Path,
    instructed: UNet2DConditionModel,
    memory: str,
    image_guidance_scale: float,
    runs: list[int],
) -> None:
    options = {
        "negative_prompt": NEGATIVE,
        "guidance_scale": 6.0,
        "image_guidance_scale": image_guidance_scale,
        "image": picture(64, 64),
    }
    pipeline, ran = load(tiny_bundle_fp32, instructed, INSTRUCTED, memory=memory)
    ours = pipeline.generate(PROMPT, **options, steps=2, sampler="EulerAncestralDiscreteScheduler", seed=7)
    assert ran == 2 * runs
    theirs = draw_theirs(
        StableDiffusionInstructPix2PixPipeline,
        tiny_pipeline,
        instructed,
        7,
        scheduler=make_scheduler(tiny_pipeline, "EulerAncestralDiscreteScheduler"),
        num_inference_steps=2,
        **options,
    )
    check(ours, 0, theirs)


def test_an_instruction_without_guidance_is_one_prediction_a_step(
    tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp32: Path, instructed: UNet2DConditionModel
) -> None:
    pipeline, ran = load(tiny_bundle_fp32, instructed, INSTRUCTED)
    options = {"guidance_scale": 1.0, "image": picture(64, 64)}
    ours = pipeline.generate(PROMPT, **options, steps=2, sampler="ddpm", seed=7)
    assert ran == [1, 1]
    theirs = draw_theirs(
        StableDiffusionInstructPix2PixPipeline, tiny_pipeline, instructed, 7, num_inference_steps=2, **options
    )
    check(ours, 0, theirs)


@theirs_warn
@pytest.mark.parametrize("guidance_scale", [1.0, 8.5])
def test_learnt_guidance_is_told_and_costs_no_prediction(
    tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp32: Path, guidance_scale: float
) -> None:
    unet = make_unet(time_cond_proj_dim=32)
    pipeline, ran = load(tiny_bundle_fp32, unet, SELF_GUIDED)
    ours = pipeline.generate(PROMPT, width=64, height=64, steps=2, guidance_scale=guidance_scale, sampler="lcm", seed=7)
    assert ran == [1, 1]
    theirs = draw_theirs(
        StableDiffusionPipeline,
        tiny_pipeline,
        unet,
        7,
        scheduler=LCMScheduler.from_config(tiny_pipeline.scheduler.config),
        num_inference_steps=2,
        guidance_scale=guidance_scale,
    )
    check(ours, 0, theirs)


@theirs_warn
@pytest.mark.parametrize(
    ("kind", "settings", "changes"),
    [
        # SD-Turbo's, and SDXL-Lightning's form of it for Stable Diffusion 1.5
        ("EulerDiscreteScheduler", {"steps": 1, "sampler": "euler", "scheduler": "trailing"}, TRAILING),
        ("EulerDiscreteScheduler", {"steps": 4, "sampler": "euler", "scheduler": "trailing"}, TRAILING),
        ("DDIMScheduler", {"steps": 2, "sampler": "ddim", "scheduler": "trailing"}, TRAILING),  # Hyper-SD's
        ("TCDScheduler", {"steps": 2, "sampler": "tcd", "eta": 1.0}, {}),  # Hyper-SD's for any number of steps
        ("LCMScheduler", {"steps": 4, "sampler": "lcm"}, {}),  # LCM-LoRA's
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_settings_for_few_steps_are_those_of_diffusers(
    tiny_pipeline: StableDiffusionPipeline,
    tiny_bundle_fp32: Path,
    kind: str,
    settings: dict[str, Any],
    changes: dict[str, str],
) -> None:
    ours = Pipeline.load(tiny_bundle_fp32).generate(PROMPT, width=64, height=64, guidance_scale=1.0, seed=7, **settings)
    theirs = draw_theirs(
        StableDiffusionPipeline,
        tiny_pipeline,
        tiny_pipeline.unet,
        7,
        scheduler=make_scheduler(tiny_pipeline, kind, **changes),
        num_inference_steps=settings["steps"],
        guidance_scale=0.0,  # which is how they switch guidance off
        **({"eta": settings["eta"]} if "eta" in settings else {}),
    )
    check(ours, 0, theirs)
