"""What OpenAI's clients ask for, and the order that it stands for."""

import math
import re
import reprlib
from typing import Annotated, Literal

import msgspec

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.order import Order

_POSSIBLE = {"background": ("auto", "opaque"), "output_format": ("png", "jpeg", "webp")}
"""What each may be; anything else asks for what cannot be done here."""
_BEST = 100
_MULTIPLE = 8
"""Pixels of the sides of what is scaled down."""


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What `images.generate`, `edit` and `create_variation` send, and what they may send with it as `extra_body`.

    What else OpenAI's clients send (`quality`, `style`, `moderation`, `user`, …) has no counterpart here and changes
    nothing.
    """

    prompt: str
    model: str | None = None
    """One that is not here stands for the default model: many clients can only send OpenAI's names."""
    n: int | None = 1
    size: str | None = "auto"
    response_format: Literal["b64_json", "url"] | None = None
    background: str | None = None
    output_format: str | None = None
    output_compression: Annotated[int, msgspec.Meta(ge=0, le=_BEST)] | None = None
    """The quality of JPEG and WebP, whatever the name says."""
    stream: bool | None = None
    partial_images: Annotated[int, msgspec.Meta(ge=0, le=3)] | None = None
    # not OpenAI's
    negative_prompt: str = ""
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    eta: float | None = None
    s_noise: float = 1.0
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    image_guidance_scale: float | None = None
    clip_skip: int = 1
    token_downsampling: int = 1
    cache: str | None = None
    seed: int | None = None
    strength: float | None = None

    def check(self) -> None:
        """Refuse what cannot be done here.

        Raises:
            InvalidRequestError: says what can be.

        """
        for name, possible in _POSSIBLE.items():
            value = getattr(self, name)
            if value is not None and value not in possible:
                raise InvalidRequestError(
                    f"{name} {reprlib.repr(value)} cannot be had; leave it out, or send {' or '.join(possible)}"
                )
        if self.picture_format == "png" and self.output_compression not in (None, _BEST):
            raise InvalidRequestError("a PNG has no output_compression; leave it out, or send output_format 'jpeg'")
        if self.response_format == "url" and self.stream:
            raise InvalidRequestError("a stream has no URLs; leave response_format out, or do not stream")
        if self.response_format == "url" and self.picture_format != "png":
            raise InvalidRequestError("pictures at URLs are PNG; leave output_format or response_format out")
        if self.partial_images and not self.stream:
            raise InvalidRequestError("partial_images come in a stream; leave them out, or send stream true")

    @property
    def picture_format(self) -> str:
        """How pictures are sent."""
        return self.output_format or "png"

    def partial_steps(self, steps: int) -> list[int]:
        """Return the steps of a drawing whose previews are sent, at even places."""
        pictures = self.partial_images or 0
        return sorted({math.ceil(steps * number / (pictures + 1)) for number in range(1, pictures + 1)})

    def order(self, most_pixels: int) -> tuple[Order, list[str]]:
        """Return what is to be drawn, but for pictures to start from, and what is to be said of its size.

        Clients let people choose among OpenAI's sizes alone, so that one of too many pixels is scaled down.

        Raises:
            InvalidRequestError: the size is none.

        """
        width, height = _size(self.size)
        notes = []
        if width is not None and height is not None and width * height > most_pixels:
            scale = math.sqrt(most_pixels / (width * height))
            width, height = (int(side * scale) // _MULTIPLE * _MULTIPLE for side in (width, height))
            notes.append(f"size {self.size} is too large here; {width}x{height} was drawn")
        passed_on = {name: getattr(self, name) for name in _PASSED_ON}
        count = 1 if self.n is None else self.n
        return Order(**passed_on, width=width, height=height, count=count), notes


_PASSED_ON = tuple(name for name in Generation.__struct_fields__ if name in Order.__struct_fields__)
"""Fields that mean the same in an order."""


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text in (None, "auto"):
        return None, None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(text), re.ASCII)
    if match is None:
        raise InvalidRequestError(f"size must be auto or such as 512x512, not {reprlib.repr(text)}")
    return int(match[1]), int(match[2])
