"""What OpenAI's clients are told of a drawing: all at its end, or event by event."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from typing import Any

from PIL import Image
from starlette.datastructures import State as AppState
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pocket_diffusion.drawing.images import QUALITY, file_bytes
from pocket_diffusion.errors import PocketDiffusionError
from pocket_diffusion.server.answers import (
    TOO_MUCH_UNREAD,
    base64_text,
    explanation,
    followed,
    kept_picture,
    large_json,
    may_be_sent,
    picture_url,
    pieces,
    server_sent_event,
    unread,
    wait,
)
from pocket_diffusion.server.jobs import Job
from pocket_diffusion.server.openai.asked import Generation

_NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""Events must have it; tokens are what OpenAI charges for."""


@dataclass(frozen=True)
class Drawn:
    """A job, and how its client wants to hear of it."""

    job: Job
    asked: Generation
    event: str
    """With what the names of its events begin."""
    notes: Sequence[str]
    """What is to be said of what was asked for, beside the job's own warnings."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its pictures."""
        return self.job.settings[0]["width"], self.job.settings[0]["height"]

    @property
    def facts(self) -> dict[str, Any]:
        """What is told of each picture."""
        return {
            "background": "opaque",
            "output_format": self.asked.picture_format,
            "size": "{}x{}".format(*self.size),
        }

    @property
    def warnings(self) -> list[str]:
        """All that is to be said beside pictures; OpenAI's own answers have no such field."""
        return [*self.notes, *self.job.warnings]

    def encoded(self, content: bytes) -> bytes:
        """Return a finished picture's PNG in the format that was asked for, with how it was made."""
        if self.asked.picture_format == "png":
            return content
        with Image.open(BytesIO(content)) as picture:
            return self._file(picture, picture.info.get("parameters", ""))

    def partial(self, preview: bytes) -> bytes:
        """Return a preview in the format and the size of the pictures to come."""
        with Image.open(BytesIO(preview)) as picture:
            return self._file(picture.convert("RGB").resize(self.size, Image.Resampling.BICUBIC))

    def _file(self, picture: Image.Image, parameters: str = "") -> bytes:
        asked = self.asked
        quality = QUALITY if asked.output_compression is None else asked.output_compression
        return file_bytes(picture, asked.picture_format.upper(), parameters, quality=quality)


async def answer(request: Request, drawn: Drawn) -> Response:
    """Wait for the pictures, and return them.

    Raises:
        PocketDiffusionError: why there are none.

    """
    await wait(request, drawn.job)
    data = [await _datum(request, drawn, name) for name in drawn.job.pictures]
    return large_json({"created": int(time.time()), "data": data, **drawn.facts, "warnings": drawn.warnings})


async def events(request: Request, drawn: Drawn) -> AsyncGenerator[bytes, None]:
    """Yield the events of a stream, as the official clients read them; a client who goes away has the job cancelled."""
    job, numbers = drawn.job, count()

    async def tell(is_over: bool) -> AsyncIterator[bytes]:
        while job.partial:
            content = await asyncio.to_thread(drawn.partial, job.partial.popleft())
            about = _event(drawn, "partial_image", content, partial_image_index=next(numbers))
            for piece in _counted(request.app.state, about):
                yield piece
        if is_over:
            async for piece in _ending(request, drawn):
                yield piece

    try:
        async with aclosing(followed(request, job, tell)) as told:
            async for piece in told:
                yield piece
    finally:
        request.app.state.queue.cancel(job, "the client went away")  # nothing, where it is over
        job.partial = deque(maxlen=0)  # for whatever comes of a step that ends just now


async def _ending(request: Request, drawn: Drawn) -> AsyncIterator[bytes]:
    """Yield an event for each picture, or why there is none."""
    try:
        if drawn.job.error is not None:
            raise drawn.job.error
        for name in drawn.job.pictures:
            content = await asyncio.to_thread(drawn.encoded, await kept_picture(request, name))
            about = _event(drawn, "completed", content, usage=_NO_USAGE, warnings=drawn.warnings)
            for piece in _counted(request.app.state, about):
                yield piece
    except (PocketDiffusionError, HTTPException) as error:
        yield _failure(explanation(error))


async def _datum(request: Request, drawn: Drawn, name: str) -> dict[str, str]:
    if drawn.asked.response_format == "url":
        return {"url": picture_url(request, name)}
    return {"b64_json": base64_text(await asyncio.to_thread(drawn.encoded, await kept_picture(request, name)))}


def _event(drawn: Drawn, kind: str, content: bytes, **more: object) -> bytes:
    name = f"{drawn.event}.{kind}"
    about = {"type": name, "b64_json": base64_text(content), "created_at": int(time.time()), "quality": "auto"}
    return server_sent_event(name, {**about, **drawn.facts, **more})


def _failure(message: str) -> bytes:
    error = {"message": message, "type": "server_error", "param": None, "code": None}
    return server_sent_event("error", {"type": "error", "error": error})


def _counted(state: AppState, event: bytes) -> Iterator[bytes]:
    """Yield an event's pieces, and count it as unread for so long."""
    if not may_be_sent(state, len(event)):
        yield _failure(TOO_MUCH_UNREAD)
        return
    with unread(state, len(event)):
        yield from pieces(event)
