"""How a picture was made, in the two forms that a PNG carries."""

from typing import Any

from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from pocket_diffusion.model.arithmetic import EXACT
from pocket_diffusion.version import __version__


def settings(drawing: Drawing, index: int, model: str, arithmetic: str = EXACT) -> dict[str, Any]:
    """Return what a program needs to draw picture `index` again: an order's fields, and what drew it.

    The arithmetic is told where it is not exact, as it was for all pictures before there was another one.
    """
    order = drawing.order(index)
    fields = {name: getattr(order, name) for name in order.__struct_fields__ if name != "count"}
    if drawing.image is None:
        del fields["strength"]
    fields = {name: value for name, value in fields.items() if value is not None}
    drawn_by = {"version": __version__, "model": model, "task": drawing.task}
    if arithmetic != EXACT:
        drawn_by["arithmetic"] = arithmetic
    return {**drawn_by, **fields}


def parameters_text(drawing: Drawing, index: int, model: str, arithmetic: str = EXACT) -> str:
    """Return the same in the text form that AUTOMATIC1111's web UI writes and many tools read."""
    lines = [drawing.prompt]
    if drawing.negative_prompt:
        lines.append(f"Negative prompt: {drawing.negative_prompt}")
    facts: dict[str, object] = {
        "Steps": drawing.steps,
        "Sampler": drawing.kind.label,
        "Schedule type": SCHEDULERS[drawing.scheduler].label,
        "CFG scale": f"{drawing.guidance_scale:g}",
        "Seed": drawing.seeds[index],
        "Size": f"{drawing.width}x{drawing.height}",
        "Model": model,
    }
    if drawing.image is not None:
        facts["Denoising strength"] = f"{drawing.strength:g}"
    if drawing.clip_skip != 1:
        facts["Clip skip"] = drawing.clip_skip
    if drawing.eta != drawing.kind.eta:
        facts["Eta"] = f"{drawing.eta:g}"
    if drawing.s_noise != 1:
        facts["Sigma noise"] = f"{drawing.s_noise:g}"
    if drawing.token_downsampling != 1:
        facts["Token downsampling"] = drawing.token_downsampling
    if drawing.guidance_rescale:
        facts["CFG Rescale phi"] = f"{drawing.guidance_rescale:g}"
    if drawing.guidance_interval is not None:
        begin, end = drawing.guidance_interval
        facts["Guidance interval"] = f"{begin:g}-{end:g}"
    if arithmetic != EXACT:
        facts["Arithmetic"] = arithmetic
    facts["Version"] = f"pocket-diffusion {__version__}"
    lines.append(", ".join(f"{key}: {value}" for key, value in facts.items()))
    return "\n".join(lines)
