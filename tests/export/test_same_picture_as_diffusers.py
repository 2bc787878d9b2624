"""The whole way, checkpoint → bundle → picture, against diffusers' pipelines with the same weights and seed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from pocket_diffusion import Pipeline
from pocket_diffusion.result import Result

PROMPT, NEGATIVE = "a lake under snowy mountains at sunset", "people, text"
STEPS, GUIDANCE, STRENGTH = 6, 5.0, 0.7

# Stored as float32, all that differs is the order of sums, over some steps.
LATENTS_RELATIVE, PIXEL_LEVELS = 1e-3, 2
# Stored as float16, weights are off by up to 2⁻¹¹.
PSNR_DB = 40.0


def picture(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), 255 * x / width]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def mask(width: int, height: int) -> Image.Image:
    painted = Image.new("L", (width, height))
    painted.paste(255, (width // 4, height // 8, width // 2 + 3, height))
    return painted


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
    pipeline: StableDiffusionPipeline, task: str, size: tuple[int, int], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    kind, options = TASKS[task]
    theirs = kind(**pipeline.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    given = options(*size)
    if task != "image-to-image":
        given |= {"width": size[0], "height": size[1]}
    results = []
    for output_type in ("latent", "np"):
        results.append(
            theirs(
                PROMPT,
                negative_prompt=NEGATIVE,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type=output_type,
                **given,
            ).images
        )
    return results[0].numpy(), results[1]


def draw_ours(bundle: Path, task: str, size: tuple[int, int], **seeds: int) -> Result:
    given = TASKS[task][1](*size)
    if "mask_image" in given:
        given["mask"] = given.pop("mask_image")
    return Pipeline.load(bundle).generate(
        PROMPT,
        negative_prompt=NEGATIVE,
        width=size[0],
        height=size[1],
        steps=STEPS,
        guidance_scale=GUIDANCE,
        **seeds,
        **given,
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("task", TASKS)
def test_float32_bundle_draws_the_same(
    tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp32: Path, task: str, size: tuple[int, int]
) -> None:
    latents, pixels = draw_theirs(tiny_pipeline, task, size, seed=7)
    ours = draw_ours(tiny_bundle_fp32, task, size, seed=7)
    assert ours.latents.shape == latents.shape
    assert np.linalg.norm(ours.latents - latents) / np.linalg.norm(latents) < LATENTS_RELATIVE
    levels = np.abs(np.asarray(ours.images[0], float) - pixels[0] * 255)
    assert levels.max() <= PIXEL_LEVELS


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("task", ["text-to-image", "image-to-image", "inpainting"])
def test_float16_bundle_draws_nearly_the_same(
    tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp16: Path, task: str, size: tuple[int, int]
) -> None:
    _, pixels = draw_theirs(tiny_pipeline, task, size, seed=7)
    ours = draw_ours(tiny_bundle_fp16, task, size, seed=7)
    mean_square = np.mean((np.asarray(ours.images[0]) / 255 - pixels[0]) ** 2)
    assert -10 * np.log10(mean_square) > PSNR_DB


def test_picture_i_of_several_is_that_of_seed_plus_i(
    tiny_pipeline: StableDiffusionPipeline, tiny_bundle_fp32: Path
) -> None:
    ours = draw_ours(tiny_bundle_fp32, "inpainting", (64, 64), seed=3, count=2)
    assert ours.seeds == [3, 4]
    for i, seed in enumerate(ours.seeds):
        latents, _ = draw_theirs(tiny_pipeline, "inpainting", (64, 64), seed)
        assert np.linalg.norm(ours.latents[i] - latents[0]) / np.linalg.norm(latents) < LATENTS_RELATIVE
