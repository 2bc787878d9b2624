"""Between requests and the queue: bodies read, orders submitted and waited for, errors in one form."""

import asyncio
import base64
import logging
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from pocket_diffusion.drawing.adapters import ModelChanges
from pocket_diffusion.drawing.caches import CacheSetting
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.errors import BusyError, Cancelled, InferenceError, InvalidRequestError, PocketDiffusionError
from pocket_diffusion.order import Order
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.server.jobs import Job, JobQueue
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.server.orders import resolve_within

Body = TypeVar("Body")

CHALLENGE = {"WWW-Authenticate": 'Basic realm="Pocket Diffusion", charset="UTF-8"'}
"""With which browsers ask for the token."""
RELEASE_BODY = "release_body"
"""In a request's state: says that its body is no longer in memory."""
_RETRY_SECONDS = "10"
_FAILED = "the server failed; its log says why"
_log = logging.getLogger(__name__)


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error in the form of OpenAI's API, with the `detail` where AUTOMATIC1111's has it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    # OpenAI's clients would otherwise have drawn again what was cancelled or failed.
    again = {} if status in (408, 429) else {"X-Should-Retry": "false"}
    return JSONResponse({"error": error, "detail": message}, status, {**again, **(headers or {})})


async def on_error(request: Request, error: Exception) -> Response:
    """Answer an error: one line, no traceback, nothing of the server's insides."""
    if isinstance(error, HTTPException):
        return refusal(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, BusyError):
        return refusal(429, str(error), {"Retry-After": _RETRY_SECONDS})
    if isinstance(error, Cancelled):
        return refusal(409, str(error))
    if isinstance(error, InvalidRequestError | msgspec.ValidationError):
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        return refusal(400 if path.startswith("/v1/") else 422, str(error))  # OpenAI's clients know 400
    if isinstance(error, msgspec.DecodeError):
        return refusal(400, f"the request's body is not JSON: {error}")
    if isinstance(error, ClientDisconnect):
        return refusal(400, "the request ended early")
    if isinstance(error, InferenceError):
        return refusal(500, str(error))
    if isinstance(error, PocketDiffusionError):  # others' messages may have paths; Starlette logs what is not ours
        _log.error("%s %s failed: %s", request.method, request.url.path, error)
    return refusal(500, _FAILED)


async def read_json(request: Request, kind: type[Body]) -> Body:
    """Return a request's body as a struct.

    Raises:
        msgspec.DecodeError: it is not JSON, or not of that form.

    """
    return decode_json(b"".join([chunk async for chunk in request.stream()]), kind)  # `request.body()` would keep it


def decode_json(body: bytes, kind: type[Body]) -> Body:
    """Return JSON as a struct.

    Raises:
        msgspec.DecodeError: it is not JSON, or not of that form.

    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


async def submit(request: Request, order: Order) -> Job:
    """Check an order and queue it; whoever calls should not hold the order, and its pictures, any longer.

    Raises:
        InvalidRequestError: it cannot be drawn.
        BusyError: there is no room.

    """
    state = request.app.state
    async with state.decoding:  # one at a time: pictures take memory, and prompts can take a second
        checked = await asyncio.to_thread(_check, order, state.queue.pipeline, state.limits, state.usual_cache)
    release = getattr(request.state, RELEASE_BODY, None)
    if release is not None:
        release()
    job: Job = state.queue.submit(*checked)
    return job


async def wait(request: Request, job: Job) -> None:
    """Wait with the client until a job is done; one who goes away has it cancelled.

    Raises:
        PocketDiffusionError: why there is no picture.

    """
    queue: JobQueue = request.app.state.queue
    over = asyncio.create_task(_over(queue, job))
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


async def picture_texts(request: Request, job: Job) -> list[str]:
    """Return a job's pictures in Base64.

    Raises:
        HTTPException: they had to make room for others already.

    """
    pictures = request.app.state.queue.pictures
    files = await asyncio.to_thread(lambda: [pictures.read(name) for name in job.pictures])
    return list(_texts(files))


def base64_text(content: bytes) -> str:
    """Return a file's content in Base64."""
    return base64.b64encode(content).decode()


def picture_url(request: Request, name: str) -> str:
    """Return where a picture can be fetched."""
    return str(request.url.replace(path=f"{request.scope.get('root_path', '')}/pictures/{name}", query=""))


def _check(
    order: Order, pipeline: Pipeline, limits: Limits, usual_cache: CacheSetting | None
) -> tuple[Drawing, list[str], ModelChanges]:
    """Return what is to be drawn, what is to be said of the order, and which LoRAs and embeddings it uses."""
    drawing = resolve_within(order, pipeline.bundle.manifest, limits, usual_cache)
    return drawing, [*map(str, pipeline.warnings_of(drawing))], pipeline.adapters.changes(drawing)


def _texts(files: Iterable[bytes | None]) -> Iterable[str]:
    for content in files:
        if content is None:
            raise HTTPException(410, "the picture had to make room for others; `serve --keep` keeps more")
        yield base64_text(content)


async def _over(queue: JobQueue, job: Job) -> None:
    async for _ in queue.follow(job):
        pass


async def _disconnected(request: Request) -> None:
    """Wait until the client is gone; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
