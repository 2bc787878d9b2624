"""What is done to pictures beside drawing: enlarging them, and reading how they were made."""

import asyncio
from typing import Annotated

import msgspec
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pocket_diffusion.drawing.images import png_bytes
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server.a1111.asked import LANCZOS
from pocket_diffusion.server.a1111.switches import is_off
from pocket_diffusion.server.answers import base64_text, large_json, read_json
from pocket_diffusion.server.orders import picture_bytes

NO_UPSCALER = "None"
_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "none": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
UPSCALERS = (NO_UPSCALER, LANCZOS, "Nearest")

Scale = Annotated[float, msgspec.Meta(gt=0, le=8)]
Side = Annotated[int, msgspec.Meta(ge=0, le=2**16)]


class PngInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What `png-info` is asked."""

    image: str


class Enlargement(msgspec.Struct, frozen=True, kw_only=True):
    """What `extra-single-image` is asked, as far as it can be done."""

    image: str
    resize_mode: int = 0
    """1 takes the sides, 0 the scale."""
    upscaling_resize: Scale = 2
    upscaling_resize_w: Side = 0
    upscaling_resize_h: Side = 0
    upscaling_crop: bool = True
    upscaler_1: str = NO_UPSCALER
    upscaler_2: str = NO_UPSCALER
    extras_upscaler_2_visibility: float = 0
    gfpgan_visibility: float = 0
    codeformer_visibility: float = 0


async def png_info(request: Request) -> Response:
    """Tell how a picture was made, as it says itself."""
    content = await picture_bytes((await read_json(request, PngInfo)).image, "image")
    texts = await request.app.state.uploads.texts(request, content, "image")
    return large_json({"info": texts.get("parameters", ""), "items": texts, "parameters": {}})


async def extra_single_image(request: Request) -> Response:
    """Enlarge a picture."""
    asked = await read_json(request, Enlargement)
    resampling = _FILTERS.get(asked.upscaler_1.lower())
    if resampling is None:
        raise InvalidRequestError(f"upscaler {asked.upscaler_1[:60]!a} is not here; choose from {', '.join(UPSCALERS)}")
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(asked, name):
            raise InvalidRequestError(f"{name}: not supported here; leave it out, or send 0")
    if asked.extras_upscaler_2_visibility and not is_off(asked.upscaler_2):
        raise InvalidRequestError("upscaler_2: not supported here; leave it out")
    content = await picture_bytes(asked.image, "image")
    asked = msgspec.structs.replace(asked, image="")  # which would wait until it is read
    picture = await request.app.state.uploads.picture(request, content, "image")
    width, height = _size(asked, picture)
    most = request.app.state.limits.pixels
    if width * height > most:
        raise InvalidRequestError(f"{width}x{height} is too large; at most {most:,} pixels are made here")
    box = _crop(picture, width / height) if asked.resize_mode == 1 and asked.upscaling_crop else None
    enlarged = await asyncio.to_thread(lambda: png_bytes(picture.resize((width, height), resampling, box)))
    return large_json({"html_info": "", "image": base64_text(enlarged)})


def _size(asked: Enlargement, picture: Image.Image) -> tuple[int, int]:
    if asked.resize_mode == 1 and (asked.upscaling_resize_w or asked.upscaling_resize_h):
        width = asked.upscaling_resize_w or round(asked.upscaling_resize_h * picture.width / picture.height)
        height = asked.upscaling_resize_h or round(asked.upscaling_resize_w * picture.height / picture.width)
    else:
        width, height = (round(side * asked.upscaling_resize) for side in picture.size)
    return max(width, 1), max(height, 1)


def _crop(picture: Image.Image, ratio: float) -> tuple[float, float, float, float]:
    """Return the largest box of these proportions, in the middle."""
    width = min(picture.width, picture.height * ratio)
    height = width / ratio
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    return left, top, left + width, top + height


ROUTES = [
    Route("/sdapi/v1/png-info", png_info, methods=["POST"]),
    Route("/sdapi/v1/extra-single-image", extra_single_image, methods=["POST"]),
]
