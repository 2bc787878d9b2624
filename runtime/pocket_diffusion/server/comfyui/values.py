"""What passes along the links of a graph: not tensors, but what the order is going to say."""

import msgspec

from pocket_diffusion.order import LoraUse, Order


class Model(msgspec.Struct, frozen=True):
    """A model by name, with LoRAs in it."""

    name: str
    loras: tuple[LoraUse, ...] = ()


class Clip(msgspec.Struct, frozen=True):
    """A model's text encoder, and which of its layers is read."""

    model: Model
    skip: int = 1


class Vae(msgspec.Struct, frozen=True):
    """A model's VAE."""

    model: Model


class Conditioning(msgspec.Struct, frozen=True):
    """A prompt, and what reads it."""

    text: str
    clip: Clip


class Mask(msgspec.Struct, frozen=True):
    """A part of a picture that was uploaded: what is transparent, or bright in a channel, is repainted."""

    picture: str
    channel: str = "alpha"
    inverted: bool = False
    grown: int = 0
    """Pixels."""


class Scaling(msgspec.Struct, frozen=True):
    """The size that a picture is brought to, and how, by Pillow's name."""

    width: int
    height: int
    method: str


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """An order without its pictures, and their names among those that were uploaded."""

    order: Order
    model: str
    picture: str | None = None
    scaling: Scaling | None = None
    mask: Mask | None = None


class Image(msgspec.Struct, frozen=True):
    """A picture: one that was uploaded, by its name, or one that is to be drawn."""

    source: str | Drawn
    scaling: Scaling | None = None


class Latent(msgspec.Struct, frozen=True, kw_only=True):
    """Where a drawing starts from: nothing of some size, or a picture; or what is drawn."""

    width: int | None = None
    height: int | None = None
    count: int = 1
    picture: str | None = None
    scaling: Scaling | None = None
    mask: Mask | None = None
    drawn: Drawn | None = None


LINK_TYPES: dict[type, str] = {
    Model: "MODEL",
    Clip: "CLIP",
    Vae: "VAE",
    Conditioning: "CONDITIONING",
    Image: "IMAGE",
    Mask: "MASK",
    Latent: "LATENT",
}
"""ComfyUI's names."""
