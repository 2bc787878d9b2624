"""What is to be drawn: every option checked in one place, defaults filled in, before any work."""

import math
import numbers
import operator
import reprlib
import secrets
from dataclasses import dataclass
from typing import Any, SupportsIndex

from PIL import Image

from pocket_diffusion.bundle import SIDES, Manifest
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.images import Picture, fitting_size, open_picture
from pocket_diffusion.noise import MAX_SEED
from pocket_diffusion.prompt import check_prompt
from pocket_diffusion.samplers import SAMPLERS
from pocket_diffusion.version import __version__

MIN_SIDE, MAX_SIDE = SIDES
MAX_COUNT = 1000
MAX_GUIDANCE = 100.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """A drawable request: all values known and checked."""

    prompt: str
    negative_prompt: str
    # the picture's size, in pixels
    width: int
    height: int
    # the way there
    steps: int
    guidance_scale: float
    sampler: str
    seeds: tuple[int, ...]
    """One a picture."""
    # image to image and inpainting
    image: Image.Image | None
    mask: Image.Image | None
    strength: float

    @property
    def task(self) -> str:
        """`text-to-image`, `image-to-image` or `inpainting`."""
        if self.image is None:
            return "text-to-image"
        return "image-to-image" if self.mask is None else "inpainting"

    @property
    def first_step(self) -> int:
        """How many of the steps are skipped because drawing starts from a picture."""
        if self.image is None:
            return 0
        return self.steps - min(int(self.steps * self.strength), self.steps)

    def metadata(self, index: int, model: str) -> dict[str, Any]:
        """Return what a program needs to draw picture `index` again."""
        data: dict[str, Any] = {
            "version": __version__,
            "model": model,
            "task": self.task,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "width": self.width,
            "height": self.height,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler,
            "seed": self.seeds[index],
        }
        if self.image is not None:
            data["strength"] = self.strength
        return data

    def parameters_text(self, index: int, model: str) -> str:
        """Return the same in the text form that AUTOMATIC1111's web UI writes and many tools read."""
        lines = [self.prompt]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {self.negative_prompt}")
        facts = {
            "Steps": self.steps,
            "Sampler": self.sampler.upper(),
            "CFG scale": f"{self.guidance_scale:g}",
            "Seed": self.seeds[index],
            "Size": f"{self.width}x{self.height}",
            "Model": model,
        }
        if self.image is not None:
            facts["Denoising strength"] = f"{self.strength:g}"
        facts["Version"] = f"pocket-diffusion {__version__}"
        lines.append(", ".join(f"{key}: {value}" for key, value in facts.items()))
        return "\n".join(lines)


def resolve_request(
    manifest: Manifest,
    prompt: str,
    *,
    negative_prompt: str,
    width: int | None,
    height: int | None,
    steps: int | None,
    guidance_scale: float | None,
    sampler: str | None,
    seed: int | None,
    count: int,
    image: Picture | None,
    mask: Picture | None,
    strength: float,
) -> Request:
    """Check every option and fill in the bundle's defaults; a seed that was not given is drawn.

    Raises:
        InvalidRequestError: names the option, what is allowed, and what was given.

    """
    defaults = manifest.defaults
    check_prompt(prompt)
    check_prompt(negative_prompt, "negative prompt")
    if not prompt.strip():
        raise InvalidRequestError('the prompt is empty; say what to draw, for example "a lake at sunset"')
    if mask is not None and image is None:
        raise InvalidRequestError("a mask needs the image that it belongs to; give one, or leave the mask out")

    source = None if image is None else open_picture(image, "image")
    fallback = (defaults.width, defaults.height)
    if source is not None:
        fallback = fitting_size(source, *fallback)
    width = _side("width", fallback[0] if width is None else width, manifest.latents.downscale)
    height = _side("height", fallback[1] if height is None else height, manifest.latents.downscale)
    steps = _whole("steps", defaults.steps if steps is None else steps, 1, manifest.schedule.train_timesteps)
    guidance_scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
    guidance_scale = _real("guidance_scale", guidance_scale, 0.0, MAX_GUIDANCE)
    sampler = defaults.sampler if sampler is None else sampler
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise InvalidRequestError(f"sampler {reprlib.repr(sampler)} is not known; choose one of: {', '.join(SAMPLERS)}")
    count = _whole("count", count, 1, MAX_COUNT)
    last_seed = MAX_SEED + 1 - count
    seed = _whole("seed", secrets.randbelow(last_seed + 1) if seed is None else seed, 0, last_seed)
    strength = _real("strength", strength, 0.0, 1.0)
    if source is not None and int(steps * strength) == 0:
        enough = math.ceil(1000 / steps) / 1000  # rounded up: 1/7 printed with six digits would not be enough
        raise InvalidRequestError(
            f"strength {strength:g} of {steps} steps leaves nothing to draw; at least {enough:g} is needed"
        )
    return Request(
        prompt=prompt,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        seeds=tuple(range(seed, seed + count)),
        image=source,
        mask=None if mask is None else open_picture(mask, "mask"),
        strength=strength,
    )


def _side(name: str, value: SupportsIndex, multiple: int) -> int:
    side = _whole(name, value, MIN_SIDE, MAX_SIDE)
    if side % multiple:
        lower = side // multiple * multiple
        raise InvalidRequestError(
            f"{name} must be a multiple of {multiple}, not {side}; the nearest are {lower} and {lower + multiple}"
        )
    return side


def _whole(name: str, value: SupportsIndex, low: int, high: int) -> int:
    """Return a whole number of any type, NumPy's among them, as Python's."""
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise InvalidRequestError(f"{name} must be a whole number from {low} to {high}, not {reprlib.repr(value)}")
    return number


def _real(name: str, value: object, low: float, high: float) -> float:
    """Return a real number of any type, NumPy's among them, as Python's."""
    try:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:
        number = math.inf
    if isinstance(value, bool) or not low <= number <= high:  # no comparison holds for NaN
        raise InvalidRequestError(f"{name} must be a number from {low:g} to {high:g}, not {reprlib.repr(value)}")
    return number
