"""Pictures that clients send: each is read in a process of its own, within limits, and a client has one at a time."""

import asyncio
import logging
import os
import sys
from typing import TypeVar
from weakref import WeakValueDictionary

import msgspec
from PIL import Image
from starlette.requests import Request

from pocket_diffusion.drawing import picture_process
from pocket_diffusion.drawing.picture_process import Pixels, Reading, Refusal, Task, Texts
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server.clients import client_of
from pocket_diffusion.server.limits import Limits

Wanted = TypeVar("Wanted", Pixels, Texts)

_PATIENCE = 3
"""How many times as long as its processor time a process may take, since others compute too."""
_log = logging.getLogger(__name__)


class Uploads:
    """Reads picture files. A file that takes long holds up other files of the same client alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._longest_side = 2 * int(limits.pixels**0.5)  # large enough to be reduced once more without a loss
        self._processes = asyncio.Semaphore(limits.readings)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By client."""

    async def picture(self, request: Request, content: bytes, name: str) -> Image.Image:
        """Return a picture as `open_picture` does, no larger than drawings need it.

        Raises:
            InvalidRequestError: as there; or it takes too long, or too much memory.

        """
        return (await self._read(request, content, name, Reading.PICTURE, Pixels)).image

    async def transparency(self, request: Request, content: bytes, name: str) -> Image.Image:
        """Return a mask as `transparency_as_mask` does.

        Raises:
            InvalidRequestError: as for a picture; or nothing in it is transparent.

        """
        return (await self._read(request, content, name, Reading.TRANSPARENCY, Pixels)).image

    async def texts(self, request: Request, content: bytes, name: str) -> dict[str, str]:
        """Return what a PNG says of itself, as `read_texts` does.

        Raises:
            InvalidRequestError: as for a picture; or it says too much.

        """
        return (await self._read(request, content, name, Reading.TEXTS, Texts)).texts

    async def _read(
        self, request: Request, content: bytes, name: str, reading: Reading, wanted: type[Wanted]
    ) -> Wanted:
        task = Task(
            reading=reading,
            name=name,
            longest_side=self._longest_side,
            seconds=self._limits.reading_seconds,
            memory=self._limits.reading_bytes,
        )
        async with self._turns.setdefault(client_of(request.scope), asyncio.Lock()), self._processes:
            output = await _output(task, content)
        try:
            answer: Wanted | Refusal = msgspec.msgpack.decode(output, type=wanted | Refusal)
        except msgspec.DecodeError:
            raise InvalidRequestError(
                f"the {name} takes more than {task.seconds} s or {task.memory // 2**20} MiB to read; reduce it, or "
                "save it anew with another program"
            ) from None
        if isinstance(answer, Refusal):
            raise InvalidRequestError(answer.message)
        return answer


async def _output(task: Task, content: bytes) -> bytes:
    """Return what the process has to say; nothing, where it had to be ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", picture_process.__name__, msgspec.json.encode(task).decode()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # what is found here is found there
    )
    try:
        async with asyncio.timeout(_PATIENCE * task.seconds):
            output, _ = await process.communicate(content)
    except TimeoutError:
        output = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        _log.warning("the process that read a picture ended with %s", process.returncode)
    return output
