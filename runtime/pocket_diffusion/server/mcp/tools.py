"""The tools that assistants have: to draw, to redraw a picture, and to list the models."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from copy import copy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec
from mcp import types
from mcp.server import Server, ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from sse_starlette.sse import AppStatus
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from pocket_diffusion.errors import BusyError, InferenceError, InvalidRequestError, PocketDiffusionError
from pocket_diffusion.files import read_regular
from pocket_diffusion.order import Order
from pocket_diffusion.server.answers import (
    TOO_MUCH_UNREAD,
    explanation,
    may_be_sent,
    picture_texts,
    picture_url,
    pieces,
    submit,
    unread,
)
from pocket_diffusion.server.jobs import Job
from pocket_diffusion.server.orders import picture_bytes
from pocket_diffusion.server.rest import JobOrder, order_and_model, read_adapters, read_model, read_models
from pocket_diffusion.version import __version__

Context = ServerRequestContext[Any, Request]
Arguments = dict[str, Any]
Call = Callable[[Context, Arguments], Awaitable[types.CallToolResult]]

_log = logging.getLogger(__name__)
_FROM_A_PICTURE = ("image", "mask", "strength")
_NOTES = {
    "prompt": "what to draw: a few descriptive phrases",
    "negative_prompt": "what not to draw",
    "width": "pixels, a multiple of 8; best left out",
    "height": "pixels, a multiple of 8; best left out",
    "seed": "draws the same picture again; best left out",
    "image": "the `url` of a picture that was drawn here, a picture file in Base64, or its file: URL where these tools "
    "run on the same machine",
    "mask": "likewise: white is redrawn, black is kept",
    "strength": "how much to change, from 0 to 1",
}


def _schema(*, without: tuple[str, ...] = (), required: tuple[str, ...] = ("prompt",)) -> dict[str, Any]:
    """Return the form of an order as a tool takes it."""
    _, forms = msgspec.json.schema_components([JobOrder], ref_template="#/$defs/{name}")
    form = forms.pop(JobOrder.__name__)
    options = {name: option for name, option in form["properties"].items() if name not in without}
    for name, note in _NOTES.items():
        if name in options:
            options[name] = {**options[name], "description": note}
    return {**form, "properties": options, "required": list(required), "$defs": forms}


async def draw(context: Context, arguments: Arguments) -> types.CallToolResult:
    """Draw a picture from a prompt. An option that is left out is the model's own default."""
    return await _drawn(context, arguments)


async def redraw(context: Context, arguments: Arguments) -> types.CallToolResult:
    """Redraw a picture, or with a mask a part of it, as a prompt says."""
    if arguments.get("image") is None:
        raise InvalidRequestError("`image` is missing; send the picture to redraw, or call `draw`")
    return await _drawn(context, arguments)


async def list_models(context: Context, _: Arguments) -> types.CallToolResult:
    """List the models by name, and tell what the default one takes and draws best, and which LoRAs there are."""
    request = _request(context)
    answers = [await read(request) for read in (read_models, read_model, read_adapters)]
    return types.CallToolResult(content=[types.TextContent(text=bytes(answer.body).decode()) for answer in answers])


_TOOLS: dict[str, tuple[Call, dict[str, Any]]] = {
    "draw": (draw, _schema(without=_FROM_A_PICTURE)),
    "redraw": (redraw, _schema(required=("prompt", "image"))),
    "list_models": (list_models, {"type": "object", "properties": {}, "additionalProperties": False}),
}


async def _list_tools(_: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(
        tools=[
            types.Tool(name=name, description=call.__doc__, input_schema=schema)
            for name, (call, schema) in _TOOLS.items()
        ]
    )


async def _call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    """Call a tool; an assistant reads what was wrong, and may call again."""
    try:
        if params.name not in _TOOLS:
            raise InvalidRequestError(f"there is no such tool; there are {', '.join(_TOOLS)}")
        call, _ = _TOOLS[params.name]
        return await call(context, params.arguments or {})
    except msgspec.ValidationError as error:
        return _fault(InvalidRequestError(str(error)))
    except (PocketDiffusionError, HTTPException) as error:
        return _fault(error)
    except Exception:  # of which the SDK would tell all, in the protocol's older versions; there may be paths in it
        _log.exception("a tool failed")
        return _fault(InferenceError("the tool failed; the server's log says why"))


def _fault(error: PocketDiffusionError | HTTPException) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=explanation(error))], is_error=True)


def make_server(**options: Any) -> Server[Any]:  # noqa: ANN401 - the SDK's own
    """Return the tools, to be run by a transport; where it is not HTTP, a `lifespan` yields the request to answer."""
    return Server(
        "pocket-diffusion", version=__version__, on_list_tools=_list_tools, on_call_tool=_call_tool, **options
    )


AppStatus.enable_automatic_graceful_drain = False  # at the end, drawings are cancelled and assistants told so

SERVER = make_server()
"""For HTTP."""


class Exchange(Response):
    """One message of the protocol, and the answer to it. It needs no sessions, and so leaves nothing behind."""

    def __init__(self, body: bytes) -> None:
        self._message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the SDK answer; a drawing is cancelled when its client goes away."""
        state = scope["app"].state

        async def receive_again() -> Message:
            if self._message is None:
                return await receive()
            message, self._message = self._message, None
            return message

        async def send_in_pieces(message: Message) -> None:
            body, more = message.get("body", b""), message.get("more_body", False)
            with unread(state, len(body)):
                for piece in pieces(body):
                    await send({**message, "body": piece, "more_body": True})
            if not (body and more):
                await send({**message, "body": b""} if body else message)

        manager = StreamableHTTPSessionManager(SERVER, stateless=True, max_request_body_size=state.limits.body_bytes)
        async with manager.run():
            await manager.handle_request(scope, receive_again, send_in_pieces)


def _request(context: Context) -> Request:
    request: Request = context.request or context.lifespan_context
    return request


def _is_local(context: Context) -> bool:
    """Whether the assistant has started this process, and so may see what the user's other programs see."""
    return context.request is None


async def _drawn(context: Context, arguments: Arguments) -> types.CallToolResult:
    request = _request(context)
    job = await submit(request, *await _order(context, arguments))
    job.is_to_be_kept = arguments.get("keep", True)
    await _wait(context, request, job)
    pictures = await picture_texts(request, job)
    if not may_be_sent(request.app.state, sum(map(len, pictures))):
        raise BusyError(TOO_MUCH_UNREAD)
    facts = [{"url": _url(context, job, number), **settings} for number, settings in enumerate(job.settings)]
    told = msgspec.json.encode({"pictures": facts, "warnings": list(job.warnings)}).decode()
    images = [types.ImageContent(data=text, mime_type="image/png") for text in pictures]
    return types.CallToolResult(content=[*images, types.TextContent(text=told)])


def _url(context: Context, job: Job, number: int) -> str | None:
    """Return where a picture is found; None where it had to make room for others just now."""
    name, queue = job.pictures[number], _request(context).app.state.queue
    if not _is_local(context):
        return picture_url(_request(context), name)
    path = queue.album.path(job.kept[number]) if job.kept else queue.pictures.path(name)
    return None if path is None else path.as_uri()


async def _order(context: Context, arguments: Arguments) -> tuple[Order, str | None]:
    pictures = {name: arguments[name] for name in ("image", "mask") if isinstance(arguments.get(name), str)}
    order, model = order_and_model(msgspec.convert({**arguments, **dict.fromkeys(pictures)}, JobOrder))
    contents = {name: await _content(context, text, name) for name, text in pictures.items()}
    return msgspec.structs.replace(order, **contents), model


async def _content(context: Context, text: str, name: str) -> bytes:
    """Return a picture's file. Assistants can hardly repeat one that they have seen, but its URL."""
    state = _request(context).app.state
    if _is_local(context) and text.startswith("file:"):
        return await asyncio.to_thread(_local_file, text, name, state.limits.body_bytes)
    if not text.startswith(("http://", "https://")):
        return await picture_bytes(text, name)
    content: bytes | None = await asyncio.to_thread(state.queue.pictures.read, text.rpartition("/")[2])
    if content is None:
        raise InvalidRequestError(f"the {name} is not at that URL (any more); only pictures drawn here are")
    return content


def _local_file(url: str, name: str, most: int) -> bytes:
    try:
        return read_regular(Path(url2pathname(urlsplit(url).path)), most)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no such URL"
        raise InvalidRequestError(f"the {name} at that URL cannot be read ({why}); send another") from None


async def _wait(context: Context, request: Request, job: Job) -> None:
    """Tell the client each step until the drawing is done; it is cancelled where the client goes away.

    Raises:
        PocketDiffusionError: why there is no picture.

    """
    told = 0
    try:
        async for _ in job.changes():
            if job.step > told:
                told = job.step
                await context.session.report_progress(told, job.steps)
    finally:
        request.app.state.queue.cancel(job, "the client went away")  # nothing, where it is over
    if job.error is not None:
        raise copy(job.error)
