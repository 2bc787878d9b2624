"""Drawing as the web UI's API has it: from a prompt, from a picture, and in two passes."""

import asyncio
import contextlib
import json
from collections.abc import Collection
from typing import Any

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
from pocket_diffusion.server.a1111.asked import LANCZOS, Generation, found
from pocket_diffusion.server.a1111.options import changed, current
from pocket_diffusion.server.a1111.second_pass import SecondPass, is_same, least_strength
from pocket_diffusion.server.a1111.switches import check_features
from pocket_diffusion.server.answers import (
    base64_text,
    decode_json,
    large_json,
    picture_texts,
    pipeline_of,
    read_json,
    submit,
    wait,
)
from pocket_diffusion.server.jobs import Job, JobQueue
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.server.orders import picture_bytes, resolve_within

_MOST_NAMES, _MOST_OF_A_NAME = 100, 100


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
    no_preview = request.query_params.get("skip_current_image", "").lower() in ("true", "1")
    preview = None if job is None or no_preview else await queue.preview(job)
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
    job, model, answer, info, second_pass = await _submit(request, from_picture=from_picture)
    jobs = [job]
    with contextlib.suppress(Cancelled):  # an interrupted drawing has no pictures, or the first pass's, but is no error
        await wait(request, job)
        if second_pass is not None:
            drawn = [each async for each in second_pass.draw(request, job, model)]
            jobs = [second for second, _ in drawn]
            info |= {"width": second_pass.width, "height": second_pass.height}
            info["infotexts"] = [text for _, text in drawn]
    wanted = answer["parameters"]["send_images"]
    answer["images"] = [text for job in jobs for text in await picture_texts(request, job)] if wanted else []
    return large_json({**answer, "info": json.dumps(info)})


async def _submit(
    request: Request, *, from_picture: bool
) -> tuple[Job, str, dict[str, Any], dict[str, Any], SecondPass | None]:
    """Return a job, its model, and what is told of it and done with it when it is done: little, since it may wait."""
    sent = await read_json(request, dict[str, msgspec.Raw])
    if any(len(name) > _MOST_OF_A_NAME for name in sent):
        raise InvalidRequestError(f"a setting's name has at most {_MOST_OF_A_NAME} characters")
    sent = {name: value for name, value in sent.items() if bytes(value) != b"null"}
    check_features(sent)
    asked = await asyncio.to_thread(_known, sent)
    names = set(sent)
    del sent  # the body, which would wait until its pictures are read
    if from_picture:  # as in the web UI, which has no second pass here
        asked = msgspec.structs.replace(asked, enable_hr=False)
    options = changed(current(request), request.app.state.models, asked.override_settings)
    pipeline = await pipeline_of(request, options.model)
    manifest = pipeline.bundle.manifest
    order = await _order(request, asked, manifest, options.clip_skip, from_picture=from_picture)
    asked = msgspec.structs.replace(asked, init_images=(), mask=None)  # likewise
    second_pass = None
    if asked.enable_hr:
        state = request.app.state
        async with state.checking:
            second_pass = await asyncio.to_thread(_second_pass, asked, order, manifest, state.limits)
    job = await submit(request, order, options.model, described=False)
    job.is_to_be_kept = second_pass is None
    info = _info(job, [*_without_effect(job, names, asked), *options.without_effect])
    return job, options.model, {"parameters": msgspec.to_builtins(asked)}, info, second_pass


def _second_pass(asked: Generation, order: Order, manifest: Manifest, limits: Limits) -> SecondPass:
    return SecondPass.of(asked, resolve_within(order, manifest, limits), limits)


def _known(sent: dict[str, msgspec.Raw]) -> Generation:
    known = {name: value for name, value in sent.items() if name in Generation.__struct_fields__}
    values = decode_json(msgspec.json.encode(known), dict[str, Any])
    # Clients in JavaScript and Lua send -1.0 as they send -1.
    whole = {name: int(value) for name, value in values.items() if isinstance(value, float) and value.is_integer()}
    return msgspec.convert(values | whole, Generation)


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
        variation_seed=None if asked.subseed == -1 or not asked.subseed_strength else asked.subseed,
        variation_strength=asked.subseed_strength,
        count=asked.batch_size * asked.n_iter,
        image=await picture_bytes(asked.init_images[0], "init_images") if from_picture else None,
        mask=mask,
        mask_feather=0.0 if mask is None else asked.mask_blur,
        strength=_strength(asked, manifest) if from_picture else None,
    )


def _strength(asked: Generation, manifest: Manifest) -> float | None:
    if manifest.follows_instructions:
        return None
    return max(asked.denoising_strength, least_strength(asked.steps or manifest.defaults.steps))


def _sampling(asked: Generation, usual: str) -> dict[str, Any]:
    """Return an order's sampler, scheduler and noise; `usual` is the model's own sampler.

    Clients send their own favourite sampler where nobody chose; one that is not here gives way to the model's, and the
    answer says which one drew. As in A1111, a scheduler in the sampler's name comes before another. Clients send `eta`
    whatever the sampler.
    """
    sampler = asked.sampler_name or asked.sampler_index
    known = found(find_sampler, sampler)
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
        names |= {name for name in sent if name.startswith("hr_") or name == "enable_hr"}
    else:
        if asked.hr_upscaler != LANCZOS:
            names.add("hr_upscaler")
        if not is_same(asked.hr_sampler_name) and found(find_sampler, asked.hr_sampler_name) is None:
            names.add("hr_sampler_name")
        if not is_same(asked.hr_scheduler) and found(find_scheduler, asked.hr_scheduler) is None:
            names.add("hr_scheduler")
    if not drawing.is_varied:
        names |= {"subseed", "subseed_strength"} & set(sent)
    if drawing.mask is None:
        names |= {"mask_blur"} & set(sent)
    if drawing.kind.eta is None:
        names |= {"eta", "s_noise"} & set(sent)
    if drawing.manifest.guides_itself and asked.negative_prompt:
        names.add("negative_prompt")
    names |= {"denoising_strength" if drawing.manifest.follows_instructions else "image_cfg_scale"} & set(sent)
    for name in ("sampler_name", "sampler_index"):
        known = found(find_sampler, getattr(asked, name))
        if getattr(asked, name) and (known is None or known[0] is not drawing.kind):
            names.add(name)
    scheduler = found(find_scheduler, asked.scheduler)
    if scheduler is not None and scheduler.name != drawing.scheduler:
        names.add("scheduler")
    return sorted(names)[:_MOST_NAMES]


def _info(job: Job, without_effect: list[str]) -> dict[str, Any]:
    facts = job.settings[0]
    return {
        "prompt": facts["prompt"],
        "all_prompts": [facts["prompt"]] * len(job.settings),
        "negative_prompt": facts["negative_prompt"],
        "all_negative_prompts": [facts["negative_prompt"]] * len(job.settings),
        "seed": facts["seed"],
        "all_seeds": [each["seed"] for each in job.settings],
        "subseed": facts.get("variation_seed", -1),
        "all_subseeds": [each.get("variation_seed", -1) for each in job.settings],
        "subseed_strength": facts.get("variation_strength", 0.0),
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
