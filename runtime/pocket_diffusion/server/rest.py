"""Our own API: drawings as jobs, to be created, followed, cancelled, and fetched from."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import repeat
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pocket_diffusion.drawing.caches import CACHES, MOST
from pocket_diffusion.drawing.resolve import bundle_obstacle
from pocket_diffusion.drawing.samplers import SAMPLERS, find_sampler
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from pocket_diffusion.order import Order
from pocket_diffusion.server.answers import (
    LargeAnswer,
    base64_text,
    event_stream,
    followed,
    picture_url,
    pipeline_of,
    read_json,
    server_sent_event,
    submit,
    url_of,
    wait,
)
from pocket_diffusion.server.jobs import Job, State
from pocket_diffusion.server.openapi import Operation

_PICTURE_HEADERS = {
    "Cache-Control": "private, max-age=86400, immutable",
    "Cross-Origin-Resource-Policy": "cross-origin",  # other pages may show what they had drawn
}


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A finished picture."""

    url: str
    seed: int
    settings: dict[str, Any]
    """How to draw it again."""
    kept: str | None = None
    """Where it stays, if the server keeps pictures: `url` is forgotten in time."""


class KeptPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A picture that the server keeps."""

    url: str
    seed: int
    settings: dict[str, Any]
    """How to draw it again."""
    created: str
    """When, in UTC (ISO 8601)."""


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """What is not there any more."""

    name: str


class Gallery(msgspec.Struct, frozen=True, kw_only=True):
    """The pictures that the server keeps."""

    kept: bool
    """Whether it keeps any."""
    pictures: list[KeptPicture]
    """The newest, the newest first."""


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """Where a drawing stands."""

    id: str
    state: State
    position: int
    """How many drawings come before it."""
    step: int
    steps: int
    seconds_left: float | None
    """An estimate; null where nothing was drawn yet to tell by."""
    error: str | None
    """Why there is no picture."""
    warnings: Sequence[str]
    """What the model does not read, for example."""
    pictures: list[Picture]
    preview: str | None
    """A `data:` URL of what the first picture looks like so far, a pixel for eight by eight."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What draws, its defaults, and what is taken at most."""

    name: str
    license: str | None
    width: int
    height: int
    steps: int
    guidance_scale: float
    image_guidance_scale: float | None
    """Null where it does not change a picture as the prompt says."""
    guides_itself: bool
    """It has learnt guidance, and takes no negative prompt, `guidance_rescale` or `guidance_interval`."""
    repaints: bool
    """It is made for repainting what a mask shows; without one, it repaints all."""
    follows_instructions: bool
    """It changes a picture as the prompt says; it needs one, and takes no mask and no strength."""
    sampler: str
    scheduler: str | None
    """Null is the sampler's own."""
    samplers: list[str]
    schedulers: list[str]
    caches: list[str]
    """Those that its bundle can have."""
    cache: str | None
    """That of orders that say nothing of one, where their sampler and steps allow it; null is none."""
    multiple: int
    """Sides are multiples of this."""
    max_pixels: int
    max_steps: int
    max_count: int
    vocabulary: list[str] | None
    """The words that the model knows; null where it knows too many to tell."""
    examples: list[str]
    """Prompts that it draws well."""


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """What may draw."""

    default: str
    """What draws where an order names none."""
    names: list[str]


class JobOrder(Order, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order, and what is to draw it."""

    model: str | None = None
    """A name of `/api/models`; null is the default one."""
    keep: bool = True
    """Whether its pictures are to stay, where the server keeps any; sketches need not."""


class SamplerView(msgspec.Struct, frozen=True, kw_only=True):
    """A way from noise to a picture."""

    name: str
    label: str
    summary: str
    evaluations: int
    """Of the U-Net, a step."""
    scheduler: str | None
    """The one that it is used with where none is asked for; null is the checkpoint's own spacing."""
    schedulers: list[str]
    """Those that go with it."""
    eta: float | None
    """The fresh noise that it adds where nothing else is asked for; null where it adds none."""


class SchedulerView(msgspec.Struct, frozen=True, kw_only=True):
    """A way to space the noise levels."""

    name: str
    label: str
    summary: str


class CacheView(msgspec.Struct, frozen=True, kw_only=True):
    """A way to make fewer evaluations of the model."""

    name: str
    summary: str
    usual: int
    """The N of `name:N` where the name stands alone: every N-th step or evaluation is made in full."""
    most: int
    """The largest N."""


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """All samplers, schedulers and caches."""

    samplers: list[SamplerView]
    schedulers: list[SchedulerView]
    caches: list[CacheView]


class Adapters(msgspec.Struct, frozen=True, kw_only=True):
    """What orders and prompts may name beside the model."""

    loras: list[str]
    """For an order's `loras`, and for prompts: `<lora:name:0.8>`."""
    embeddings: list[str]
    """Words that prompts may use (textual inversion)."""


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt, in the form of the original app."""

    text: str


class ImageUrl(msgspec.Struct, frozen=True, kw_only=True):
    """Where the picture is."""

    image_url: str


async def view(request: Request, job: Job) -> JobView:
    """Return what a client may know of a job."""
    queue = request.app.state.queue
    preview = await queue.preview(job)
    return JobView(
        id=job.id,
        state=job.state,
        position=queue.position(job),
        step=job.step,
        steps=job.steps,
        seconds_left=queue.seconds_left(job),
        error=None if job.error is None else str(job.error),
        warnings=job.warnings,
        pictures=[
            Picture(
                url=picture_url(request, name),
                seed=settings["seed"],
                settings=settings,
                kept=None if kept is None else url_of(request, f"/gallery/{kept}"),
            )
            for name, settings, kept in zip(job.pictures, job.settings, job.kept or repeat(None), strict=False)
        ],
        preview=None if preview is None else f"data:image/png;base64,{base64_text(preview)}",
    )


async def create_job(request: Request) -> Response:
    """Queue a drawing and answer at once."""
    asked = await read_json(request, JobOrder)
    job = await submit(request, *order_and_model(asked))
    job.is_to_be_kept = asked.keep
    return _json(await view(request, job), 202)


async def read_job(request: Request) -> Response:
    """Answer where a drawing stands."""
    return _json(await view(request, _job(request)))


async def delete_job(request: Request) -> Response:
    """Cancel a drawing; or, where it is over, forget it and delete its pictures."""
    job, queue = _job(request), request.app.state.queue
    if job.state.is_final:
        queue.forget(job)
        return _json(await view(request, job))
    queue.cancel(job)
    return _json(await view(request, job), 202)


async def follow_job(request: Request) -> Response:
    """Send a job's view at each change, until it is over."""
    job = _job(request)

    async def tell(is_over: bool) -> AsyncIterator[bytes]:
        now = await view(request, job)
        if is_over or not now.state.is_final:  # the end that came while it was looked at is told next
            yield server_sent_event(now.state, now)

    return event_stream(followed(request, job, tell))


async def read_models(request: Request) -> Response:
    """Answer which models there are."""
    models = request.app.state.models
    return _json(Models(default=models.default_name, names=models.names))


async def read_model(request: Request) -> Response:
    """Answer what draws here by default."""
    return await _model(request, request.app.state.models.default_name)


async def read_named_model(request: Request) -> Response:
    """Answer what a model is."""
    name = request.path_params["name"]
    if name not in request.app.state.models.names:
        raise HTTPException(404, "there is no such model; `/api/models` names those that are here")
    return await _model(request, name)


async def _model(request: Request, name: str) -> Response:
    state = request.app.state
    bundle = (await pipeline_of(request, name)).bundle
    manifest, vocabulary = bundle.manifest, bundle.vocabulary()
    defaults = manifest.defaults
    kind, named = find_sampler(defaults.sampler)
    return _json(
        Model(
            name=name,
            license=manifest.provenance.license,
            width=defaults.width,
            height=defaults.height,
            steps=defaults.steps,
            guidance_scale=defaults.guidance_scale,
            image_guidance_scale=defaults.image_guidance_scale if manifest.follows_instructions else None,
            guides_itself=manifest.guides_itself,
            repaints=manifest.repaints,
            follows_instructions=manifest.follows_instructions,
            sampler=kind.name,
            scheduler=defaults.scheduler or named,
            samplers=list(SAMPLERS),
            schedulers=list(SCHEDULERS),
            caches=[name for name, kind in CACHES.items() if bundle_obstacle(kind, manifest) is None],
            cache=None if state.usual_cache is None else str(state.usual_cache),
            multiple=manifest.latents.downscale,
            max_pixels=state.limits.pixels,
            max_steps=state.limits.steps,
            max_count=state.limits.count,
            vocabulary=None if vocabulary is None else list(vocabulary.words),
            examples=[] if vocabulary is None else list(vocabulary.examples),
        )
    )


async def read_samplers(_: Request) -> Response:
    """Answer which samplers, schedulers and caches there are."""
    return _json(
        Choices(
            samplers=[
                SamplerView(
                    name=kind.name,
                    label=kind.label,
                    summary=kind.summary,
                    evaluations=kind.evaluations,
                    scheduler=kind.scheduler,
                    schedulers=[name for name in SCHEDULERS if kind.takes(name)],
                    eta=kind.eta,
                )
                for kind in SAMPLERS.values()
            ],
            schedulers=[
                SchedulerView(name=row.name, label=row.label, summary=row.summary) for row in SCHEDULERS.values()
            ],
            caches=[
                CacheView(name=row.name, summary=row.summary, usual=row.usual, most=MOST) for row in CACHES.values()
            ],
        )
    )


async def read_adapters(request: Request) -> Response:
    """Answer which LoRAs and embeddings there are, by default for the default model."""
    adapters = (await pipeline_of(request, request.query_params.get("model"))).adapters
    return _json(Adapters(loras=sorted(adapters.library.loras), embeddings=sorted(adapters.concepts)))


async def refresh_adapters(request: Request) -> Response:
    """Look for LoRAs, embeddings and models again, and answer which LoRAs and embeddings there are."""
    async with request.app.state.checking:
        await asyncio.to_thread(request.app.state.models.refresh)
    return await read_adapters(request)


async def read_picture(request: Request) -> Response:
    """Send a finished picture, with how it was made in its metadata."""
    content = await asyncio.to_thread(request.app.state.queue.pictures.read, request.path_params["name"])
    if content is None:
        raise HTTPException(404, "there is no such picture (any more)")
    return LargeAnswer(content, media_type="image/png", headers=_PICTURE_HEADERS)


async def read_gallery(request: Request) -> Response:
    """Answer which pictures the server keeps."""
    album = request.app.state.queue.album
    if album is None:
        return _json(Gallery(kept=False, pictures=[]))
    pictures = [
        KeptPicture(
            url=url_of(request, f"/gallery/{each.name}"),
            seed=each.settings["seed"],
            settings=each.settings,
            created=each.created,
        )
        for each in await asyncio.to_thread(album.pictures)
    ]
    return LargeAnswer(msgspec.json.encode(Gallery(kept=True, pictures=pictures)), media_type="application/json")


async def read_kept_picture(request: Request) -> Response:
    """Send a picture that the server keeps."""
    album, name = request.app.state.queue.album, request.path_params["name"]
    content = None if album is None else await asyncio.to_thread(album.read, name)
    if content is None:
        raise HTTPException(404, "there is no such picture (any more)")
    return LargeAnswer(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})


async def delete_kept_picture(request: Request) -> Response:
    """Delete a picture that the server keeps."""
    album, name = request.app.state.queue.album, request.path_params["name"]
    if album is None or not await asyncio.to_thread(album.delete, name):
        raise HTTPException(404, "there is no such picture (any more)")
    return _json(Deleted(name=name))


async def generate(request: Request) -> Response:
    """Draw a prompt with the model's defaults, and answer when the picture is there."""
    job = await submit(request, Order(prompt=(await read_json(request, Text)).text))
    await wait(request, job)
    return _json(ImageUrl(image_url=picture_url(request, job.pictures[0])))


_NOT_FOUND = {404: "There is no such thing (any more)."}
_REFUSED = {
    400: "The body is not JSON.",
    413: "The body is too large.",
    422: "Something in the body cannot be drawn with; the message says what is allowed.",
    429: "Too many drawings wait; try again later.",
}

OPERATIONS = [
    Operation("GET", "/api/model", read_model, answers={200: Model}),
    Operation("GET", "/api/models", read_models, answers={200: Models}),
    Operation("GET", "/api/models/{name}", read_named_model, answers={200: Model, **_NOT_FOUND}),
    Operation("GET", "/api/samplers", read_samplers, answers={200: Choices}),
    Operation("GET", "/api/adapters", read_adapters, answers={200: Adapters}),
    Operation("POST", "/api/adapters/refresh", refresh_adapters, answers={200: Adapters}),
    Operation("POST", "/api/jobs", create_job, body=JobOrder, answers={202: JobView, **_REFUSED}),
    Operation("GET", "/api/jobs/{id}", read_job, answers={200: JobView, **_NOT_FOUND}),
    Operation(
        "DELETE",
        "/api/jobs/{id}",
        delete_job,
        answers={200: JobView, 202: JobView, **_NOT_FOUND},
        notes="202: the drawing is cancelled, at once where it waits and within moments where it is drawn; its events "
        "end with the state `cancelled`, and it can still be asked for. 200: the drawing was over; its pictures are "
        "deleted, but those that stay in the gallery, and its id is not found any more.",
    ),
    Operation(
        "GET",
        "/api/jobs/{id}/events",
        follow_job,
        answers={200: JobView, **_NOT_FOUND},
        media_type="text/event-stream",
        notes="The events are named by the job's state, and each carries its view as JSON. A drawing whose last "
        "follower goes away is cancelled after some seconds; one that nobody ever followed is drawn.",
    ),
    Operation(
        "GET",
        "/pictures/{name}",
        read_picture,
        answers={200: bytes, 429: "Clients leave too much unread; try again later.", **_NOT_FOUND},
        media_type="image/png",
    ),
    Operation("GET", "/api/gallery", read_gallery, answers={200: Gallery}),
    Operation(
        "GET",
        "/gallery/{name}",
        read_kept_picture,
        answers={200: bytes, 429: "Clients leave too much unread; try again later.", **_NOT_FOUND},
        media_type="image/png",
    ),
    Operation("DELETE", "/gallery/{name}", delete_kept_picture, answers={200: Deleted, **_NOT_FOUND}),
    Operation(
        "POST",
        "/generate",
        generate,
        body=Text,
        answers={200: ImageUrl, 409: "The drawing was cancelled.", **_REFUSED},
    ),
]


def _job(request: Request) -> Job:
    job: Job | None = request.app.state.queue.find(request.path_params["id"])
    if job is None:
        raise HTTPException(404, "there is no such job (any more)")
    return job


def order_and_model(asked: JobOrder) -> tuple[Order, str | None]:
    """Return what is to be drawn, and by which model."""
    return Order(**{name: getattr(asked, name) for name in Order.__struct_fields__}), asked.model


def _json(content: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
