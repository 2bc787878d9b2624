"""The whole way, checkpoint → bundle → picture, against diffusers' pipelines with the same weights and seed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from numpy.typing import NDArray

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
from pocket_diffusion.bundle import MANIFEST_NAME, Bundle
from pocket_diffusion.checkpoint.noise_schedule import read_schedule
from pocket_diffusion.result import Result

STEPS, GUIDANCE, STRENGTH = 6, 5.0, 0.7

# Stored as float16, weights are off by up to 2⁻¹¹.
PSNR_DB = 40.0


TASKS: dict[str, tuple[type, Callable[[int, int], dict[str, Any]]]] = {
    "text-to-image": (StableDiffusionPipeline, lambda w, h: {}),
    "image-to-image": (
        StableDiffusionImg2ImgPipeline,
        lambda w, h: {"image": picture(w, h), "strength": STRENGTH},
    ),
    "inpainting": (
        StableDiffusionInpaintPipeline,
        lambda w, h: {"image": picture(w, h), "mask_image": mask(w, h), "strength": STRENGTH},
    ),
    "inpainting at full strength": (
        StableDiffusionInpaintPipeline,
        lambda w, h: {"image": picture(w, h), "mask_image": mask(w, h), "strength": 1.0},
    ),
}
SIZES = [(64, 64), (136, 88)]


def draw_theirs(
    pipeline: StableDiffusionPipeline,
    task: str,
    size: tuple[int, int],
    seed: int,
    *,
    steps: int = STEPS,
    output_type: str = "latent",
    scheduler: Any = None,  # noqa: ANN401 - diffusers' schedulers have no class in common
    **options: Any,  # noqa: ANN401 - those of diffusers' pipelines
) -> NDArray[np.float32]:
    kind, make_inputs = TASKS[task]
    components = pipeline.components | ({} if scheduler is None else {"scheduler": scheduler})
    theirs = kind(**components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    given: dict[str, Any] = make_inputs(*size)
    if task != "image-to-image":
        given |= {"width": size[0], "height": size[1]}
    if "prompt_embeds" not in options:
        given |= {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    return np.asarray(
        theirs(
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type=output_type,
            **given,
            **options,
        ).images
    )


def draw_ours(
    bundle: Path,
    task: str,
    size: tuple[int, int],
    *,
    steps: int = STEPS,
    **options: Any,  # noqa: ANN401 - those of `generate`
) -> Result:
    given = TASKS[task][1](*size)
    if "mask_image" in given:
        given["mask"] = given.pop("mask_image")
    return Pipeline.load(bundle).generate(
        PROMPT,
        negative_prompt=NEGATIVE,
        width=size[0],
        height=size[1],
        steps=steps,
        guidance_scale=GUIDANCE,
        **options,
        **given,
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("task", TASKS)
def test_float32_bundle_draws_the_same(
    tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp32: Path, task: str, size: tuple[int, int]
) -> None:
    latents, pixels = (draw_theirs(tiny_pipeline, task, size, seed=7, output_type=kind) for kind in ("latent", "np"))
    ours = draw_ours(tiny_bundle_fp32, task, size, seed=7, sampler="ddpm")
    assert relative_error(ours.latents, latents) < LATENTS_RELATIVE
    levels = np.abs(np.asarray(ours.images[0], float) - pixels[0] * 255)
    assert levels.max() <= PIXEL_LEVELS


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("task", ["text-to-image", "image-to-image", "inpainting"])
def test_float16_bundle_draws_nearly_the_same(
    tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp16: Path, task: str, size: tuple[int, int]
) -> None:
    pixels = draw_theirs(tiny_pipeline, task, size, seed=7, output_type="np")
    ours = draw_ours(tiny_bundle_fp16, task, size, seed=7, sampler="ddpm")
    mean_square = np.mean((np.asarray(ours.images[0]) / 255 - pixels[0]) ** 2)
    assert -10 * np.log10(mean_square) > PSNR_DB


def test_picture_i_of_several_is_that_of_seed_plus_i(
    tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp32: Path
) -> None:
    ours = draw_ours(tiny_bundle_fp32, "inpainting", (64, 64), seed=3, count=2, sampler="ddpm")
    assert ours.seeds == [3, 4]
    for i, seed in enumerate(ours.seeds):
        latents = draw_theirs(tiny_pipeline, "inpainting", (64, 64), seed)
        assert relative_error(ours.latents[i : i + 1], latents) < LATENTS_RELATIVE


# PyTorch's arrays are older than NumPy 2, and diffusers hands them to it.
theirs_warn = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@theirs_warn
@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("text-to-image", "DDIMScheduler"),
        ("text-to-image", "DEISMultistepScheduler"),
        ("text-to-image", "DPMSolverMultistepScheduler"),
        ("text-to-image", "EulerAncestralDiscreteScheduler"),
        ("text-to-image", "EulerDiscreteScheduler"),
        ("text-to-image", "HeunDiscreteScheduler"),
        ("text-to-image", "KDPM2DiscreteScheduler"),
        ("text-to-image", "LMSDiscreteScheduler"),
        ("text-to-image", "PNDMScheduler"),
        ("text-to-image", "UniPCMultistepScheduler"),
        ("image-to-image", "DDIMScheduler"),
        ("image-to-image", "DPMSolverMultistepScheduler"),
        ("image-to-image", "EulerAncestralDiscreteScheduler"),
        ("image-to-image", "HeunDiscreteScheduler"),
        ("image-to-image", "UniPCMultistepScheduler"),
        # With two evaluations a step, diffusers puts the kept part back between them too.
        ("inpainting", "DDIMScheduler"),
        ("inpainting", "DPMSolverMultistepScheduler"),
        ("inpainting", "EulerAncestralDiscreteScheduler"),
        ("inpainting at full strength", "EulerDiscreteScheduler"),
    ],
)
def test_draws_the_same_with_other_schedulers(
    tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp32: Path, task: str, kind: str
) -> None:
    scheduler = make_scheduler(tiny_pipeline, kind)
    theirs = draw_theirs(tiny_pipeline, task, (64, 64), seed=7, scheduler=scheduler)
    ours = draw_ours(tiny_bundle_fp32, task, (64, 64), seed=7, sampler=kind)
    assert relative_error(ours.latents, theirs) < LATENTS_RELATIVE


ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("DDPMScheduler", {"prediction_type": "v_prediction"}),
        ("DDPMScheduler", {"prediction_type": "sample"}),
        ("DDPMScheduler", {"clip_sample": True}),  # which their pipelines correct
        ("DDPMScheduler", {"steps_offset": 0}),  # likewise
        ("DDPMScheduler", {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9}),
        ("DDIMScheduler", {"set_alpha_to_one": True}),
        ("DDIMScheduler", {"set_alpha_to_one": False}),
        ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}),
        ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "linspace"}),
        ("DDPMScheduler", ZERO_SNR),
        ("DDIMScheduler", ZERO_SNR),
        ("EulerDiscreteScheduler", ZERO_SNR),
        ("UniPCMultistepScheduler", ZERO_SNR),
    ],
    ids=str,
)
@theirs_warn
@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_draws_the_same_from_checkpoints_with_another_schedule(
    tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp32: Path, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    scheduler = make_scheduler(tiny_pipeline, kind, **changes)
    # Where steps do not divide 1000, diffusers' DDIM does not step to the next timestep of its list.
    theirs = draw_theirs(tiny_pipeline, "text-to-image", (64, 64), seed=7, steps=5, scheduler=scheduler)
    bundle = shutil.copytree(tiny_bundle_fp32, tmp_path / "bundle")
    schedule = read_schedule("scheduler", dict(tiny_pipeline.scheduler.config) | changes)
    manifest = msgspec.structs.replace(Bundle.open(bundle).manifest, schedule=schedule)
    (bundle / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    ours = draw_ours(bundle, "text-to-image", (64, 64), seed=7, steps=5, sampler=kind)
    assert relative_error(ours.latents, theirs) < LATENTS_RELATIVE


def test_guidance_rescale_draws_the_same(tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp32: Path) -> None:
    theirs = draw_theirs(tiny_pipeline, "text-to-image", (64, 64), seed=7, guidance_rescale=0.7)
    ours = draw_ours(tiny_bundle_fp32, "text-to-image", (64, 64), seed=7, sampler="ddpm", guidance_rescale=0.7)
    assert relative_error(ours.latents, theirs) < LATENTS_RELATIVE


def test_clip_skip_draws_from_an_earlier_layer(tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp32: Path) -> None:
    """As AUTOMATIC1111 counts, and for both prompts; diffusers' own `clip_skip` leaves the negative one alone."""
    encoder, tokenizer = tiny_pipeline.text_encoder, tiny_pipeline.tokenizer
    final_norm = getattr(encoder, "text_model", encoder).final_layer_norm  # under another name before transformers 5
    ids = tokenizer([PROMPT, NEGATIVE], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        prompt, negative = final_norm(encoder(ids, output_hidden_states=True).hidden_states[-2]).split(1)
    given = {"prompt_embeds": prompt, "negative_prompt_embeds": negative}
    theirs = draw_theirs(tiny_pipeline, "text-to-image", (64, 64), seed=7, **given)
    ours = draw_ours(tiny_bundle_fp32, "text-to-image", (64, 64), seed=7, sampler="ddpm", clip_skip=2)
    assert relative_error(ours.latents, theirs) < LATENTS_RELATIVE
