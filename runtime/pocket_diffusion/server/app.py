"""The application: what is served where, and what it shares."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from pocket_diffusion.drawing.caches import find_cache
from pocket_diffusion.drawing.resolve import bundle_obstacle
from pocket_diffusion.errors import InvalidRequestError, PocketDiffusionError
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.server import a1111, monitoring, openai, rest
from pocket_diffusion.server.album import Album
from pocket_diffusion.server.answers import on_error
from pocket_diffusion.server.comfyui import routes as comfyui
from pocket_diffusion.server.guard import Guard, known_origins
from pocket_diffusion.server.jobs import JobQueue
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.server.mcp import routes as mcp
from pocket_diffusion.server.models import Models
from pocket_diffusion.server.monitoring import Metrics
from pocket_diffusion.server.openapi import describe
from pocket_diffusion.server.pictures import PictureStore
from pocket_diffusion.server.uploads import Uploads

_PAGE = Path(__file__).parent / "page"
_FAULTS = (HTTPException, ClientDisconnect, PocketDiffusionError, msgspec.DecodeError, Exception)


def create_app(
    models: Pipeline | Models,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    origins: Collection[str] = (),
    limits: Limits | None = None,
    cache: str | None = None,
    output: Path | None = None,
) -> Starlette:
    """Return an ASGI application that draws with a pipeline, or several, which are then the application's alone.

    `token` is asked of every client, if given. `hosts` are the names that requests may be for; None leaves that check
    to whoever serves the application. Without it and without a token, a stranger's page whose domain name is made to
    lead here can have pictures drawn (DNS rebinding).

    `origins` are those of other sites, such as `https://lite.koboldai.net`, whose pages may use the APIs too (CORS).
    `*` is every site, and `null` that of local files; both need a token.

    `cache` is that of orders that name none, where their model, sampler and steps allow it; see `Order.cache`.

    `output` is a folder in which all pictures are kept, for the page's gallery and for people.

    It can be mounted under any path, and is for one event loop. What is drawn is cancelled when that, or its lifespan
    where it has one, ends; `app.state.queue.close()` does so earlier.

    Raises:
        InvalidRequestError: the token is empty, which everyone would know; an origin is none, or lets every site in
            without a token; or there is no such cache, or the default model's bundle can have none.

    """
    if token == "":
        raise InvalidRequestError("the token is empty; give one that cannot be guessed, or none")
    models = models if isinstance(models, Models) else Models(models)
    limits = limits or Limits()
    usual_cache = None if cache is None else find_cache(cache)
    if usual_cache is not None:
        obstacle = bundle_obstacle(usual_cache.kind, models.default.bundle.manifest)
        if obstacle is not None:
            raise InvalidRequestError(f"cache {usual_cache} cannot be had: {obstacle}")
    pages = known_origins(origins, token)
    names = None if hosts is None else frozenset(name.lower() for name in hosts)
    metrics = Metrics()
    pictures = PictureStore(limits.pictures)
    queue = JobQueue(models, limits, pictures, metrics, None if output is None else Album(output))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await queue.close()
            pictures.close()
            models.close()

    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/worker.js", _worker),
            Route("/openapi.json", _openapi),
            *(operation.route for operation in rest.OPERATIONS),
            *openai.ROUTES,
            *a1111.ROUTES,
            *mcp.ROUTES,
            *comfyui.ROUTES,
            *monitoring.ROUTES,
            Mount("/page", _PageFiles(directory=_PAGE)),
        ],
        middleware=[
            # The outer one, so that pages may read refusals too, and ask without a token whether they may ask.
            Middleware(
                CORSMiddleware,
                allow_origins=pages,
                allow_methods=["*"],
                allow_headers=["*"],
                allow_private_network=True,
            ),
            Middleware(Guard, token=token, hosts=names, origins=pages, limits=limits, metrics=metrics),
        ],
        exception_handlers=dict.fromkeys(_FAULTS, on_error),
        lifespan=lifespan,
    )
    app.state.limits = limits
    app.state.models = models
    app.state.usual_cache = usual_cache
    app.state.metrics = metrics
    app.state.queue = queue
    app.state.uploads = Uploads(limits)
    app.state.comfyui = comfyui.ComfyState(queue, limits)
    app.state.is_starting = False  # but where a server tries the model first
    app.state.unread = 0
    app.state.checking = asyncio.Lock()
    app.state.decoding = asyncio.Lock()  # of large bodies, each of which takes several times its size meanwhile
    return app


class _PageFiles(StaticFiles):
    """The page's files: browsers keep them, and ask each time whether they are still the same."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


async def _page(_: Request) -> Response:
    return FileResponse(_PAGE / "index.html")


async def _worker(_: Request) -> Response:
    """Send the page's service worker, which browsers let act for nothing above its own path."""
    return FileResponse(_PAGE / "worker.js")


async def _openapi(request: Request) -> Response:
    return JSONResponse(describe(rest.OPERATIONS, request.scope.get("root_path", "")))
