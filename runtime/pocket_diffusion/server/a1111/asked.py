"""What `txt2img` and `img2img` are asked."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec

from pocket_diffusion.drawing.resolve import MAX_FEATHER
from pocket_diffusion.errors import InvalidRequestError

LANCZOS = "Lanczos"
"""The upscaler that the second pass has, whatever is asked for."""

Row = TypeVar("Row")
Name = Annotated[str, msgspec.Meta(max_length=100)]


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What `txt2img` and `img2img` have in common with us, by their own names and defaults."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0.0
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 1
    n_iter: Annotated[int, msgspec.Meta(ge=1)] = 1
    sampler_name: Name | None = None
    sampler_index: Name | None = None
    scheduler: Name | None = None
    eta: float | None = None
    s_noise: float | None = None
    send_images: bool = True
    override_settings: dict[str, Any] = {}
    # img2img
    init_images: tuple[str, ...] = ()
    mask: str | None = None
    inpainting_mask_invert: bool | int = False
    mask_blur: Annotated[float, msgspec.Meta(ge=0, le=MAX_FEATHER)] = 4
    denoising_strength: float = 0.75
    image_cfg_scale: float | None = None
    # txt2img
    enable_hr: bool = False
    """Draw in two passes; the second begins with the first's picture, enlarged."""
    hr_scale: Annotated[float, msgspec.Meta(ge=1, le=8)] = 2
    hr_resize_x: Annotated[int, msgspec.Meta(ge=0, le=2**16)] = 0
    hr_resize_y: Annotated[int, msgspec.Meta(ge=0, le=2**16)] = 0
    hr_second_pass_steps: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    hr_upscaler: Name = LANCZOS
    """Whatever it says, Lanczos' filter enlarges."""
    hr_checkpoint_name: Name = ""
    hr_sampler_name: Name = ""
    hr_scheduler: Name = ""
    hr_prompt: str = ""
    hr_negative_prompt: str = ""


def found(find: Callable[[str], Row], name: str | None) -> Row | None:
    """Look a name up that may be unknown, or missing."""
    if not name:
        return None
    try:
        return find(name)
    except InvalidRequestError:
        return None
