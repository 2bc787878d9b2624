"""What there is to draw with, and what clients of the web UI ask when they start."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pocket_diffusion.drawing.resolve import AUTOMATIC
from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from pocket_diffusion.machine.free_memory import free_memory, own_anonymous_memory
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.server.a1111.extras import UPSCALERS
from pocket_diffusion.server.a1111.options import current
from pocket_diffusion.server.answers import pipeline_of


async def samplers(_: Request) -> Response:
    """Name the samplers."""
    return JSONResponse(
        [
            {"name": kind.label, "aliases": [kind.name, *kind.aliases], "options": {"scheduler": kind.scheduler or ""}}
            for kind in SAMPLERS.values()
        ]
    )


async def schedulers(_: Request) -> Response:
    """Name the schedulers; `automatic` is the sampler's own."""
    rows = [(AUTOMATIC, "Automatic", ()), *((row.name, row.label, row.aliases) for row in SCHEDULERS.values())]
    return JSONResponse(
        [
            {
                "name": name,
                "label": label,
                "aliases": list(aliases) or None,
                "default_rho": -1,
                "need_inner_model": False,
            }
            for name, label, aliases in rows
        ]
    )


async def sd_models(request: Request) -> Response:
    """Name the models; what they were made from is told of those that were opened."""
    models = request.app.state.models
    return JSONResponse([_model(name, models.opened.get(name)) for name in models.names])


async def loras(request: Request) -> Response:
    """Name the LoRAs; where they lie is not told."""
    library = (await pipeline_of(request, current(request).model)).adapters.library
    return JSONResponse(
        [{"name": name, "alias": name, "path": path.name, "metadata": {}} for name, path in library.loras.items()]
    )


async def embeddings(request: Request) -> Response:
    """Tell the embeddings that are words, and those that cannot be."""
    adapters = (await pipeline_of(request, current(request).model)).adapters
    loaded = {word: _embedding(*concept.vectors.shape) for word, concept in adapters.concepts.items()}
    return JSONResponse({"loaded": loaded, "skipped": {name: _embedding() for name in adapters.skipped}})


async def refresh(request: Request) -> Response:
    """Look for models, LoRAs and embeddings again."""
    async with request.app.state.checking:
        await asyncio.to_thread(request.app.state.models.refresh)
    return JSONResponse(None)


async def unload(request: Request) -> Response:
    """Give back the memory of all networks, once what is drawn is done; the next drawing loads them again."""
    await request.app.state.queue.unload()
    return JSONResponse(None)


async def reload(request: Request) -> Response:
    """Open the model that the options name; its networks are loaded when they are needed."""
    await pipeline_of(request, current(request).model)
    return JSONResponse(None)


async def memory(_: Request) -> Response:
    """Tell how much memory this process has, and how much it may still take."""
    used, free = own_anonymous_memory(), free_memory() or 0
    ram = {"free": free, "used": used, "total": free + used}
    return JSONResponse({"ram": ram, "cuda": {"error": "unavailable"}})


async def queue_status(request: Request) -> Response:
    """Tell how much waits, as Gradio's queue does."""
    waiting = len(request.app.state.queue)
    return JSONResponse({"msg": "estimation", "rank": 0, "queue_size": waiting, "avg_event_process_time": None,
                         "avg_event_concurrent_process_time": None, "rank_eta": None, "queue_eta": 0})  # fmt: skip


def _answer(content: object) -> Any:  # noqa: ANN401 - an endpoint
    async def answer(_: Request) -> Response:
        """Answer the same to everyone."""
        return JSONResponse(content)

    return answer


_ANSWERS: dict[str, object] = {
    "/sdapi/v1/cmd-flags": {"api": True},
    "/sdapi/v1/upscalers": [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in UPSCALERS
    ],
    # Nothing of these is here.
    "/sdapi/v1/latent-upscale-modes": [],
    "/sdapi/v1/scripts": {"txt2img": [], "img2img": []},
    "/sdapi/v1/script-info": [],
    "/sdapi/v1/extensions": [],
    "/sdapi/v1/sd-vae": [],
    "/sdapi/v1/sd-modules": [],
    "/sdapi/v1/hypernetworks": [],
    "/sdapi/v1/face-restorers": [],
    "/sdapi/v1/realesrgan-models": [],
    "/sdapi/v1/prompt-styles": [],
    "/controlnet/version": {"version": 0},
    "/controlnet/settings": {"control_net_unit_count": 0, "control_net_max_models_num": 0},
    "/controlnet/model_list": {"model_list": []},
    "/controlnet/module_list": {"module_list": [], "module_detail": {}},
    "/controlnet/control_types": {"control_types": {}},
    "/internal/ping": {},
    "/app_id": {"app_id": "pocket-diffusion"},
}
"""What clients ask when they start."""

ROUTES = [
    Route("/sdapi/v1/samplers", samplers),
    Route("/sdapi/v1/schedulers", schedulers),
    Route("/sdapi/v1/sd-models", sd_models),
    Route("/sdapi/v1/loras", loras),
    Route("/sdapi/v1/embeddings", embeddings),
    Route("/sdapi/v1/memory", memory),
    Route("/queue/status", queue_status),
    Route("/sdapi/v1/unload-checkpoint", unload, methods=["POST"]),
    Route("/sdapi/v1/reload-checkpoint", reload, methods=["POST"]),
    *(
        Route(f"/sdapi/v1/refresh-{what}", refresh, methods=["POST"])
        for what in ("checkpoints", "vae", "loras", "embeddings")
    ),
    *(Route(path, _answer(content)) for path, content in _ANSWERS.items()),
]


def _model(name: str, pipeline: Pipeline | None) -> dict[str, Any]:
    hashes = [] if pipeline is None else [*pipeline.bundle.manifest.provenance.source_sha256.values()]
    sha256 = hashes[0] if len(hashes) == 1 else None
    return {
        "title": name,
        "model_name": name,
        "hash": sha256 and sha256[:10],
        "sha256": sha256,
        "filename": name if pipeline is None else pipeline.bundle.manifest.provenance.source,
        "config": None,
    }


def _embedding(vectors: int | None = None, width: int | None = None) -> dict[str, Any]:
    return {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": width, "vectors": vectors}
