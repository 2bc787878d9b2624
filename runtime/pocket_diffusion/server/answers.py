"""Between requests and the queue: bodies read, orders submitted and waited for, errors in one form."""

import asyncio
import base64
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from typing import TypeVar

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, State
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pocket_diffusion.drawing.adapters import ModelChanges
from pocket_diffusion.drawing.caches import CacheSetting
from pocket_diffusion.drawing.prompt import check_described
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.errors import BusyError, Cancelled, InferenceError, InvalidRequestError, PocketDiffusionError
from pocket_diffusion.order import Order
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.server.clients import client_of
from pocket_diffusion.server.jobs import Job, JobQueue
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.server.orders import resolve_within
from pocket_diffusion.text import shortened

Body = TypeVar("Body")

CHALLENGE = {"WWW-Authenticate": 'Basic realm="Pocket Diffusion", charset="UTF-8"'}
"""With which browsers ask for the token."""
RELEASE_BODY = "release_body"
"""In a request's state: says that its body is no longer in memory."""
_MOST_OF_A_MESSAGE = 600
"""Characters."""
_MOST_MARKS = 2**16
_LONG_NAME = re.compile(rb'"[^"]{65536,}+"\s*:')
"""Of a body's field; msgspec would repeat all of an unknown one in its message."""
_MOST_TEXT = 2**16
"""Bytes of a form's field."""
_LARGE = 2**20
"""Bytes of a body that may take longer to decode than the event loop should."""
_KNOW_400 = ("/v1/", "/prompt", "/api/prompt")
"""Where OpenAI's and ComfyUI's clients do not expect 422."""
_LATER = {"Retry-After": "10"}
TOO_MUCH_UNREAD = "too many large answers are not read yet; try again later"
_PING_SECONDS = 15.0
"""Between signs of life on a stream of events."""
_PIECE = 2**16
"""Bytes; as much as uvicorn takes before it waits for the client."""
_FAILED = "the server failed; its log says why"
_log = logging.getLogger(__name__)


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error in the form of OpenAI's API, with the `detail` where AUTOMATIC1111's has it.

    A long message repeats what a client sent, and loses its middle.
    """
    message = shortened(message, _MOST_OF_A_MESSAGE)
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    # OpenAI's clients would otherwise have drawn again what was cancelled or failed.
    again = {} if status in (408, 429) else {"X-Should-Retry": "false"}
    return JSONResponse({"error": error, "detail": message}, status, {**again, **(headers or {})})


class LargeAnswer(Response):
    """An answer that is sent bit by bit, so that it counts among the large ones until the client has read it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; or, while clients leave too much unread, a refusal."""
        state, size = scope["app"].state, len(self.body)
        if not may_be_sent(state, size):
            await refusal(429, TOO_MUCH_UNREAD, _LATER)(scope, receive, send)
            return
        with unread(state, size):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for piece in pieces(bytes(self.body)):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})


def may_be_sent(state: State, size: int) -> bool:
    """Return whether clients have read enough of other answers for one of so many bytes."""
    return not state.unread or state.unread + size <= state.limits.answers_bytes


@contextmanager
def unread(state: State, size: int) -> Iterator[None]:
    """Count so many bytes among those that clients have not read."""
    state.unread += size
    try:
        yield
    finally:
        state.unread -= size


def pieces(body: bytes) -> Iterator[bytes]:
    """Cut a large body into pieces, after each of which uvicorn waits for the client."""
    return (body[begin : begin + _PIECE] for begin in range(0, len(body), _PIECE))


def large_json(content: object) -> LargeAnswer:
    """Return an answer in JSON that may be large."""
    return LargeAnswer(msgspec.json.encode(content), media_type="application/json")


async def on_error(request: Request, error: Exception) -> Response:
    """Answer an error: one line, no traceback, nothing of the server's insides."""
    if isinstance(error, HTTPException):
        return refusal(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, BusyError):
        return refusal(429, str(error), _LATER)
    if isinstance(error, Cancelled):
        return refusal(409, str(error))
    if isinstance(error, InvalidRequestError | msgspec.ValidationError):
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        return refusal(400 if path.startswith(_KNOW_400) else 422, str(error))
    if isinstance(error, msgspec.DecodeError):
        return refusal(400, f"the request's body is not JSON: {error}")
    if isinstance(error, ClientDisconnect):
        return refusal(400, "the request ended early")
    if isinstance(error, InferenceError):
        return refusal(500, str(error))
    if isinstance(error, PocketDiffusionError):  # others' messages may have paths; Starlette logs what is not ours
        _log.error("%s %s failed: %s", request.method, request.url.path, error)
    return refusal(500, _FAILED)


def explanation(error: PocketDiffusionError | HTTPException) -> str:
    """Return what a client may know of an error, in one line."""
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, InvalidRequestError | BusyError | Cancelled | InferenceError):
        return shortened(str(error), _MOST_OF_A_MESSAGE)
    _log.error("%s", error)  # there may be paths in it
    return _FAILED


async def read_json(request: Request, kind: type[Body]) -> Body:
    """Return a request's body as a struct.

    Raises:
        msgspec.DecodeError: it is not JSON, or not of that form.
        InvalidRequestError: it has too many values, or a name that is far too long.

    """
    body = await received(request)
    if len(body) <= _LARGE:
        return decode_json(body, kind)
    async with request.app.state.decoding:
        return await asyncio.to_thread(decode_json, body, kind)


async def received(request: Request) -> bytearray:
    """Return a body of JSON.

    Raises:
        InvalidRequestError: it has too many values, as far as it has come: the rest is not waited for.

    """
    body, marks = bytearray(), 0  # `request.body()` would keep it, and takes twice as much at its end
    async for chunk in request.stream():
        body += chunk
        marks += _marks(chunk)
        _check_marks(marks)
    return body


def decode_json(body: bytes | bytearray, kind: type[Body]) -> Body:
    """Return JSON as a struct.

    Raises:
        msgspec.DecodeError: it is not JSON, or not of that form.
        InvalidRequestError: it has too many values: in 20 MB there is room for ten million, which take seconds; or a
            name that is far too long.

    """
    _check_marks(_marks(body))
    if len(body) > _LARGE and _LONG_NAME.search(body):
        raise InvalidRequestError("the body has a name of over 65,536 characters")
    try:
        return msgspec.json.decode(body, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def _marks(body: bytes | bytearray) -> int:
    """Return how many values there may be; Base64 has none of the marks."""
    return sum(map(body.count, (b",", b"[", b"{")))


def _check_marks(marks: int) -> None:
    if marks > _MOST_MARKS:
        raise InvalidRequestError(f"the body has over {_MOST_MARKS:,} commas and brackets; send fewer values")


@asynccontextmanager
async def form_of(request: Request, *, files: int, fields: int) -> AsyncIterator[FormData]:
    """Read a body that is a form.

    Raises:
        HTTPException: it is none, or its charset is not UTF-8.

    """
    charset = parse_options_header(request.headers.get("content-type", ""))[1].get(b"charset", b"utf-8")
    if charset.lower() != b"utf-8":  # Starlette would decode by whichever codec is named, some of them very slow
        raise HTTPException(415, "the form's charset must be utf-8")
    async with request.form(max_files=files, max_fields=fields, max_part_size=_MOST_TEXT) as form:
        yield form


async def pipeline_of(request: Request, model: str | None = None) -> Pipeline:
    """Return what draws with a model, by its name, or by default.

    Raises:
        InvalidRequestError: there is no such model.

    """
    state = request.app.state
    async with state.checking:  # opening one can take a second
        pipeline: Pipeline = await asyncio.to_thread(state.models.open, model)
    return pipeline


async def submit(
    request: Request,
    order: Order,
    model: str | None = None,
    *,
    described: bool = True,
    first_pass: Drawing | None = None,
) -> Job:
    """Check an order and queue it; whoever calls should not hold the order, and its pictures, any longer.

    An empty prompt is refused, unless it need not be `described` what to draw. A second pass tells of its first.

    Raises:
        InvalidRequestError: it cannot be drawn, or there is no such model.
        BusyError: there is no room.

    """
    state = request.app.state
    if described:
        check_described(order.prompt)
    pipeline = await pipeline_of(request, model)
    order = await _with_pictures_read(request, order)
    async with state.checking:  # one at a time: prompts can take a second
        drawing, *others = await asyncio.to_thread(_check, order, pipeline, state.limits, state.usual_cache)
    release = getattr(request.state, RELEASE_BODY, None)
    if release is not None:
        release()
    drawing = msgspec.structs.replace(drawing, first_pass=first_pass)
    job: Job = state.queue.submit(drawing, *others, client=client_of(request.scope))
    return job


async def _with_pictures_read(request: Request, order: Order) -> Order:
    pictures = {}
    for name in ("image", "mask"):
        content = getattr(order, name)
        if isinstance(content, bytes):
            pictures[name] = await request.app.state.uploads.picture(request, content, name)
    return msgspec.structs.replace(order, **pictures)


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
        raise copy(job.error)  # which would keep the request for as long as the job is remembered
    if not job.state.is_final:
        raise Cancelled("the client went away")


async def followed(
    request: Request, job: Job, tell: Callable[[bool], AsyncIterator[bytes]]
) -> AsyncGenerator[bytes, None]:
    """Yield what there is to `tell` after each change of a job, and now and then a sign of life.

    `tell` is given whether the job was over when it changed, which is true of the last time alone.
    """
    changes = request.app.state.queue.follow(job)
    upcoming: asyncio.Task[bool] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(changes))
            done, _ = await asyncio.wait({upcoming}, timeout=_PING_SECONDS)
            if not done:
                yield b": still here\n\n"
                continue
            try:
                is_over = upcoming.result()
            except StopAsyncIteration:
                return
            upcoming = None
            async for told in tell(is_over):
                yield told
    finally:
        # Nothing can be awaited here where the client has gone: its task ends `changes`, if that is running.
        if upcoming is not None:
            upcoming.cancel()
        else:
            await changes.aclose()


def server_sent_event(name: str, content: object) -> bytes:
    """Return an event with JSON: WHATWG HTML, section 9.2."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(content))


def event_stream(events: AsyncGenerator[bytes, None]) -> StreamingResponse:
    """Return an answer of server-sent events, which proxies are not to hold back."""
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def kept_picture(request: Request, name: str) -> bytes:
    """Return a finished picture's file.

    Raises:
        HTTPException: it had to make room for others already.

    """
    content: bytes | None = await asyncio.to_thread(request.app.state.queue.pictures.read, name)
    if content is None:
        raise HTTPException(410, "the picture had to make room for others; `serve --keep` keeps more")
    return content


async def picture_texts(request: Request, job: Job) -> list[str]:
    """Return a job's pictures in Base64.

    Raises:
        HTTPException: they had to make room for others already.

    """
    return [base64_text(await kept_picture(request, name)) for name in job.pictures]


def base64_text(content: bytes) -> str:
    """Return a file's content in Base64."""
    return base64.b64encode(content).decode()


def picture_url(request: Request, name: str) -> str:
    """Return where a picture can be fetched."""
    return url_of(request, f"/pictures/{name}")


def url_of(request: Request, path: str) -> str:
    """Return the address of a path of this application."""
    return str(request.url.replace(path=f"{request.scope.get('root_path', '')}{path}", query=""))


def _check(
    order: Order, pipeline: Pipeline, limits: Limits, usual_cache: CacheSetting | None
) -> tuple[Drawing, Pipeline, list[str], ModelChanges]:
    """Return what is to be drawn, by what, what is to be said of it, and which LoRAs and embeddings it uses."""
    drawing = resolve_within(order, pipeline.bundle.manifest, limits, usual_cache)
    return drawing, pipeline, [*map(str, pipeline.warnings_of(drawing))], pipeline.adapters.changes(drawing)


async def _over(queue: JobQueue, job: Job) -> None:
    async for _ in queue.follow(job):
        pass


async def _disconnected(request: Request) -> None:
    """Wait until the client is gone; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
