"""How a picture was made, in the two forms that a PNG carries."""

import json
from typing import Any

import msgspec

from pocket_diffusion.addon import TINY
from pocket_diffusion.drawing.adapters import NO_CHANGES, ModelChanges
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from pocket_diffusion.model.arithmetic import EXACT
from pocket_diffusion.order import LoraUse
from pocket_diffusion.version import __version__


def settings(
    drawing: Drawing, index: int, model: str, arithmetic: str = EXACT, changes: ModelChanges = NO_CHANGES
) -> dict[str, Any]:
    """Return what a program needs to draw picture `index` again: an order's fields, and what drew it.

    `loras` are the order's. Those that the pipeline had by itself, first of all, are in `pipeline_loras`: whoever draws
    again gives them to the pipeline. The second of two passes has the first one's in `first_pass`.

    The arithmetic is told where it is not exact, as it was for all pictures before there was another one.
    """
    order = drawing.order(index)
    fields = {name: getattr(order, name) for name in order.__struct_fields__ if name != "count"}
    if not drawing.strength_counts:
        del fields["strength"]
    for name in ("variation_strength", "mask_feather"):
        if not fields[name]:  # as for all pictures before there was such a thing
            del fields[name]
    fields["loras"] = [_without_nulls(use) for use in drawing.loras] or None
    fields = {name: value for name, value in fields.items() if value is not None}
    drawn_by: dict[str, Any] = {"version": __version__, "model": model, "task": drawing.task}
    for name, hashes in (
        ("lora_sha256", {lora.file.name: lora.file.hash.sha256 for lora in changes.loras}),
        ("embedding_sha256", {word: concept.hash.sha256 for word, concept in changes.concepts.items()}),
    ):
        if hashes:
            drawn_by[name] = hashes
    if changes.unnamed:
        drawn_by["pipeline_loras"] = [_without_nulls(use) for use in changes.unnamed]
    if arithmetic != EXACT:
        drawn_by["arithmetic"] = arithmetic
    if changes.has_tiny_vae:
        drawn_by["vae"] = TINY
    if drawing.first_pass is not None:
        drawn_by["first_pass"] = settings(drawing.first_pass, 0, model, arithmetic, changes)
    return {**drawn_by, **fields}


def parameters_text(
    drawing: Drawing, index: int, model: str, arithmetic: str = EXACT, changes: ModelChanges = NO_CHANGES
) -> str:
    """Return the same in the text form that AUTOMATIC1111's web UI writes and many tools read.

    All LoRAs are tags of the prompt there, since those tools know no others. Of two passes it tells the first, and then
    in what the second differs.
    """
    if drawing.first_pass is not None:
        first = parameters_text(drawing.first_pass, 0, model, arithmetic, changes)
        return f"{first}, {_facts_line(_second_pass(drawing, drawing.first_pass))}"
    lines = [" ".join([drawing.prompt, *map(_tag, (*changes.unnamed, *drawing.loras))])]
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
    if drawing.is_varied:
        facts["Variation seed"] = drawing.variation_seeds[index]
        facts["Variation seed strength"] = f"{drawing.variation_strength:g}"
    if drawing.image_guidance_scale is not None:
        facts["Image CFG scale"] = f"{drawing.image_guidance_scale:g}"
    if drawing.strength_counts:
        facts["Denoising strength"] = f"{drawing.strength:g}"
    if drawing.mask_feather:
        facts["Mask blur"] = f"{drawing.mask_feather:g}"
    if drawing.clip_skip != 1:
        facts["Clip skip"] = drawing.clip_skip
    if drawing.eta != drawing.kind.eta:
        facts["Eta"] = f"{drawing.eta:g}"
    if drawing.s_noise != 1:
        facts["Sigma noise"] = f"{drawing.s_noise:g}"
    if drawing.token_downsampling != 1:
        facts["Token downsampling"] = drawing.token_downsampling
    if drawing.cache_setting is not None:
        facts["Cache"] = drawing.cache
    if drawing.guidance_rescale:
        facts["CFG Rescale phi"] = f"{drawing.guidance_rescale:g}"
    if drawing.guidance_interval is not None:
        begin, end = drawing.guidance_interval
        facts["Guidance interval"] = f"{begin:g}-{end:g}"
    if arithmetic != EXACT:
        facts["Arithmetic"] = arithmetic
    if changes.has_tiny_vae:
        facts["VAE"] = TINY
    for name, hashes in (
        ("Lora hashes", {lora.file.name: lora.file.hash.short for lora in changes.loras}),
        ("TI hashes", {word: concept.hash.short for word, concept in changes.concepts.items()}),
    ):
        if hashes:
            facts[name] = '"{}"'.format(", ".join(f"{each}: {short}" for each, short in hashes.items()))
    facts["Version"] = f"pocket-diffusion {__version__}"
    lines.append(_facts_line(facts))
    return "\n".join(lines)


def _second_pass(drawing: Drawing, first: Drawing) -> dict[str, object]:
    """Return the facts of a second pass, by the web UI's names ("hires fix")."""
    facts: dict[str, object] = {
        "Denoising strength": f"{drawing.strength:g}",
        "Hires upscale": f"{drawing.width / first.width:g}",
        "Hires steps": drawing.steps_to_take,
        "Hires upscaler": "Lanczos",
    }
    if drawing.kind is not first.kind:
        facts["Hires sampler"] = drawing.kind.label
    if drawing.scheduler != first.scheduler:
        facts["Hires schedule type"] = SCHEDULERS[drawing.scheduler].label
    for name, own, other in (
        ("Hires prompt", drawing.prompt, first.prompt),
        ("Hires negative prompt", drawing.negative_prompt, first.negative_prompt),
    ):
        if own != other:
            facts[name] = json.dumps(own, ensure_ascii=False)
    return facts


def _facts_line(facts: dict[str, object]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in facts.items())


def _tag(use: LoraUse) -> str:
    """Return a LoRA as A1111's prompts name it: the text encoder's scale comes first."""
    if use.text_encoder_scale in (None, use.scale):
        return f"<lora:{use.name}:{use.scale:g}>"
    return f"<lora:{use.name}:{use.text_encoder_scale:g}:{use.scale:g}>"


def _without_nulls(use: LoraUse) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(use).items() if value is not None}
