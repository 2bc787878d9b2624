"""OpenAI's images API, so that its clients draw here by changing their `base_url`."""

import re
import reprlib
import time
from typing import Any, Literal

import msgspec
from PIL import Image
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.order import Order
from pocket_diffusion.server.answers import large_json, picture_texts, picture_url, read_json, submit, wait
from pocket_diffusion.server.jobs import Job

_MOST_TEXT = 2**16
"""Bytes of a form's field."""
_POSSIBLE: dict[str, tuple[Any, ...]] = {
    "background": ("auto", "opaque"),
    "output_format": ("png",),
    "partial_images": (0,),
    "stream": (False,),
}
"""What each may be; anything else asks for what cannot be done here."""


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What `images.generate` sends, and what it may send with it as `extra_body`.

    What else OpenAI's clients send (`model`, `quality`, `user`, …) has no counterpart here and changes nothing.
    """

    prompt: str
    n: int | None = 1
    size: str | None = "auto"
    response_format: Literal["b64_json", "url"] | None = None
    background: str | None = None
    output_format: str | None = None
    partial_images: int | None = None
    stream: bool | None = None
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


_PASSED_ON = tuple(
    name for name in Generation.__struct_fields__ if name in Order.__struct_fields__ and name != "strength"
)
"""Fields that mean the same in an order."""


async def generations(request: Request) -> Response:
    """Draw from a prompt."""
    asked = await read_json(request, Generation)
    return await _answer(request, await _submit(request, asked), asked.response_format)


async def edits(request: Request) -> Response:
    """Redraw a picture; with a mask, only what is transparent in that."""
    charset = parse_options_header(request.headers.get("content-type", ""))[1].get(b"charset", b"utf-8")
    if charset.lower() != b"utf-8":  # Starlette would decode by whichever codec is named, some of them very slow
        raise HTTPException(415, "the form's charset must be utf-8")
    async with request.form(max_files=4, max_fields=40, max_part_size=_MOST_TEXT) as form:
        image = await _content(form, "image")
        mask = await _content(form, "mask")
        known = Generation.__struct_fields__
        texts = {name: text for name, text in form.items() if isinstance(text, str) and name in known}
    if image is None:
        raise InvalidRequestError("`image` is missing; send a picture to redraw, as multipart/form-data")
    try:
        asked = msgspec.convert(texts, Generation, strict=False)  # numbers come as text
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from None
    repainted = None if mask is None else await request.app.state.uploads.transparency(request, mask, "mask")
    job = await _submit(request, asked, image, repainted)
    del form, request._form, image, mask, repainted, texts  # which would wait with the client otherwise
    return await _answer(request, job, asked.response_format)


async def models(request: Request) -> Response:
    """Name the one model."""
    return JSONResponse({"object": "list", "data": [_model(request)]})


async def model(request: Request) -> Response:
    """Tell of the one model."""
    found = _model(request)
    if request.path_params["id"] != found["id"]:
        raise HTTPException(404, f"there is no such model; the one here is {found['id']!r}")
    return JSONResponse(found)


ROUTES = [
    Route("/v1/images/generations", generations, methods=["POST"]),
    Route("/v1/images/edits", edits, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/models/{id:path}", model),
]


async def _submit(
    request: Request, asked: Generation, image: bytes | None = None, mask: Image.Image | None = None
) -> Job:
    for name, possible in _POSSIBLE.items():
        value = getattr(asked, name)
        if value is not None and value not in possible:
            raise InvalidRequestError(f"{name} {value!r} is not supported; leave it out, or send {possible[0]!r}")
    width, height = _size(asked.size)
    order = Order(
        **{name: getattr(asked, name) for name in _PASSED_ON},
        width=width,
        height=height,
        count=1 if asked.n is None else asked.n,
        image=image,
        mask=mask,
        # What is masked is expected to be drawn anew.
        strength=1.0 if asked.strength is None and mask is not None else asked.strength,
    )
    return await submit(request, order)


async def _answer(request: Request, job: Job, response_format: str | None) -> Response:
    await wait(request, job)
    if response_format == "url":
        data = [{"url": picture_url(request, name)} for name in job.pictures]
    else:
        data = [{"b64_json": text} for text in await picture_texts(request, job)]
    facts = job.settings[0]
    return large_json(
        {
            "created": int(time.time()),
            "data": data,
            "output_format": "png",
            "size": f"{facts['width']}x{facts['height']}",
        }
    )


def _model(request: Request) -> dict[str, Any]:
    name = request.app.state.models.default_name
    return {"id": name, "object": "model", "created": 0, "owned_by": "pocket-diffusion"}


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text in (None, "auto"):
        return None, None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(text), re.ASCII)
    if match is None:
        raise InvalidRequestError(f"size must be auto or such as 512x512, not {reprlib.repr(text)}")
    return int(match[1]), int(match[2])


async def _content(form: FormData, name: str) -> bytes | None:
    """Return an uploaded file's content, None where there is none; OpenAI's clients name several `image[]`."""
    files = [file for file in (*form.getlist(name), *form.getlist(f"{name}[]")) if isinstance(file, UploadFile)]
    if len(files) > 1:
        raise InvalidRequestError(f"`{name}` has {len(files)} files; send one")
    return await files[0].read() if files else None
