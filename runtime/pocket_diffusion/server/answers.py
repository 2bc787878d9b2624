"""What is sent back: errors in one form, drawings waited for, pictures as text."""

import asyncio
import base64
import json
from typing import Any, TypeVar

import msgspec
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pocket_diffusion.errors import BusyError, Cancelled, PocketDiffusionError
from pocket_diffusion.images import png_bytes
from pocket_diffusion.prompt import truncation
from pocket_diffusion.server.jobs import Job, JobQueue
from pocket_diffusion.server.orders import Order, resolve

Body = TypeVar("Body")

CHALLENGE = {"WWW-Authenticate": 'Basic realm="Pocket Diffusion", charset="UTF-8"'}
"""With which browsers ask for the token."""
_RETRY_SECONDS = "10"


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error in the form of OpenAI's API, with the `detail` where AUTOMATIC1111's has it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": error, "detail": message}, status, headers)


def status_of(error: PocketDiffusionError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, BusyError):
        return 429
    if isinstance(error, Cancelled):
        return 409
    return 422 if error.exit_code == 2 else 500


async def on_error(_: Request, error: Exception) -> Response:
    """Answer an error of ours: one line, no traceback."""
    if isinstance(error, HTTPException):
        return refusal(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, PocketDiffusionError):
        headers = {"Retry-After": _RETRY_SECONDS} if isinstance(error, BusyError) else None
        return refusal(status_of(error), str(error), headers)
    if isinstance(error, msgspec.ValidationError):
        return refusal(422, str(error))
    if isinstance(error, msgspec.DecodeError):
        return refusal(400, f"the request's body is not JSON: {error}")
    return refusal(500, "the server failed; its log says why")


async def read_json(request: Request, kind: type[Body]) -> Body:
    """Return a request's body as a struct.

    Raises:
        msgspec.DecodeError: it is not JSON, or not of that form.

    """
    body = await request.body()
    try:
        return msgspec.json.decode(body, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


async def submit(request: Request, order: Order) -> Job:
    """Check an order and queue it.

    Raises:
        InvalidRequestError: it cannot be drawn.
        BusyError: there is no room.

    """
    state = request.app.state
    async with state.checking:  # one at a time: decoding pictures takes memory
        pipeline = state.queue.pipeline
        resolved = await asyncio.to_thread(resolve, order, pipeline.bundle.manifest, state.limits)
        texts = ((order.prompt, "prompt"), (order.negative_prompt, "negative prompt"))
        warnings = [warning for text, name in texts if (warning := truncation(text, pipeline.tokenizer, name))]
    job: Job = state.queue.submit(resolved, warnings)
    return job


async def draw(request: Request, order: Order) -> Job:
    """Draw an order while the client waits; one who goes away has it cancelled.

    Raises:
        PocketDiffusionError: why there is no picture.

    """
    queue: JobQueue = request.app.state.queue
    job = await submit(request, order)
    over = asyncio.create_task(job.over())
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({over, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        over.cancel()
        gone.cancel()
        queue.cancel(job, "the client went away")  # nothing, where it is over
    if job.error is not None:
        raise job.error
    if not job.state.is_final:
        raise Cancelled("the client went away")
    return job


async def picture_texts(request: Request, job: Job) -> list[str]:
    """Return a job's pictures in Base64."""
    return [base64.b64encode(picture).decode() for picture in await asyncio.to_thread(_read, request, job)]


def png_text(picture: Image.Image) -> str:
    """Return a picture as a PNG in Base64."""
    return base64.b64encode(png_bytes(picture)).decode()


def picture_url(request: Request, name: str) -> str:
    """Return where a picture can be fetched."""
    return str(request.url.replace(path=f"{request.scope.get('root_path', '')}/pictures/{name}", query=""))


def event(name: str, data: Any) -> bytes:  # noqa: ANN401 - whatever JSON can tell
    """Return a server-sent event (WHATWG HTML, section 9.2)."""
    text = data if isinstance(data, str) else json.dumps(data)
    return f"event: {name}\ndata: {text}\n\n".encode()


def _read(request: Request, job: Job) -> list[bytes]:
    paths = [request.app.state.queue.pictures.path(name) for name in job.pictures]
    return [path.read_bytes() for path in paths if path is not None]


async def _disconnected(request: Request) -> None:
    """Wait until the client is gone; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
