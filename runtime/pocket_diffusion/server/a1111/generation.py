"""Drawing as the web UI's API has it: from a prompt, from a picture, and in two passes."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable, Collection
from typing import Annotated, Any, TypeVar

import msgspec
from PIL import ImageOps
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pocket_diffusion.bundle import Manifest
from pocket_diffusion.drawing.samplers import find_sampler
from pocket_diffusion.drawing.schedulers import SCHEDULERS, find_scheduler
from pocket_diffusion.errors import Cancelled, InvalidRequestError
from pocket_diffusion.order import Order
from pocket_diffusion.server.a1111.extras import LANCZOS
from pocket_diffusion.server.a1111.options import Options, changed, current
from pocket_diffusion.server.a1111.switches import check_features, is_off
from pocket_diffusion.server.answers import (
    base64_text,
    decode_json,
    kept_picture,
    large_json,
    picture_texts,
    pipeline_of,
    read_json,
    submit,
    wait,
)
from pocket_diffusion.server.jobs import Job, JobQueue
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.server.orders import picture_bytes

_MOST_NAMES, _MOST_OF_A_NAME = 100, 100
_SAME = "Use same "
"""How the web UI's lists say that the second pass is as the first."""
_LARGEST_OFF = 0.01
"""How far the second pass's proportions may be from the first's, for they are rounded."""

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
    # txt2img
    enable_hr: bool = False
    """Draw in two passes; the second begins with the first's picture, enlarged."""
    hr_scale: Annotated[float, msgspec.Meta(ge=1, le=8)] = 2
    hr_resize_x: Annotated[int, msgspec.Meta(ge=0)] = 0
    hr_resize_y: Annotated[int, msgspec.Meta(ge=0)] = 0
    hr_second_pass_steps: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    hr_upscaler: Name = LANCZOS
    """Whatever it says, Lanczos' filter enlarges."""
    hr_checkpoint_name: Name = ""
    hr_sampler_name: Name = ""
    hr_scheduler: Name = ""
    hr_prompt: str = ""
    hr_negative_prompt: str = ""


_ALWAYS_KEPT = ("guidance_scale", "clip_skip", "seed")
_KEPT_WITH_THE_SAMPLER = ("sampler", "scheduler", "eta", "s_noise")
"""What of the first pass the second has too."""


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


async def _draw(request: Request, *, from_picture: bool) -> Response:
    job, answer, info, second_pass = await _submit(request, from_picture=from_picture)
    jobs = [job]
    with contextlib.suppress(Cancelled):  # an interrupted drawing has no pictures, but is no error
        await wait(request, job)
        if second_pass is not None:
            jobs = [job async for job in second_pass.draw(request, job)]
    wanted = answer["parameters"]["send_images"]
    answer["images"] = [text for job in jobs for text in await picture_texts(request, job)] if wanted else []
    return large_json({**answer, "info": json.dumps(info)})


async def _submit(
    request: Request, *, from_picture: bool
) -> "tuple[Job, dict[str, Any], dict[str, Any], SecondPass | None]":
    """Return a job, and what is told of it and done with it when it is done: little, since it may have to wait."""
    sent = await read_json(request, dict[str, msgspec.Raw])
    if any(len(name) > _MOST_OF_A_NAME for name in sent):
        raise InvalidRequestError(f"a setting's name has at most {_MOST_OF_A_NAME} characters")
    sent = {name: value for name, value in sent.items() if bytes(value) != b"null"}
    check_features(sent)
    asked = await asyncio.to_thread(_known, sent)
    options = changed(current(request), request.app.state.models, asked.override_settings)
    pipeline = await pipeline_of(request, options.model)
    manifest = pipeline.bundle.manifest
    second_pass = _second_pass(asked, manifest, request.app.state.limits, options) if asked.enable_hr else None
    order = await _order(request, asked, manifest, options.clip_skip, from_picture=from_picture)
    job = await submit(request, order, options.model, described=False)
    parameters = msgspec.to_builtins(msgspec.structs.replace(asked, init_images=(), mask=None))
    info = _info(job, [*_without_effect(job, sent, asked), *options.without_effect])
    if second_pass is not None:
        info |= {"width": second_pass.width, "height": second_pass.height}
        info["infotexts"] = [text + second_pass.text for text in info["infotexts"]]
    return job, {"parameters": parameters}, info, second_pass


def _known(sent: dict[str, msgspec.Raw]) -> Generation:
    known = {name: value for name, value in sent.items() if name in Generation.__struct_fields__}
    values = decode_json(msgspec.json.encode(known), dict[str, Any])
    # Clients in JavaScript and Lua send -1.0 as they send -1.
    whole = {name: int(value) for name, value in values.items() if isinstance(value, float) and value.is_integer()}
    return msgspec.convert(values | whole, Generation)


def _second_pass(asked: Generation, manifest: Manifest, limits: Limits, options: Options) -> "SecondPass":
    """Return what `enable_hr` asks for.

    Raises:
        InvalidRequestError: the size is not one, or too large.

    """
    multiple = manifest.latents.downscale
    width, height = asked.width or manifest.defaults.width, asked.height or manifest.defaults.height
    scale_x, scale_y = asked.hr_resize_x / width, asked.hr_resize_y / height
    if scale_x and scale_y and abs(scale_x / scale_y - 1) > _LARGEST_OFF:
        raise InvalidRequestError("hr_resize_x and hr_resize_y must have the proportions of width and height")
    scale = scale_x or scale_y or asked.hr_scale
    sides = [max(int(side * scale) // multiple, 1) * multiple for side in (width, height)]
    if sides[0] * sides[1] > limits.pixels:
        raise InvalidRequestError(
            f"the second pass has {sides[0]}x{sides[1]} pixels; at most {limits.pixels:,} are drawn here; "
            "lower hr_scale, or hr_resize_x and hr_resize_y"
        )
    if not is_off(asked.hr_checkpoint_name) and not asked.hr_checkpoint_name.startswith(_SAME):
        raise InvalidRequestError("hr_checkpoint_name: not supported here; leave it out")
    steps = asked.hr_second_pass_steps or asked.steps or manifest.defaults.steps
    strength = max(asked.denoising_strength, _least_strength(steps))
    return SecondPass(
        width=sides[0],
        height=sides[1],
        strength=strength,
        # As in the web UI, so many steps are taken, and the strength says from where.
        steps=min(int(steps / strength), limits.steps),
        prompt=asked.hr_prompt,
        negative_prompt=asked.hr_negative_prompt,
        sampler=asked.hr_sampler_name if _found(find_sampler, asked.hr_sampler_name) else None,
        scheduler=asked.hr_scheduler if _found(find_scheduler, asked.hr_scheduler) else None,
        model=options.model,
        text=f", Denoising strength: {strength:g}, Hires upscale: {scale:g}, Hires steps: {steps}, "
        f"Hires upscaler: {LANCZOS}",
    )


class SecondPass(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures of a first pass, enlarged by Lanczos' filter and redrawn ("hires fix")."""

    width: int
    height: int
    strength: float
    steps: int
    prompt: str
    """Empty for the first pass's; so is the negative prompt."""
    negative_prompt: str
    sampler: str | None
    """None for the first pass's, with all that goes with it."""
    scheduler: str | None
    """None for the first pass's, or where that has another sampler, for the sampler's own."""
    model: str
    text: str
    """What of it an infotext says."""

    async def draw(self, request: Request, first: Job) -> AsyncIterator[Job]:
        """Redraw the pictures one by one, and yield the jobs that are done.

        Raises:
            PocketDiffusionError: see `submit` and `wait`.

        """
        for name, settings in zip(first.pictures, first.settings, strict=True):
            job = await submit(request, await self._order(request, name, settings), self.model, described=False)
            await wait(request, job)
            yield job

    async def _order(self, request: Request, name: str, settings: dict[str, Any]) -> Order:
        kept = _ALWAYS_KEPT if self.sampler else (*_ALWAYS_KEPT, *_KEPT_WITH_THE_SAMPLER)
        same = {name: settings[name] for name in kept if name in settings}
        asked = {name: value for name in ("sampler", "scheduler") if (value := getattr(self, name)) is not None}
        return Order(
            **same | asked,
            prompt=self.prompt or settings["prompt"],
            negative_prompt=self.negative_prompt or settings["negative_prompt"],
            width=self.width,
            height=self.height,
            steps=self.steps,
            strength=self.strength,
            image=await kept_picture(request, name),
        )


def _least_strength(steps: int) -> float:
    """Return the strength that leaves one step, which the web UI takes at least."""
    return math.ceil(1000 / steps) / 1000


async def _order(
    request: Request, asked: Generation, manifest: Manifest, clip_skip: int, *, from_picture: bool
) -> Order:
    if from_picture != bool(asked.init_images) or len(asked.init_images) > 1:
        raise InvalidRequestError("img2img takes one of `init_images`, and txt2img none")
    mask = None
    if from_picture and asked.mask is not None:
        content = await picture_bytes(asked.mask, "mask")
        mask = await request.app.state.uploads.picture(request, content, "mask")
        if asked.inpainting_mask_invert:
            mask = ImageOps.invert(mask)
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
        clip_skip=clip_skip,
        seed=None if asked.seed == -1 else asked.seed,
        count=asked.batch_size * asked.n_iter,
        image=await picture_bytes(asked.init_images[0], "init_images") if from_picture else None,
        mask=mask,
        strength=_strength(asked, manifest) if from_picture else None,
    )


def _strength(asked: Generation, manifest: Manifest) -> float | None:
    if manifest.follows_instructions:
        return None
    return max(asked.denoising_strength, _least_strength(asked.steps or manifest.defaults.steps))


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
    if not asked.enable_hr:
        names |= {name for name in sent if name.startswith("hr_")}
    else:
        names |= {"hr_upscaler"} if asked.hr_upscaler != LANCZOS else set()
        for name, find in (("hr_sampler_name", find_sampler), ("hr_scheduler", find_scheduler)):
            value = getattr(asked, name)
            if not (is_off(value) or value.startswith(_SAME) or _found(find, value)):
                names.add(name)
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


ROUTES = [
    Route("/sdapi/v1/txt2img", txt2img, methods=["POST"]),
    Route("/sdapi/v1/img2img", img2img, methods=["POST"]),
    Route("/sdapi/v1/progress", progress),
    Route("/sdapi/v1/interrupt", interrupt, methods=["POST"]),
    Route("/sdapi/v1/skip", interrupt, methods=["POST"]),
]
