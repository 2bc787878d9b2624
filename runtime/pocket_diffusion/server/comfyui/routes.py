"""ComfyUI's endpoints, as far as its clients use them to draw."""

import asyncio
import platform
import re
import sys

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageOps
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.machine.free_memory import free_memory
from pocket_diffusion.order import Order
from pocket_diffusion.server.answers import LargeAnswer, decode_json, form_of, pipeline_of, read_json, received, submit
from pocket_diffusion.server.clients import client_of
from pocket_diffusion.server.comfyui.events import events
from pocket_diffusion.server.comfyui.executions import Execution, Executions
from pocket_diffusion.server.comfyui.graph import Graph, read_graph
from pocket_diffusion.server.comfyui.inputs import Inputs
from pocket_diffusion.server.comfyui.nodes import NODES
from pocket_diffusion.server.comfyui.object_info import Choices, object_info
from pocket_diffusion.server.comfyui.values import Drawn, Mask
from pocket_diffusion.server.jobs import JobQueue, State
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.version import __version__


class ComfyState:
    """What is remembered between requests."""

    def __init__(self, queue: JobQueue, limits: Limits) -> None:
        self.inputs = Inputs(limits.inputs_bytes)
        self.executions = Executions(queue)


class Prompt(msgspec.Struct, frozen=True):
    """A graph to be drawn."""

    prompt: Graph
    client_id: str | None = None
    """Whose websocket is to hear of it."""
    prompt_id: str | None = None


class Selection(msgspec.Struct, frozen=True):
    """Which graphs are meant."""

    clear: bool = False
    """All."""
    delete: frozenset[str] = frozenset()


class Interruption(msgspec.Struct, frozen=True):
    """Which graph is to end; without a name, the one that is drawn."""

    prompt_id: str | None = None


async def system_stats(_: Request) -> Response:
    """Tell what it runs on, in ComfyUI's form."""
    free = free_memory() or 0
    memory = dict.fromkeys(("vram_total", "vram_free", "torch_vram_total", "torch_vram_free"), free)
    return JSONResponse(
        {
            "system": {
                "os": sys.platform,
                "ram_total": free,
                "ram_free": free,
                "comfyui_version": f"Pocket Diffusion {__version__}",
                "python_version": platform.python_version(),
                "pytorch_version": "none",
                "embedded_python": False,
                "argv": [],
            },
            "devices": [{"name": "cpu", "type": "cpu", "index": 0, **memory}],
        }
    )


async def node_info(request: Request) -> Response:
    """Tell of all nodes, or of one."""
    choices = await _choices(request)
    name = request.path_params.get("name")
    nodes = NODES.values() if name is None else filter(None, [NODES.get(name)])
    return JSONResponse({node.name: object_info(node, choices) for node in nodes})


async def embeddings(request: Request) -> Response:
    """Name the embeddings, which prompts may use as words."""
    return JSONResponse(sorted((await pipeline_of(request)).adapters.concepts))


async def draw(request: Request) -> Response:
    """Queue a graph."""
    asked = await read_json(request, Prompt)
    executions = _state(request).executions
    name = executions.new_id(client_of(request.scope), asked.prompt_id)
    ends, drawn = read_graph(asked.prompt)
    job = await submit(request, await _order(request, drawn), drawn.model)
    execution = executions.add(name, ends, job, asked.client_id or "")
    return JSONResponse({"prompt_id": execution.id, "number": execution.number, "node_errors": {}})


async def remaining(request: Request) -> Response:
    """Tell how many drawings wait or are drawn."""
    return JSONResponse({"exec_info": {"queue_remaining": len(request.app.state.queue)}})


async def queue(request: Request) -> Response:
    """List the client's own graphs that are drawn, and that wait; or take some out."""
    mine = _mine(request)
    if request.method == "GET":
        states = {"queue_running": State.RUNNING, "queue_pending": State.QUEUED}
        return JSONResponse(
            {name: [one.row for one in mine if one.job.state is state] for name, state in states.items()}
        )
    chosen = await read_json(request, Selection)
    for one in mine:
        if one.job.state is State.QUEUED and (chosen.clear or one.id in chosen.delete):
            request.app.state.queue.cancel(one.job)
    return JSONResponse({})


async def history(request: Request) -> Response:
    """Tell of the client's own graphs that are over; or forget some, with their pictures."""
    if request.method == "GET":
        most = request.query_params.get("max_items")
        if most is not None and not re.fullmatch(r"[0-9]{1,9}", most):
            raise InvalidRequestError("max_items must be a whole number; leave it out for the last graphs")
        told = _state(request).executions.history(client_of(request.scope), None if most is None else int(most))
        return JSONResponse(told)
    chosen = await read_json(request, Selection)
    for one in _mine(request):
        if one.job.state.is_final and (chosen.clear or one.id in chosen.delete):
            _state(request).executions.forget(one)
    return JSONResponse({})


async def one_history(request: Request) -> Response:
    """Tell of one graph: nothing, until it is over."""
    found = _state(request).executions.find(client_of(request.scope), request.path_params["id"])
    is_over = found is not None and found.job.state.is_final
    return JSONResponse({found.id: found.history} if found is not None and is_over else {})


async def interrupt(request: Request) -> Response:
    """Stop the client's own graph that is drawn."""
    wanted = decode_json(await received(request) or b"{}", Interruption).prompt_id
    for one in _mine(request):
        if one.job.state is State.RUNNING and wanted in (None, one.id):
            request.app.state.queue.cancel(one.job, "the drawing was interrupted")
    return JSONResponse({})


async def view(request: Request) -> Response:
    """Send a finished picture, or one that the client uploaded."""
    asked = request.query_params
    name, is_upload = asked.get("filename", ""), asked.get("type") == "input"
    if is_upload:
        content = _state(request).inputs.find(client_of(request.scope), name)
    else:
        content = await asyncio.to_thread(request.app.state.queue.pictures.read, name.removesuffix(".png"))
    if content is None:
        raise HTTPException(404, "there is no such picture (any more)")
    return LargeAnswer(content, media_type=None if is_upload else "image/png")  # nobody has looked into an upload yet


async def upload(request: Request) -> Response:
    """Keep a picture for the graphs that will name it."""
    async with form_of(request, files=1, fields=8) as form:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise InvalidRequestError("`image` is missing; send a picture file, as multipart/form-data")
        if form.get("subfolder"):
            raise InvalidRequestError("there are no folders here; leave `subfolder` out")
        content = await image.read()
        name = _state(request).inputs.add(client_of(request.scope), image.filename or "", content)
    return JSONResponse({"name": name, "subfolder": "", "type": "input"})


def _routes(prefix: str) -> list[BaseRoute]:
    return [
        Route(f"{prefix}/system_stats", system_stats),
        Route(f"{prefix}/object_info", node_info),
        Route(f"{prefix}/object_info/{{name}}", node_info),
        Route(f"{prefix}/embeddings", embeddings),
        Route(f"{prefix}/prompt", remaining),
        Route(f"{prefix}/prompt", draw, methods=["POST"]),
        Route(f"{prefix}/queue", queue, methods=["GET", "POST"]),
        Route(f"{prefix}/history", history, methods=["GET", "POST"]),
        Route(f"{prefix}/history/{{id}}", one_history),
        Route(f"{prefix}/interrupt", interrupt, methods=["POST"]),
        Route(f"{prefix}/view", view),
        Route(f"{prefix}/upload/image", upload, methods=["POST"]),
        WebSocketRoute(f"{prefix}/ws", events),
    ]


ROUTES = [*_routes(""), *_routes("/api")]
"""Clients use both."""


def _state(request: Request) -> ComfyState:
    state: ComfyState = request.app.state.comfyui
    return state


def _mine(request: Request) -> list[Execution]:
    return _state(request).executions.of(client_of(request.scope))


async def _choices(request: Request) -> Choices:
    """Return what menus offer, the names of samplers as ComfyUI's clients write them too."""
    samplers = [name for kind in SAMPLERS.values() for name in (kind.name, *kind.aliases) if not name.startswith("k_")]
    return {
        "models": request.app.state.models.names,
        "loras": sorted((await pipeline_of(request)).adapters.library.loras),
        "samplers": samplers,
        "schedulers": list(SCHEDULERS),
        "pictures": _state(request).inputs.names(client_of(request.scope)),
        "nothing": [],
    }


async def _order(request: Request, drawn: Drawn) -> Order:
    """Return an order with its pictures."""
    if drawn.picture is None:
        return drawn.order
    content = _state(request).inputs.read(client_of(request.scope), drawn.picture)
    image = await request.app.state.uploads.picture(request, content, "image")
    if drawn.scaling is not None:
        size, most = (drawn.scaling.width, drawn.scaling.height), request.app.state.limits.pixels
        if size[0] * size[1] > most:
            raise InvalidRequestError(f"ImageScale to {size[0]}x{size[1]} is too large; {most:,} pixels are drawn here")
        image = await asyncio.to_thread(image.resize, size, Image.Resampling[drawn.scaling.method])
    multiple = (await pipeline_of(request, drawn.model)).bundle.manifest.latents.downscale
    width, height = (side // multiple * multiple for side in image.size)
    mask = None if drawn.mask is None else await _mask(request, drawn.mask, image.size)
    return msgspec.structs.replace(drawn.order, image=image, mask=mask, width=width, height=height)


async def _mask(request: Request, mask: Mask, size: tuple[int, int]) -> Image.Image:
    """Return what is to be repainted, in white, of a picture of some size."""
    uploads, content = request.app.state.uploads, _state(request).inputs.read(client_of(request.scope), mask.picture)
    if mask.channel == "alpha":
        picture: Image.Image = await uploads.transparency(request, content, "mask")
    else:
        picture = (await uploads.picture(request, content, "mask")).getchannel(mask.channel[0].upper())
    return await asyncio.to_thread(_changed, picture, mask, size)


def _changed(picture: Image.Image, mask: Mask, size: tuple[int, int]) -> Image.Image:
    """Return a mask that is inverted, or has grown; as in ComfyUI, at the picture's size, and by half on each side."""
    picture = ImageOps.invert(picture) if mask.inverted else picture
    reach = mask.grown // 2
    if not reach:
        return picture
    grown = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    for _ in range(2):  # along columns, and then along rows
        grown = sliding_window_view(np.pad(grown, ((reach, reach), (0, 0))), 2 * reach + 1, axis=0).max(axis=-1).T
    return Image.fromarray(grown)
