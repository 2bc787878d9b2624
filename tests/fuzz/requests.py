"""The reader of HTTP requests' bodies: the server, asked in its own process, which draws without computing."""

import asyncio
from typing import Any

import msgspec
import numpy as np
from starlette.applications import Starlette

from fuzz.bounded import Read
from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.drawing import picture_process
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.components import Components
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_diffusion.server import Limits, create_app, uploads

BOUNDARY = "boundary"
"""Between the parts of forms."""
_JSON = "application/json"
_FORM = f"multipart/form-data; boundary={BOUNDARY}"
BODIES = {
    "/api/jobs": _JSON,
    "/generate": _JSON,
    "/prompt": _JSON,
    "/mcp": _JSON,
    "/v1/images/generations": _JSON,
    "/v1/images/edits": _FORM,
    "/v1/images/variations": _FORM,
    "/sdapi/v1/txt2img": _JSON,
    "/sdapi/v1/img2img": _JSON,
    "/sdapi/v1/png-info": _JSON,
    "/sdapi/v1/extra-single-image": _JSON,
    "/sdapi/v1/options": _JSON,
}
"""What takes a body, and of which kind it is."""
_ACCEPTED = "application/json, text/event-stream"
_LIMITS = Limits(pixels=128 * 128, steps=20, count=2, queue=4)
"""As small as they can be for what the embedded model draws unasked."""
_LARGEST_ANSWER = 2**22


def request() -> Read:
    """Answer a POST: an input is a path, a line's end, and a body."""
    uploads._output = _read_here
    app = create_app(Pipeline(_blank_networks()), limits=_LIMITS)
    loop = asyncio.new_event_loop()

    def read(content: bytes) -> None:
        path, _, body = content.partition(b"\n")
        status, answer = loop.run_until_complete(_post(app, path.decode(), body))
        assert status < 500, f"answered {status}: {answer[:200]!r}"
        assert len(answer) <= _LARGEST_ANSWER, f"answered with {len(answer)} bytes"
        if status >= 400:
            raise InvalidRequestError(msgspec.json.decode(answer)["error"]["message"])

    return read


class _Blank:
    """A network that computes nothing, since drawing takes longer than all that a request says of it."""

    def __init__(self, role: str) -> None:
        self._role = role

    def run(self, *_: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        match self._role:
            case "text_encoder":
                context = np.ones((len(inputs["ids"]), 77, 128), np.float32)
                return {"context": context, "layers": np.stack([context] * 3)}
            case "unet":
                shape = len(inputs["context"]), *inputs["latents"].shape[1:]
                return {"noise": np.broadcast_to(inputs["latents"][:1], shape)}
            case "vae_encoder":
                return {"moments": np.zeros((1, 8, *(side // 8 for side in inputs["picture"].shape[2:])), np.float32)}
        return {"picture": np.zeros((1, 3, *(8 * side for side in inputs["latents"].shape[2:])), np.float32)}

    def close(self) -> None:
        pass


def _blank_networks() -> Components:
    bundle, budget = Bundle.open(DEFAULT_BUNDLE), MemoryBudget.parse("fast")
    return Components(bundle, provider="cpu", threads=1, budget=budget, open_network=_Blank)


async def _read_here(task: picture_process.Task, content: bytes) -> bytes:
    """Read a picture without a process of its own, which takes longer than all else; `picture` is fuzzed by itself."""
    return msgspec.msgpack.encode(picture_process.read(content, task))


async def _post(app: Starlette, path: str, body: bytes) -> tuple[int, bytes]:
    """Return the status and the body of the answer to a client that stays."""
    headers = {b"content-type": BODIES[path].encode(), b"accept": _ACCEPTED.encode()}
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"", "headers": [*headers.items()],
        "client": ("127.0.0.1", 1),
    }  # fmt: skip
    received, sent = [{"type": "http.request", "body": body}], []

    async def receive() -> dict[str, Any]:
        return received.pop() if received else await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    return start["status"], b"".join(message.get("body", b"") for message in rest)
