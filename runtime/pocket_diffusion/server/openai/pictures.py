"""OpenAI's three ways to have pictures drawn: from a prompt, from a picture and a prompt, from a picture alone."""

import msgspec
from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server.answers import event_stream, form_of, read_json, submit
from pocket_diffusion.server.openai.asked import Generation
from pocket_diffusion.server.openai.told import Drawn, answer, events

_SHOWN = 60
"""Characters of a name that is not known."""
_MASKED_STRENGTH = 1.0
"""Where nobody says another: what is masked is expected to be drawn anew."""
_VARIATION_STRENGTH = 0.6
"""Where nobody says another: colours and parts stay in place."""


async def generations(request: Request) -> Response:
    """Draw from a prompt."""
    asked = await read_json(request, Generation)
    return await _answer(request, await _submit(request, asked, "image_generation"))


async def edits(request: Request) -> Response:
    """Redraw a picture; with a mask, only what is transparent in that."""
    async with form_of(request, files=4, fields=40) as form:
        asked, image, mask = _asked(form), await _image(form), await _content(form, "mask")
    repainted = None if mask is None else await request.app.state.uploads.transparency(request, mask, "mask")
    if asked.strength is None and mask is not None:
        asked = msgspec.structs.replace(asked, strength=_MASKED_STRENGTH)
    drawn = await _submit(request, asked, "image_edit", image, repainted)
    del form, request._form, image, mask, repainted  # which would wait with the client otherwise
    return await _answer(request, drawn)


async def variations(request: Request) -> Response:
    """Redraw a picture without being told what it shows."""
    async with form_of(request, files=4, fields=40) as form:
        asked, image = _asked(form, prompt=""), await _image(form)
    if asked.strength is None:
        asked = msgspec.structs.replace(asked, strength=_VARIATION_STRENGTH)
    drawn = await _submit(request, asked, "image_edit", image, described=False)
    del form, request._form, image
    return await _answer(request, drawn)


ROUTES = [
    Route("/v1/images/generations", generations, methods=["POST"]),
    Route("/v1/images/edits", edits, methods=["POST"]),
    Route("/v1/images/variations", variations, methods=["POST"]),
]


async def _submit(
    request: Request,
    asked: Generation,
    event: str,
    image: bytes | None = None,
    mask: Image.Image | None = None,
    *,
    described: bool = True,
) -> Drawn:
    """Queue what is asked for."""
    asked.check()
    models = request.app.state.models
    order, notes = asked.order(request.app.state.limits.pixels)
    is_known = asked.model in models.names
    if asked.model is not None and not is_known:
        notes.append(f"there is no model {asked.model[:_SHOWN]!a} here; {models.default_name} drew")
    order = msgspec.structs.replace(order, image=image, mask=mask)
    job = await submit(request, order, asked.model if is_known else None, described=described)
    job.partial_steps = asked.partial_steps(job.steps)
    return Drawn(job, asked, event, notes)


async def _answer(request: Request, drawn: Drawn) -> Response:
    return event_stream(events(request, drawn)) if drawn.asked.stream else await answer(request, drawn)


def _asked(form: FormData, **usual: str) -> Generation:
    """Return a form's fields; those that are unknown are left out, as in JSON."""
    known = Generation.__struct_fields__
    texts = {name: text for name, text in form.items() if isinstance(text, str) and name in known}
    try:
        return msgspec.convert({**usual, **texts}, Generation, strict=False)  # numbers come as text
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from None


async def _image(form: FormData) -> bytes:
    image = await _content(form, "image")
    if image is None:
        raise InvalidRequestError("`image` is missing; send a picture to redraw, as multipart/form-data")
    return image


async def _content(form: FormData, name: str) -> bytes | None:
    """Return an uploaded file's content, None where there is none; OpenAI's clients name several `image[]`."""
    files = [file for file in (*form.getlist(name), *form.getlist(f"{name}[]")) if isinstance(file, UploadFile)]
    if len(files) > 1:
        raise InvalidRequestError(f"`{name}` has {len(files)} files; send one")
    return await files[0].read() if files else None
