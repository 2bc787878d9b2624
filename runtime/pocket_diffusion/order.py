"""What is asked for: one struct for Python, the command line, every HTTP front, and the metadata of a PNG."""

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pocket_diffusion.drawing.picture_file import Picture
else:
    # msgspec goes by this: in JSON a picture is a file's content in Base64, and never a path on the server.
    Picture = bytes


class LoraUse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA of the folder that was given, and how much of it is wanted: 1 is as it was trained."""

    name: str
    """The file's, without its ending."""
    scale: float = 1.0
    """Of the U-Net's layers, and of the text encoder's where those have no scale of their own."""
    text_encoder_scale: float | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pictures to be drawn. An option that is left out, or null, is the model's own default."""

    prompt: str
    """What to draw, as AUTOMATIC1111 reads it: `(word:1.3)`, `[from:to:0.5]`, `[one|other]`, `BREAK`, `<lora:name>`."""
    negative_prompt: str = ""
    """What not to draw."""

    # the picture's size
    width: int | None = None
    """Pixels, a multiple of 8."""
    height: int | None = None
    """Pixels, a multiple of 8."""

    # the way from noise to a picture
    steps: int | None = None
    """With an image, the model's own number grows to the least of which `strength` leaves one to draw, up to 50."""
    sampler: str | None = None
    """By our name, AUTOMATIC1111's label, or diffusers' class name."""
    scheduler: str | None = None
    """How the noise levels are spaced, by name or label; null is the sampler's own."""
    eta: float | None = None
    """How much fresh noise a sampler adds, 0 to 1; null is the sampler's own."""
    s_noise: float = 1.0
    """What that noise is multiplied by."""

    # how the prompt is followed
    guidance_scale: float | None = None
    """How strictly the prompt is followed; 1 turns guidance off."""
    guidance_rescale: float = 0.0
    """How much of the contrast that guidance adds is taken back, 0 to 1 (Lin et al. 2023, section 3.4)."""
    guidance_interval: tuple[float, float] | None = None
    """The part of the way that is guided, such as 0.2 to 0.8 of the steps (Kynkäänniemi et al. 2024)."""
    image_guidance_scale: float | None = None
    """How strictly the picture is kept that a prompt changes, from 1; for InstructPix2Pix alone, where it is guided."""
    clip_skip: int = 1
    """Which of the text encoder's layers is read, counted from the last."""

    # what changes the weights
    loras: tuple[LoraUse, ...] = ()
    """Beside those that the prompt names."""

    # what is traded for time
    token_downsampling: int = 1
    """N lets the finest self-attention look at every N-th token of every N-th row (Smith et al. 2024, "ToDo")."""
    cache: str | None = None
    """What is taken from earlier evaluations of the model, so that fewer are made: `reuse:N` or `deep:N`, `none`."""

    # which pictures
    seed: int | None = None
    """The same seed draws the same picture; null draws one."""
    count: int = 1
    """How many pictures; picture i uses seed + i, or with a variation, `variation_seed` + i."""
    variation_seed: int | None = None
    """Of other noise, to which that of `seed` is turned by `variation_strength`; null draws one."""
    variation_strength: float = 0.0
    """How far, 0 to 1: a little gives a picture like the seed's own."""

    # from a picture
    image: Picture | None = None
    """A picture to start from."""
    mask: Picture | None = None
    """With `image`: white is repainted."""
    mask_feather: float = 0.0
    """With a mask: pixels around it over which what is drawn passes into the given picture, which is kept as it is
    beyond them. 0 leaves all that the VAE decodes, as diffusers does."""
    strength: float | None = None
    """How much to change the picture, 0 to 1; null is 0.8, and 1 for a model trained to repaint under a mask."""
