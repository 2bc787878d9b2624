"""PyTorch's word on the graphs of a tiny VAE, which the runtime makes of a template."""

from pathlib import Path

import msgspec
from torch import Tensor, nn

from pocket_diffusion.addon import Addon
from pocket_diffusion.bundle import TensorSpec
from pocket_diffusion.checkpoint.tiny_vae import TinyVAESource
from pocket_diffusion.importing.tiny_vae import write_manifest, write_tiny_vae
from pocket_export.mapped_tensors import map_tensors
from pocket_export.parity import measure_parity
from pocket_export.parts import Part
from pocket_models.tiny_vae import DOWNSCALE, LATENT_CHANNELS, TinyDecoder, TinyEncoder, TinyVAE

_SIDE = 64
"""Of the usual picture, in latents."""
TOLERANCE = 1e-5
"""The relative error against PyTorch that is still accepted: in float32 there is the order of the sums alone."""


class _PictureEncoder(nn.Module):
    """The half that goes from pictures to latents, with the published names of its weights."""

    def __init__(self, encoder: TinyEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, picture: Tensor) -> Tensor:
        """See `TinyEncoder.forward`."""
        latents: Tensor = self.encoder(picture)
        return latents


class _PictureDecoder(nn.Module):
    """The half that goes from latents to pictures, likewise."""

    def __init__(self, decoder: TinyDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor) -> Tensor:
        """See `TinyDecoder.forward`."""
        picture: Tensor = self.decoder(latents)
        return picture


def export_tiny_vae(source: TinyVAESource, folder: Path) -> Addon:
    """Write a tiny VAE into a folder, which is made, and compare it with PyTorch.

    Raises:
        ParityError: the graphs do not compute what PyTorch does.
        TensorMismatchError, BundleFormatError: see `write_tiny_vae`.

    """
    addon = write_tiny_vae(source, folder)
    vae = TinyVAE()
    vae.load_state_dict({name: tensor.float() for name, tensor in map_tensors(source.tensors).items()})
    compared = {}
    for part in parts(vae):
        component = addon.component(part.name)
        figures = measure_parity(part, folder, component, TOLERANCE)
        compared[part.name] = msgspec.structs.replace(component, parity=figures)
    provenance = msgspec.structs.replace(addon.provenance, notes=("memory was measured on random weights",))
    addon = msgspec.structs.replace(addon, **compared, provenance=provenance)
    write_manifest(addon, folder)
    return addon


def parts(vae: TinyVAE) -> tuple[Part, Part]:
    """Return both halves, to be traced."""
    vae = vae.eval().requires_grad_(requires_grad=False)
    sides = dict.fromkeys(("height", "width", "latent_height", "latent_width"), _SIDE)
    sizes = {"batch": 1, "contexts": 1, "tokens": 1, **sides}
    encoder = Part(
        "vae_encoder",
        _PictureEncoder(vae.encoder),
        (_spec("picture", 3, "height", "width"),),
        (_spec("latents", LATENT_CHANNELS, "latent_height", "latent_width"),),
        sizes,
        DOWNSCALE,
        pixels_per_size=DOWNSCALE,
    )
    decoder = Part(
        "vae_decoder",
        _PictureDecoder(vae.decoder),
        (_spec("latents", LATENT_CHANNELS, "height", "width"),),
        (_spec("picture", 3, "pixel_height", "pixel_width"),),
        sizes,
        DOWNSCALE,
    )
    return encoder, decoder


def _spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=("batch", *shape))
