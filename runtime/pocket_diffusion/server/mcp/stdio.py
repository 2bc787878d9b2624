"""The tools over stdin and stdout, for assistants that start a program of their own and talk to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp.server import Server
from mcp.server.stdio import stdio_server
from starlette.applications import Starlette
from starlette.requests import Request

from pocket_diffusion.server.mcp.tools import make_server


async def serve(app: Starlette) -> None:
    """Answer messages of the protocol with what `create_app` has made, until stdin ends; drawings end with it.

    Whatever is printed meanwhile goes to stderr, since stdout has messages alone.
    """
    desktop = Request({"type": "http", "app": app, "method": "POST", "path": "/", "query_string": b"", "headers": []})

    @asynccontextmanager
    async def lifespan(_: Server[Request]) -> AsyncIterator[Request]:
        async with app.router.lifespan_context(app):
            yield desktop

    server = make_server(lifespan=lifespan)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())
