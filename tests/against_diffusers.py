"""What tests share that draw beside diffusers' pipelines: what is drawn, and how near the two must be."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PROMPT, NEGATIVE = "a lake under snowy mountains at sunset", "people, text"

# Stored as float32, all that differs is the order of sums, over some steps.
LATENTS_RELATIVE, PIXEL_LEVELS = 1e-4, 2


def picture(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), 255 * x / width]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def mask(width: int, height: int) -> Image.Image:
    painted = Image.new("L", (width, height))
    painted.paste(255, (width // 4, height // 8, width // 2 + 3, height))
    return painted


def relative_error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def make_scheduler(pipeline: "StableDiffusionPipeline", kind: str, **changes: object) -> Any:  # noqa: ANN401 - diffusers' schedulers have no class in common
    """Make another of diffusers' schedulers from the configuration of the pipeline's."""
    import diffusers

    config = {**pipeline.scheduler.config, "skip_prk_steps": True}  # as Stable Diffusion's has it, for PNDM
    return getattr(diffusers, kind).from_config(config, **changes)
