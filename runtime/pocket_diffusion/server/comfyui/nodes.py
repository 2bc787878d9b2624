"""The nodes that a graph may have, by their names in ComfyUI: what each takes, gives, and means for the order."""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import msgspec

from pocket_diffusion.drawing.noise import MAX_SEED
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.order import LoraUse, Order
from pocket_diffusion.server.comfyui.values import (
    LINK_TYPES,
    Clip,
    Conditioning,
    Drawn,
    Image,
    Latent,
    Mask,
    Model,
    Scaling,
    Vae,
)

Run = TypeVar("Run", bound=Callable[..., Any])


def _chosen(choices: str) -> msgspec.Meta:
    return msgspec.Meta(max_length=200, extra={"choices": choices})


ModelName = Annotated[str, _chosen("models")]
LoraName = Annotated[str, _chosen("loras")]
SamplerName = Annotated[str, _chosen("samplers")]
SchedulerName = Annotated[str, _chosen("schedulers")]
PictureName = Annotated[str, _chosen("pictures")]
Nothing = Annotated[str, _chosen("nothing")]
"""A file of a kind that is not here."""
Whole = Annotated[int, msgspec.Meta(ge=0)]
Side = Annotated[int, msgspec.Meta(ge=8, le=4096)]
Count = Annotated[int, msgspec.Meta(ge=1, le=64)]
Scale = Annotated[float, msgspec.Meta(ge=-100, le=100)]
Switch = Literal["enable", "disable"]
ScalingMethod = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]

_METHODS = {
    "nearest-exact": "NEAREST",
    "bilinear": "BILINEAR",
    "area": "BOX",
    "bicubic": "BICUBIC",
    "lanczos": "LANCZOS",
}
"""By Pillow's names."""

_LEAST_DENOISE = 0.001


@dataclass(frozen=True)
class Node:
    """A kind of node."""

    name: str
    gives: tuple[type, ...]
    """The types of its outputs."""
    category: str
    run: Callable[..., Any]
    links: dict[str, type]
    """The types of those inputs that come from other nodes."""
    settings: type[msgspec.Struct]
    """The other inputs."""


NODES: dict[str, Node] = {}
ENDS = ("SaveImage", "PreviewImage")
"""Whose pictures are wanted."""


def node(name: str, *gives: type, category: str) -> Callable[[Run], Run]:
    """Add a function to the nodes; its parameters are the inputs, and it returns the output, or several."""

    def add(run: Run) -> Run:
        hints = get_type_hints(run, include_extras=True)
        defaults = {
            key: parameter.default
            for key, parameter in inspect.signature(run).parameters.items()
            if parameter.default is not parameter.empty
        }
        links = {key: hint for key, hint in hints.items() if hint in LINK_TYPES and key != "return"}
        settings = [
            (key, hint, defaults[key]) if key in defaults else (key, hint)
            for key, hint in hints.items()
            if key not in links and key != "return"
        ]
        settings.sort(key=len)
        NODES[name] = Node(name, gives, category, run, links, msgspec.defstruct(name, settings, frozen=True))
        return run

    return add


@node("CheckpointLoaderSimple", Model, Clip, Vae, category="loaders")
def load_checkpoint(ckpt_name: ModelName) -> tuple[Model, Clip, Vae]:
    """Name a model."""
    model = Model(ckpt_name)
    return model, Clip(model), Vae(model)


@node("UNETLoader", Model, category="advanced/loaders")
def load_unet(unet_name: Nothing) -> Model:
    """Refuse: there are whole models alone. Clients look for its list, which is empty."""
    raise InvalidRequestError(f"{unet_name!a} is not here; take a model of CheckpointLoaderSimple's")


@node("VAELoader", Vae, category="loaders")
def load_vae(vae_name: Nothing) -> Vae:
    """Refuse, likewise."""
    raise InvalidRequestError(f"{vae_name!a} is not here; take CheckpointLoaderSimple's")


@node("LoraLoader", Model, Clip, category="loaders")
def load_lora(
    model: Model, clip: Clip, lora_name: LoraName, strength_model: Scale = 1.0, strength_clip: Scale = 1.0
) -> tuple[Model, Clip]:
    """Add a LoRA to a model and its text encoder."""
    _check_same(model, clip)
    use = LoraUse(name=lora_name.removesuffix(".safetensors"), scale=strength_model, text_encoder_scale=strength_clip)
    changed = Model(model.name, (*model.loras, use))
    return changed, Clip(changed, clip.skip)


@node("CLIPSetLastLayer", Clip, category="conditioning")
def set_last_layer(clip: Clip, stop_at_clip_layer: Annotated[int, msgspec.Meta(ge=-24, le=-1)] = -1) -> Clip:
    """Say which layer of the text encoder is read."""
    return Clip(clip.model, -stop_at_clip_layer)


@node("CLIPTextEncode", Conditioning, category="conditioning")
def encode_text(clip: Clip, text: str) -> Conditioning:
    """Give a prompt, in which an embedding is a word like others."""
    return Conditioning(re.sub(r"\bembedding:", "", text), clip)


@node("EmptyLatentImage", Latent, category="latent")
def empty_latent(width: Side = 512, height: Side = 512, batch_size: Count = 1) -> Latent:
    """Start from noise alone."""
    return Latent(width=width, height=height, count=batch_size)


@node("LoadImage", Image, Mask, category="image")
def load_image(image: PictureName) -> tuple[Image, Mask]:
    """Name a picture that was uploaded, and what is transparent in it."""
    return Image(image), Mask(image)


@node("LoadImageMask", Mask, category="mask")
def load_mask(image: PictureName, channel: Literal["alpha", "red", "green", "blue"] = "alpha") -> Mask:
    """Name a mask that was uploaded."""
    return Mask(image, channel)


@node("ImageToMask", Mask, category="mask")
def image_to_mask(image: Image, channel: Literal["red", "green", "blue"] = "red") -> Mask:
    """Take a picture as a mask."""
    return Mask(_uploaded(image), channel)


@node("InvertMask", Mask, category="mask")
def invert_mask(mask: Mask) -> Mask:
    """Repaint the rest."""
    if mask.grown:
        raise InvalidRequestError("a mask that has grown cannot be inverted; invert it before")
    return Mask(mask.picture, mask.channel, not mask.inverted)


@node("ImageScale", Image, category="image/upscaling")
def scale_image(
    image: Image,
    upscale_method: ScalingMethod = "nearest-exact",
    width: Side = 512,
    height: Side = 512,
    crop: Literal["disabled"] = "disabled",
) -> Image:
    """Bring a picture to another size before it is drawn."""
    return Image(_uploaded(image), Scaling(width, height, _METHODS[upscale_method]))


@node("VAEEncode", Latent, category="latent")
def encode(pixels: Image, vae: Vae) -> Latent:
    """Start from a picture."""
    return Latent(picture=_uploaded(pixels), scaling=pixels.scaling)


@node("VAEEncodeForInpaint", Latent, category="latent/inpaint")
def encode_for_inpainting(
    pixels: Image, vae: Vae, mask: Mask, grow_mask_by: Annotated[int, msgspec.Meta(ge=0, le=64)] = 6
) -> Latent:
    """Repaint a part of a picture, and a little around it."""
    grown = msgspec.structs.replace(mask, grown=mask.grown + grow_mask_by)
    return Latent(picture=_uploaded(pixels), scaling=pixels.scaling, mask=grown)


@node("SetLatentNoiseMask", Latent, category="latent/inpaint")
def set_noise_mask(samples: Latent, mask: Mask) -> Latent:
    """Repaint a part alone."""
    if samples.picture is None:
        raise InvalidRequestError("a mask needs a picture to keep the rest of; take samples from VAEEncode")
    return msgspec.structs.replace(samples, mask=mask)


@node("KSampler", Latent, category="sampling")
def sample(
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    seed: Whole = 0,
    steps: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20,
    cfg: float = 8.0,
    sampler_name: SamplerName = "euler",
    scheduler: SchedulerName = "normal",
    denoise: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0,
) -> Latent:
    """Draw as many steps as are asked for; with a smaller `denoise`, as in ComfyUI, they are the last of more."""
    if denoise < _LEAST_DENOISE:
        raise InvalidRequestError(f"denoise {denoise:g} draws nothing; take {_LEAST_DENOISE:g} to 1")
    if latent_image.picture is None and denoise < 1:
        raise InvalidRequestError("an empty latent image is drawn with denoise 1; give a picture, or leave it at 1")
    in_all = math.ceil(steps / denoise)
    in_all += int(in_all * denoise) < steps  # lost to rounding
    return _drawn(model, positive, negative, latent_image, seed, in_all, cfg, sampler_name, scheduler, denoise)


@node("KSamplerAdvanced", Latent, category="sampling")
def sample_some_steps(
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    add_noise: Switch = "enable",
    noise_seed: Whole = 0,
    steps: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20,
    cfg: float = 8.0,
    sampler_name: SamplerName = "euler",
    scheduler: SchedulerName = "normal",
    start_at_step: Whole = 0,
    end_at_step: Whole = 10_000,
    return_with_leftover_noise: Switch = "disable",
) -> Latent:
    """Draw from some step to the last."""
    if add_noise != "enable" or return_with_leftover_noise != "disable" or end_at_step < steps:
        raise InvalidRequestError(
            "drawings end with the last step and begin with noise; take add_noise `enable`, "
            "return_with_leftover_noise `disable`, and an end_at_step of at least `steps`"
        )
    if start_at_step >= steps or (start_at_step and latent_image.picture is None):
        raise InvalidRequestError("start_at_step must be less than `steps`, and 0 without a picture")
    strength = min((steps - start_at_step + 0.5) / steps, 1.0)  # the half is lost to rounding
    return _drawn(model, positive, negative, latent_image, noise_seed, steps, cfg, sampler_name, scheduler, strength)


@node("VAEDecode", Image, category="latent")
def decode(samples: Latent, vae: Vae) -> Image:
    """Make a picture of what was drawn."""
    if samples.drawn is None:
        raise InvalidRequestError("only what a KSampler has drawn is decoded; take samples from one")
    return Image(samples.drawn)


@node("SaveImage", Drawn, category="image")
def save(images: Image, filename_prefix: str = "ComfyUI") -> Drawn:
    """Say that the pictures are wanted; their names here cannot be guessed, and so are not chosen."""
    return preview(images)


@node("PreviewImage", Drawn, category="image")
def preview(images: Image) -> Drawn:
    """Say that the pictures are wanted."""
    if isinstance(images.source, str):
        raise InvalidRequestError("an uploaded picture is not drawn; take images from VAEDecode")
    return images.source


def _drawn(
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    latent: Latent,
    seed: int,
    steps: int,
    cfg: float,
    sampler: str,
    scheduler: str,
    strength: float,
) -> Latent:
    if latent.drawn is not None:
        raise InvalidRequestError(
            "what was drawn cannot be drawn again in one graph; upload the picture, and draw that"
        )
    for prompt in (positive, negative):
        _check_same(model, prompt.clip)
    if positive.clip.skip != negative.clip.skip:
        raise InvalidRequestError("both prompts must be read by the same layer; use one CLIPSetLastLayer")
    order = Order(
        prompt=positive.text,
        negative_prompt=negative.text,
        width=latent.width,
        height=latent.height,
        steps=steps,
        sampler=sampler.removesuffix("_gpu"),  # where the noise is drawn, in ComfyUI
        scheduler=scheduler,
        guidance_scale=cfg,
        clip_skip=positive.clip.skip,
        loras=model.loras,
        seed=seed % (MAX_SEED + 1),  # clients draw 50 bits and more, of which PyTorch's generator takes the low 32 too
        count=latent.count,
        strength=None if latent.picture is None else strength,
    )
    return Latent(
        drawn=Drawn(order=order, model=model.name, picture=latent.picture, scaling=latent.scaling, mask=latent.mask)
    )


def _uploaded(image: Image) -> str:
    if not isinstance(image.source, str):
        raise InvalidRequestError(
            "what was drawn cannot be drawn again in one graph; upload the picture, and draw that"
        )
    return image.source


def _check_same(model: Model, clip: Clip) -> None:
    if clip.model != model:
        raise InvalidRequestError("the model and the prompts must come from the same checkpoint and LoRAs")
