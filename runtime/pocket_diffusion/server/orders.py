"""What a client may ask for: the options of `Pipeline.generate`, checked before they join the queue."""

import base64
import binascii
from dataclasses import replace

import msgspec
from PIL import Image

from pocket_diffusion.bundle import Manifest
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.request import Request, resolve_request
from pocket_diffusion.server.limits import Limits


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A drawing to be made. What is left out, or null, is the model's own default."""

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    seed: int | None = None
    """The same seed draws the same picture; picture i of several uses seed + i."""
    count: int = 1
    image: bytes | None = None
    """A picture to start from: a file's content, as Base64."""
    mask: bytes | None = None
    """For inpainting, of the same kind: white is repainted."""
    strength: float = 0.8
    """How much to change the picture, 0 to 1."""


def resolve(order: Order, manifest: Manifest, limits: Limits) -> Request:
    """Return what is to be drawn. Its pictures have the size that is drawn, so that waiting takes little memory.

    Raises:
        InvalidRequestError: names the option, what is allowed, and what was given.

    """
    limits.check_prompt(order.prompt, "prompt")
    limits.check_prompt(order.negative_prompt, "negative prompt")
    request = resolve_request(
        manifest,
        order.prompt,
        negative_prompt=order.negative_prompt,
        width=order.width,
        height=order.height,
        steps=order.steps,
        guidance_scale=order.guidance_scale,
        sampler=order.sampler,
        seed=order.seed,
        count=order.count,
        image=order.image,
        mask=order.mask,
        strength=order.strength,
    )
    limits.check(request)
    # As `images.to_array` and `to_mask` do, for which there is then nothing left to do.
    size = request.width, request.height
    image, mask = (
        None if picture is None else picture.resize(size, Image.Resampling.LANCZOS)
        for picture in (request.image, request.mask)
    )
    return replace(request, image=image, mask=None if mask is None else mask.convert("L"))


def picture_bytes(text: str, name: str) -> bytes:
    """Decode a picture in Base64, which may be a `data:` URL.

    Raises:
        InvalidRequestError: it is neither.

    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError(f"the {name} must be a picture file in Base64, or a data: URL of one") from None
