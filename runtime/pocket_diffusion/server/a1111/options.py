"""The web UI's options: those that say what is drawn with, and many that say what there is not to choose."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server.a1111.switches import is_off
from pocket_diffusion.server.answers import read_json
from pocket_diffusion.server.models import Models

CHECKPOINT, CLIP_SKIP = "sd_model_checkpoint", "CLIP_stop_at_last_layers"
"""The options that change what is drawn."""
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "sd_vae": ("Automatic", "None"),
    "samples_format": ("png",),
    "inpainting_mask_weight": (1,),
    "randn_source": ("CPU",),
    "eta_noise_seed_delta": (0,),
    "initial_noise_multiplier": (1,),
    "token_merging_ratio": (0,),
    "ddim_discretize": ("uniform",),
    "comma_padding_backtrack": (20,),
    "emphasis": ("Original",),
    "sd_unet": ("Automatic", "None"),
}
"""What others may be that change a picture there; for all that are not named here, see `_HARMLESS`."""
_HARMLESS = ("save", "samples_save", "samples_filename", "grid", "return", "outdir", "directories", "live_previews",
             "show_progress", "do_not", "add_model", "jpeg", "webp")  # fmt: skip
"""What the names of options begin with that say nothing of how a picture is drawn."""
_MOST_NAMES = 100


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the options say of a drawing."""

    model: str
    clip_skip: int = 1
    without_effect: tuple[str, ...] = ()
    """The names of those that were sent and change nothing."""


async def options(request: Request) -> Response:
    """Tell the options, or set them for all who draw by this API and say nothing else."""
    if request.method == "GET":
        return JSONResponse(_shown(current(request)))
    request.app.state.a1111_options = await asyncio.to_thread(
        changed, current(request), request.app.state.models, await read_json(request, dict[str, Any])
    )
    return JSONResponse(None)


def current(request: Request) -> Options:
    """Return what the options are now."""
    state = request.app.state
    known: Options | None = getattr(state, "a1111_options", None)
    return known or Options(model=state.models.default_name)


def changed(options: Options, models: Models, sent: Mapping[str, Any]) -> Options:
    """Return what the options are with those that are sent.

    Raises:
        InvalidRequestError: one of them cannot be had; tells what it can be.

    """
    if len(sent) > _MOST_NAMES:
        raise InvalidRequestError(f"{len(sent)} options are too many; send at most {_MOST_NAMES}")
    model, clip_skip, without_effect = options.model, options.clip_skip, []
    for name, value in sent.items():
        if name == CHECKPOINT:
            model = options.model if is_off(value) else _model(value, models)
        elif name == CLIP_SKIP:
            clip_skip = _clip_skip(value)
        elif is_off(value) or value in _NEUTRAL.get(name, ()) or name.startswith(_HARMLESS):
            without_effect.append(name)
        else:
            possible = _NEUTRAL.get(name)
            raise InvalidRequestError(
                f"option {name} can only be {possible[0]!r} here"
                if possible
                else f"option {name} cannot be had here; leave it out"
            )
    return Options(model=model, clip_skip=clip_skip, without_effect=tuple(without_effect))


def _model(value: object, models: Models) -> str:
    """Return a model's name, which clients send with a file's ending, or the beginning of a hash in brackets."""
    sent = str(value)[:200]
    name = sent.partition(" [")[0]
    for each in (sent, name, name.removesuffix(".safetensors").removesuffix(".ckpt")):
        if each in models.names:
            return each
    shown = ", ".join(map(repr, models.names[:5])) + (", …" if len(models.names) > 5 else "")
    raise InvalidRequestError(f"{CHECKPOINT} can be {shown} here, not {name[:60]!a}")


def _clip_skip(value: object) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value) and 0 <= value <= 100:
        return max(int(value), 1)
    raise InvalidRequestError(
        f"{CLIP_SKIP} is a whole number: which of the text encoder's layers is read from the last"
    )


def _shown(options: Options) -> dict[str, Any]:
    neutral = {name: values[0] for name, values in _NEUTRAL.items()}
    return {CHECKPOINT: options.model, CLIP_SKIP: options.clip_skip, **neutral}


ROUTES = [Route("/sdapi/v1/options", options, methods=["GET", "POST"])]
