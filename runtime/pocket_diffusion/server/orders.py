"""What a client may ask for: an order, checked before it joins the queue."""

import asyncio
import base64
import binascii

import msgspec
from PIL import Image

from pocket_diffusion.bundle import Manifest
from pocket_diffusion.drawing.caches import CacheSetting
from pocket_diffusion.drawing.resolve import Drawing, resolve
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.order import Order
from pocket_diffusion.server.limits import Limits


def resolve_within(
    order: Order, manifest: Manifest, limits: Limits, usual_cache: CacheSetting | None = None
) -> Drawing:
    """Return what is to be drawn. Its pictures have the size that is drawn, so that waiting takes little memory.

    An order that says nothing of a cache has the usual one, where it can have it.

    Raises:
        InvalidRequestError: names the option, what is allowed, and what was given.

    """
    limits.check_prompt(order.prompt, "prompt")
    limits.check_prompt(order.negative_prompt, "negative prompt")
    drawing = resolve(order, manifest)
    limits.check(drawing)
    if order.cache is None and usual_cache is not None and drawing.cache_obstacle(usual_cache) is None:
        drawing = msgspec.structs.replace(drawing, cache=str(usual_cache))
    # As `images.to_array` and `to_mask` do, for which there is then nothing left to do.
    size = drawing.width, drawing.height
    image, mask = (
        None if picture is None else picture.resize(size, Image.Resampling.LANCZOS)
        for picture in (drawing.image, drawing.mask)
    )
    return msgspec.structs.replace(drawing, image=image, mask=None if mask is None else mask.convert("L"))


async def picture_bytes(text: str, name: str) -> bytes:
    """Decode a picture in Base64, which may be a `data:` URL.

    Raises:
        InvalidRequestError: it is neither.

    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return await asyncio.to_thread(base64.b64decode, text, validate=True)  # a large one takes a tenth of a second
    except (binascii.Error, ValueError):
        raise InvalidRequestError(f"the {name} must be a picture file in Base64, or a data: URL of one") from None
