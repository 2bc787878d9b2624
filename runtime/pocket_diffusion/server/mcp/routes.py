"""Where assistants reach the tools. The SDK takes a second to import, which happens when the first of them comes."""

import asyncio
import importlib

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pocket_diffusion.server.answers import RELEASE_BODY, decode_json, received

_TOOLS = "pocket_diffusion.server.mcp.tools"


async def mcp(request: Request) -> Response:
    """Pass a message of the protocol (streamable HTTP, without sessions) to the SDK, once it is known to be small."""
    try:
        tools = await asyncio.to_thread(importlib.import_module, _TOOLS)
    except ModuleNotFoundError as error:
        raise HTTPException(
            404,
            f'assistants need {error.name}, which is not installed; run `pip install "pocket-diffusion[mcp]"` there',
        ) from None
    # The SDK keeps the body for as long as the answer takes, and would decode any number of values.
    request.scope["state"].pop(RELEASE_BODY, None)
    body = bytes(await received(request))
    await asyncio.to_thread(decode_json, body, msgspec.Raw)
    exchange: Response = tools.Exchange(body)
    return exchange


ROUTES = [Route("/mcp", mcp, methods=["POST"])]
