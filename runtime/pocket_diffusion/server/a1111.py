"""The API of AUTOMATIC1111's web UI, as far as its clients use it to draw."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeVar

import msgspec
from PIL import ImageOps
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pocket_diffusion.drawing.resolve import AUTOMATIC
from pocket_diffusion.drawing.samplers import SAMPLERS, find_sampler
from pocket_diffusion.drawing.schedulers import SCHEDULERS, find_scheduler
from pocket_diffusion.errors import Cancelled, InvalidRequestError
from pocket_diffusion.order import Order
from pocket_diffusion.server.answers import base64_text, decode_json, large_json, picture_texts, read_json, submit, wait
from pocket_diffusion.server.jobs import Job, JobQueue
from pocket_diffusion.server.orders import picture_bytes

_FEATURES = (
    "enable_hr", "restore_faces", "tiling", "styles", "script_name", "subseed_strength", "refiner_checkpoint",
    "controlnet_units",
)  # fmt: skip
"""What changes the picture and cannot be done here, so that asking for it is refused."""
_CLIP_SKIP = "CLIP_stop_at_last_layers"
_MOST_NAMES, _MOST_OF_A_NAME = 100, 100
_MOST_OF_A_FEATURE = 10_000
"""Bytes; what is longer is asked for, whatever it is."""


Row = TypeVar("Row")
Name = Annotated[str, msgspec.Meta(max_length=100)]


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What `txt2img` and `img2img` have in common with us, by their own names and defaults."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 1
    n_iter: Annotated[int, msgspec.Meta(ge=1)] = 1
    sampler_name: Name | None = None
    sampler_index: Name | None = None
    scheduler: Name | None = None
    eta: float | None = None
    s_noise: float | None = None
    send_images: bool = True
    override_settings: dict[str, Any] = {}
    # img2img
    init_images: tuple[str, ...] = ()
    mask: str | None = None
    inpainting_mask_invert: bool | int = False
    denoising_strength: float = 0.75
    image_cfg_scale: float | None = None


class PngInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What `png-info` is asked."""

    image: str


async def txt2img(request: Request) -> Response:
    """Draw from a prompt."""
    return await _draw(request, from_picture=False)


async def img2img(request: Request) -> Response:
    """Draw from a picture; with a mask, only what is white in that."""
    return await _draw(request, from_picture=True)


async def progress(request: Request) -> Response:
    """Tell how far the drawing that runs is."""
    queue: JobQueue = request.app.state.queue
    job = queue.running
    preview = None if job is None else await queue.preview(job)
    state = {
        "skipped": False,
        "interrupted": job is not None and job.cancellation.reason is not None,
        "stopping_generation": False,
        "job": "" if job is None else "drawing",  # whoever knows its id can read and cancel it
        "job_count": len(queue),
        "job_timestamp": "0",
        "job_no": 0,
        "sampling_step": 0 if job is None else job.step,
        "sampling_steps": 0 if job is None else job.steps,
    }
    return JSONResponse(
        {
            "progress": 0.0 if job is None else job.step / job.steps,
            "eta_relative": (queue.seconds_left(job) or 0.0) if job is not None else 0.0,
            "state": state,
            "current_image": None if preview is None else base64_text(preview),
            "textinfo": None,
        }
    )


async def interrupt(request: Request) -> Response:
    """Stop the drawing that runs."""
    queue: JobQueue = request.app.state.queue
    if queue.running is not None:
        queue.cancel(queue.running, "the drawing was interrupted")
    return JSONResponse({})


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
    """Name the one model."""
    pipeline = request.app.state.models.default
    hashes = list(pipeline.bundle.manifest.provenance.source_sha256.values())
    sha256 = hashes[0] if len(hashes) == 1 else None
    model = {
        "title": pipeline.name,
        "model_name": pipeline.name,
        "hash": sha256 and sha256[:10],
        "sha256": sha256,
        "filename": pipeline.bundle.manifest.provenance.source,
        "config": None,
    }
    return JSONResponse([model])


async def options(request: Request) -> Response:
    """Tell the options; setting them to what they are already is all that can be done."""
    if request.method == "GET":
        return JSONResponse(_options(request))
    _check_options(request, await read_json(request, dict[str, Any]))
    return JSONResponse(None)


async def png_info(request: Request) -> Response:
    """Tell how a picture was made, as it says itself."""
    asked = await read_json(request, PngInfo)
    content = await picture_bytes(asked.image, "image")
    texts = await request.app.state.uploads.texts(request, content, "image")
    return large_json({"info": texts.get("parameters", ""), "items": texts, "parameters": {}})


async def loras(request: Request) -> Response:
    """Name the LoRAs; where they lie is not told."""
    library = request.app.state.models.default.adapters.library
    return JSONResponse(
        [{"name": name, "alias": name, "path": path.name, "metadata": {}} for name, path in library.loras.items()]
    )


async def embeddings(request: Request) -> Response:
    """Tell the embeddings that are words, and those that cannot be."""
    adapters = request.app.state.models.default.adapters
    loaded = {word: _embedding(*concept.vectors.shape) for word, concept in adapters.concepts.items()}
    return JSONResponse({"loaded": loaded, "skipped": {name: _embedding() for name in adapters.skipped}})


async def refresh(request: Request) -> Response:
    """Look for LoRAs and embeddings again."""
    async with request.app.state.checking:
        await asyncio.to_thread(request.app.state.models.default.adapters.refresh)
    return JSONResponse(None)


def _empty(answer: object) -> Any:  # noqa: ANN401 - an endpoint
    async def nothing(_: Request) -> Response:
        """Name what there is of a kind that is not supported: nothing."""
        return JSONResponse(answer)

    return nothing


_EMPTY = {
    "scripts": {"txt2img": [], "img2img": []},
    "upscalers": [],
    "latent-upscale-modes": [],
    "sd-vae": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
}
"""What clients ask when they start."""

ROUTES = [
    Route("/sdapi/v1/txt2img", txt2img, methods=["POST"]),
    Route("/sdapi/v1/img2img", img2img, methods=["POST"]),
    Route("/sdapi/v1/progress", progress),
    Route("/sdapi/v1/interrupt", interrupt, methods=["POST"]),
    Route("/sdapi/v1/skip", interrupt, methods=["POST"]),
    Route("/sdapi/v1/samplers", samplers),
    Route("/sdapi/v1/schedulers", schedulers),
    Route("/sdapi/v1/sd-models", sd_models),
    Route("/sdapi/v1/options", options, methods=["GET", "POST"]),
    Route("/sdapi/v1/png-info", png_info, methods=["POST"]),
    Route("/sdapi/v1/loras", loras),
    Route("/sdapi/v1/embeddings", embeddings),
    Route("/sdapi/v1/refresh-loras", refresh, methods=["POST"]),
    Route("/sdapi/v1/refresh-embeddings", refresh, methods=["POST"]),
    *(Route(f"/sdapi/v1/{name}", _empty(answer)) for name, answer in _EMPTY.items()),
]


def _embedding(vectors: int | None = None, width: int | None = None) -> dict[str, Any]:
    return {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": width, "vectors": vectors}


async def _draw(request: Request, *, from_picture: bool) -> Response:
    job, answer, info = await _submit(request, from_picture=from_picture)
    with contextlib.suppress(Cancelled):  # an interrupted drawing has no pictures, but is no error
        await wait(request, job)
    wanted = job.pictures and answer["parameters"]["send_images"]
    answer["images"] = await picture_texts(request, job) if wanted else []
    return large_json({**answer, "info": json.dumps(info)})


async def _submit(request: Request, *, from_picture: bool) -> tuple[Job, dict[str, Any], dict[str, Any]]:
    """Return a job, and what is told of it when it is done: little, since it may have to wait."""
    sent = await read_json(request, dict[str, msgspec.Raw])
    if any(len(name) > _MOST_OF_A_NAME for name in sent):
        raise InvalidRequestError(f"a setting's name has at most {_MOST_OF_A_NAME} characters")
    sent = {name: value for name, value in sent.items() if bytes(value) != b"null"}
    _check_features(sent)
    asked = await asyncio.to_thread(_known, sent)
    _check_options(request, {k: v for k, v in asked.override_settings.items() if k != _CLIP_SKIP})
    job = await submit(request, await _order(request, asked, from_picture=from_picture))
    parameters = msgspec.to_builtins(msgspec.structs.replace(asked, init_images=(), mask=None))
    return job, {"parameters": parameters}, _info(job, _without_effect(job, sent, asked))


def _known(sent: dict[str, msgspec.Raw]) -> Generation:
    known = {name: value for name, value in sent.items() if name in Generation.__struct_fields__}
    return decode_json(msgspec.json.encode(known), Generation)


async def _order(request: Request, asked: Generation, *, from_picture: bool) -> Order:
    if from_picture != bool(asked.init_images) or len(asked.init_images) > 1:
        raise InvalidRequestError("img2img takes one of `init_images`, and txt2img none")
    mask = None
    if from_picture and asked.mask is not None:
        content = await picture_bytes(asked.mask, "mask")
        mask = await request.app.state.uploads.picture(request, content, "mask")
        if asked.inpainting_mask_invert:
            mask = ImageOps.invert(mask)
    manifest = request.app.state.models.default.bundle.manifest
    by_instructions = manifest.follows_instructions
    # Clients send these whatever the model; `_without_effect` names them.
    return Order(
        prompt=asked.prompt,
        negative_prompt="" if manifest.guides_itself else asked.negative_prompt,
        width=asked.width,
        height=asked.height,
        steps=asked.steps,
        guidance_scale=asked.cfg_scale,
        image_guidance_scale=asked.image_cfg_scale if by_instructions else None,
        **_sampling(asked, manifest.defaults.sampler),
        clip_skip=asked.override_settings.get(_CLIP_SKIP, 1),
        seed=None if asked.seed == -1 else asked.seed,
        count=asked.batch_size * asked.n_iter,
        image=await picture_bytes(asked.init_images[0], "init_images") if from_picture else None,
        mask=mask,
        strength=None if by_instructions else asked.denoising_strength,
    )


def _sampling(asked: Generation, usual: str) -> dict[str, Any]:
    """Return an order's sampler, scheduler and noise; `usual` is the model's own sampler.

    Clients send their own favourite sampler where nobody chose; one that is not here gives way to the model's, and the
    answer says which one drew. As in A1111, a scheduler in the sampler's name comes before another. Clients send `eta`
    whatever the sampler.
    """
    sampler = asked.sampler_name or asked.sampler_index
    known = _found(find_sampler, sampler)
    kind, named = known or find_sampler(usual)
    noise = {"eta": asked.eta, "s_noise": 1.0 if asked.s_noise is None else asked.s_noise}
    return {
        "sampler": sampler if known else None,
        "scheduler": named if known and named in SCHEDULERS else asked.scheduler,
        **(noise if kind.eta is not None else {}),
    }


def _without_effect(job: Job, sent: Collection[str], asked: Generation) -> list[str]:
    """Return the names of settings that were sent and changed nothing."""
    names = {name for name in sent if name not in Generation.__struct_fields__}
    drawing = job.drawing
    if drawing.kind.eta is None:
        names |= {"eta", "s_noise"} & set(sent)
    if drawing.manifest.guides_itself and asked.negative_prompt:
        names.add("negative_prompt")
    names |= {"denoising_strength" if drawing.manifest.follows_instructions else "image_cfg_scale"} & set(sent)
    for name in ("sampler_name", "sampler_index"):
        known = _found(find_sampler, getattr(asked, name))
        if getattr(asked, name) and (known is None or known[0] is not drawing.kind):
            names.add(name)
    scheduler = _found(find_scheduler, asked.scheduler)
    if scheduler is not None and scheduler.name != drawing.scheduler:
        names.add("scheduler")
    return sorted(names)[:_MOST_NAMES]


def _found(find: Callable[[str], Row], name: str | None) -> Row | None:
    """Look a name up that may be unknown, or missing."""
    if not name:
        return None
    try:
        return find(name)
    except InvalidRequestError:
        return None


def _info(job: Job, without_effect: list[str]) -> dict[str, Any]:
    facts = job.settings[0]
    return {
        "prompt": facts["prompt"],
        "all_prompts": [facts["prompt"]] * len(job.settings),
        "negative_prompt": facts["negative_prompt"],
        "all_negative_prompts": [facts["negative_prompt"]] * len(job.settings),
        "seed": facts["seed"],
        "all_seeds": [each["seed"] for each in job.settings],
        "width": facts["width"],
        "height": facts["height"],
        "sampler_name": job.drawing.kind.label,
        "scheduler": SCHEDULERS[facts["scheduler"]].label,
        "cfg_scale": facts["guidance_scale"],
        "clip_skip": facts["clip_skip"],
        "steps": facts["steps"],
        "batch_size": len(job.settings),
        "sd_model_name": facts["model"],
        "infotexts": job.infotexts,
        "warnings": list(job.warnings),
        "without_effect": without_effect,
    }


def _check_features(sent: dict[str, msgspec.Raw]) -> None:
    """Refuse what would change the picture and cannot be done."""
    wanted = [name for name in _FEATURES if name in sent and _decoded(sent[name])]
    scripts = _decoded(sent["alwayson_scripts"]) if "alwayson_scripts" in sent else {}
    if not isinstance(scripts, dict):
        wanted.append("alwayson_scripts")
    else:  # clients switch off what they know with empty arguments, or False alone
        wanted += [name for name, script in scripts.items() if _arguments(script) not in ([], [False], {})]
    if wanted:
        raise InvalidRequestError(f"{', '.join(map(str, wanted))}: not supported here; leave it out, or switch it off")


def _decoded(value: msgspec.Raw) -> object:
    return decode_json(bytes(value), object) if len(bytes(value)) <= _MOST_OF_A_FEATURE else True


def _arguments(script: object) -> object:
    return script.get("args", []) if isinstance(script, dict) else script


def _options(request: Request) -> dict[str, Any]:
    name = request.app.state.models.default_name
    return {"sd_model_checkpoint": name, "samples_format": "png", _CLIP_SKIP: 1}


def _check_options(request: Request, wanted: object) -> None:
    """Refuse options that are not as they are already, since none can be set."""
    current = _options(request)
    if not isinstance(wanted, dict):
        raise InvalidRequestError(f"options are an object with any of: {', '.join(current)}")
    for name, value in wanted.items():
        if name not in current or value != current[name]:
            possible = f"can only be {current[name]!r}" if name in current else f"is none of {', '.join(current)}"
            raise InvalidRequestError(f"option {name!s} {possible} here")
