"""How a picture was made, as its file says: by us, or by AUTOMATIC1111's web UI and what writes as that does."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from pocket_diffusion.drawing.images import METADATA_KEY
from pocket_diffusion.drawing.picture_file import Picture, read_texts
from pocket_diffusion.drawing.samplers import find_sampler
from pocket_diffusion.drawing.schedulers import find_scheduler
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.model.arithmetic import EXACT
from pocket_diffusion.order import LoraUse, Order

_TEXT_TO_IMAGE = "text-to-image"
_FACTS = {
    "Steps": ("steps", int),
    "CFG scale": ("guidance_scale", float),
    "Image CFG scale": ("image_guidance_scale", float),
    "Seed": ("seed", int),
    "Variation seed": ("variation_seed", int),
    "Variation seed strength": ("variation_strength", float),
    "Denoising strength": ("strength", float),
    "Mask blur": ("mask_feather", float),
    "Clip skip": ("clip_skip", int),
    "Eta": ("eta", float),
    "Sigma noise": ("s_noise", float),
    "CFG Rescale phi": ("guidance_rescale", float),
    "Token downsampling": ("token_downsampling", int),
    "Cache": ("cache", str),
}
"""Facts of the web UI's text, and our own among them: an order's field, and its type."""
_FACT_PATTERN = re.compile(r'([A-Z][\w ]*): ("(?:[^"\\]|\\.)*"|[^,]*)')
_HIRES = "Hires "
"""What the names of a second pass's facts begin with."""


class OtherModelWarning(UserWarning):
    """What is drawn again was drawn with another model."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What a picture says of how it was made."""

    fields: dict[str, Any]
    """An order's."""
    task: str = _TEXT_TO_IMAGE
    model: str | None = None
    """The bundle's name."""
    arithmetic: str | None = None
    """None where it is not told."""
    vae: str | None = None
    """Of `Pipeline.load`."""

    @property
    def starts_from_picture(self) -> bool:
        """Whether it was made of another picture, which is not in the file."""
        return self.task != _TEXT_TO_IMAGE


class _Own(msgspec.Struct, frozen=True, kw_only=True):
    """What our own files have beside an order's fields."""

    task: str = _TEXT_TO_IMAGE
    model: str | None = None
    arithmetic: str = EXACT
    vae: str | None = None
    pipeline_loras: tuple[LoraUse, ...] = ()
    first_pass: dict[str, Any] | None = None


def recorded_in(picture: Picture) -> Recorded:
    """Return what a picture says of how it was made.

    Raises:
        InvalidRequestError: it is no picture, says nothing, or says what cannot be drawn again.

    """
    texts = read_texts(picture)
    if METADATA_KEY in texts:
        return _of_own(texts[METADATA_KEY])
    recorded = _of_parameters(texts.get("parameters", ""))
    if recorded is None:
        raise InvalidRequestError("the picture does not say how it was made; take one of ours, or of AUTOMATIC1111's")
    return recorded


def _of_own(text: str) -> Recorded:
    try:
        said = msgspec.json.decode(text, type=dict[str, Any])
        own = msgspec.convert(said, _Own)
        fields = {name: value for name, value in said.items() if name in Order.__struct_fields__}
        order = msgspec.convert(fields, Order)  # whoever wrote it
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequestError(f"what the picture says of how it was made cannot be read: {error}") from None
    _check_passes(own.first_pass is not None)
    values = {name: getattr(order, name) for name in fields}
    if own.pipeline_loras:
        values["loras"] = (*own.pipeline_loras, *order.loras)
    return Recorded(fields=values, task=own.task, model=own.model, arithmetic=own.arithmetic, vae=own.vae)


def _of_parameters(text: str) -> Recorded | None:
    """Read the web UI's text: the prompt, `Negative prompt: …`, and a line of facts that begins with the steps."""
    lines = text.splitlines()
    last = next((i for i in reversed(range(len(lines))) if lines[i].startswith("Steps: ")), None)
    if last is None:
        return None
    prompt, _, negative = "\n".join(lines[:last]).partition("Negative prompt: ")
    facts = dict(_FACT_PATTERN.findall(lines[last]))
    _check_passes(any(name.startswith(_HIRES) for name in facts))
    fields: dict[str, Any] = {
        "prompt": prompt.strip(),
        "negative_prompt": negative.strip(),
        **_values(facts),
        **_sampling(facts),
    }
    if size := re.fullmatch(r"(\d{1,5})x(\d{1,5})", facts.get("Size", "")):
        fields |= {"width": int(size[1]), "height": int(size[2])}
    if interval := re.fullmatch(r"([\d.]{1,9})-([\d.]{1,9})", facts.get("Guidance interval", "")):
        fields["guidance_interval"] = float(interval[1]), float(interval[2])
    is_own = facts.get("Version", "").startswith("pocket-diffusion")
    arithmetic = facts.get("Arithmetic", EXACT) if is_own else None
    task = "image-to-image" if "strength" in fields else _TEXT_TO_IMAGE
    vae = facts.get("VAE") if is_own else None
    return Recorded(fields=fields, task=task, model=facts.get("Model"), arithmetic=arithmetic, vae=vae)


def _check_passes(are_two: bool) -> None:
    if are_two:
        raise InvalidRequestError("the picture was drawn in two passes, which is not done here; draw the first alone")


def _values(facts: Mapping[str, str]) -> dict[str, Any]:
    try:
        return {field: kind(facts[name]) for name, (field, kind) in _FACTS.items() if name in facts}
    except ValueError as error:
        raise InvalidRequestError(f"what the picture says of how it was made cannot be read: {error}") from None


def _sampling(facts: Mapping[str, str]) -> dict[str, str]:
    """Return the sampler and the scheduler; older versions wrote the latter behind the former: `DPM++ 2M Karras`."""
    found = {}
    if "Sampler" in facts:
        kind, named = find_sampler(facts["Sampler"])
        found = {"sampler": kind.name} if named is None else {"sampler": kind.name, "scheduler": named}
    if facts.get("Schedule type", "Automatic") != "Automatic":
        found["scheduler"] = find_scheduler(facts["Schedule type"]).name
    return found
