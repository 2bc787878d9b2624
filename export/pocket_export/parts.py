"""The four networks of a bundle: how each is built from a checkpoint, called and traced."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from pocket_diffusion.bundle import GUIDANCE, IMAGE_LATENTS, MASK, MASKED_LATENTS, TensorSpec
from pocket_diffusion.checkpoint.fitting import check_fit
from pocket_diffusion.errors import TensorMismatchError
from pocket_export.checkpoint import Checkpoint
from pocket_export.mapped_tensors import Tensors
from pocket_export.progress import PartSize
from pocket_models import VAE, TextEncoder, UNet

Network = TypeVar("Network", bound=nn.Module)


class PromptEncoder(nn.Module):
    """The text encoder with the output of every layer, for clip skip."""

    def __init__(self, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.text_model = text_encoder.text_model

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Map token ids `[batch, tokens]` to the context `[batch, tokens, hidden]` and all `[layers, batch, …]`.

        Each layer's output goes through the final layer norm, so that the last one is the context.
        """
        layers = self.text_model(ids)
        return layers[-1], torch.stack(layers)


class PictureEncoder(nn.Module):
    """The half of the VAE that goes from pictures to latents, as `forward`."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, picture: Tensor) -> Tensor:
        """See `VAE.encode`."""
        moments: Tensor = self.quant_conv(self.encoder(picture))
        return moments


class PictureDecoder(nn.Module):
    """The half of the VAE that goes from latents to pictures, as `forward`."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """See `VAE.decode`."""
        picture: Tensor = self.decoder(self.post_quant_conv(latents))
        return picture


@dataclass(frozen=True)
class Part:
    """One network, ready to be traced."""

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    usual_sizes: dict[str, int]
    """The dynamic sizes when the bundle's default picture is drawn, guided."""
    pixels_per_latent: int
    id_limit: int = 0
    """Whole-number inputs are token ids below this."""
    pixels_per_size: int = 1
    """What its inputs' height and width are of sizes counted in latents."""
    config: Hashable = None
    """What the module was made by, for parts alike to be traced once; None where that is not known."""

    @property
    def parameters(self) -> int:
        """How many numbers the network holds."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def example(self, sizes: dict[str, int], seed: int = 0) -> tuple[Tensor, ...]:
        """Draw inputs in float32 (ids in int64), with the dynamic dimensions set to `sizes`, counted in latents."""
        generator = torch.Generator().manual_seed(seed)
        sizes = sizes | {name: sizes[name] * self.pixels_per_size for name in ("height", "width")}
        inputs = []
        for spec in self.inputs:
            shape = [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape]
            if spec.dtype == "int64":
                inputs.append(torch.randint(self.id_limit, shape, generator=generator))
            elif spec.name == "timestep":
                inputs.append(torch.randint(1, 1000, shape, generator=generator).float())
            elif spec.name == GUIDANCE:
                inputs.append(1 + 14 * torch.rand(shape, generator=generator))
            elif spec.name == MASK:
                inputs.append(torch.randint(2, shape, generator=generator).float())
            else:
                inputs.append(torch.randn(shape, generator=generator))
        return tuple(inputs)


def text_encoder(checkpoint: Checkpoint) -> Part:
    """Token ids to the context, and to what each layer would give in its place."""
    config = checkpoint.text_encoder_config
    context = ("batch", config.max_position_embeddings, config.hidden_size)
    return Part(
        "text_encoder",
        PromptEncoder(_build(lambda: TextEncoder(config), checkpoint.text_encoder)),
        (_spec("ids", "batch", config.max_position_embeddings, dtype="int64"),),
        (_spec("context", *context), _spec("layers", config.num_hidden_layers, *context)),
        _usual_sizes(checkpoint),
        checkpoint.vae_config.downscale,
        id_limit=config.vocab_size,
        config=config,
    )


def unet(checkpoint: Checkpoint) -> Part:
    """Latents, timestep, context and what else the model is told or shown, to the predicted noise."""
    config = checkpoint.unet_config
    latents = ("batch", config.out_channels, "height", "width")
    told = () if config.time_cond_proj_dim is None else (_spec(GUIDANCE, "batch"),)
    mask, masked_latents = _spec(MASK, "batch", 1, "height", "width"), _spec(MASKED_LATENTS, *latents)
    shown = {4: (), 8: (_spec(IMAGE_LATENTS, *latents),), 9: (mask, masked_latents)}[config.in_channels]
    return Part(
        "unet",
        _build(lambda: UNet(config), checkpoint.unet),
        (
            _spec("latents", *latents),
            _spec("timestep", "batch"),
            _spec("context", "contexts", "tokens", config.cross_attention_dim),
            *told,
            *shown,
        ),
        (_spec("noise", "contexts", *latents[1:]),),
        _usual_sizes(checkpoint, batch=2),
        checkpoint.vae_config.downscale,
        config=config,
    )


def vae_encoder(checkpoint: Checkpoint) -> Part:
    """Picture to the mean and log variance of its latents."""
    config = checkpoint.vae_config
    return Part(
        "vae_encoder",
        PictureEncoder(_vae(checkpoint)),
        (_spec("picture", "batch", config.in_channels, "height", "width"),),
        (_spec("moments", "batch", 2 * config.latent_channels, "latent_height", "latent_width"),),
        _usual_sizes(checkpoint),
        checkpoint.vae_config.downscale,
        pixels_per_size=config.downscale,
        config=config,
    )


def vae_decoder(checkpoint: Checkpoint) -> Part:
    """Latents to a picture."""
    config = checkpoint.vae_config
    return Part(
        "vae_decoder",
        PictureDecoder(_vae(checkpoint)),
        (_spec("latents", "batch", config.latent_channels, "height", "width"),),
        (_spec("picture", "batch", config.in_channels, "pixel_height", "pixel_width"),),
        _usual_sizes(checkpoint),
        checkpoint.vae_config.downscale,
        config=config,
    )


PARTS: tuple[Callable[[Checkpoint], Part], ...] = (text_encoder, vae_encoder, vae_decoder, unet)
"""In the order in which they are exported: what fails early should fail before the long work."""


def part_sizes(checkpoint: Checkpoint) -> dict[str, PartSize]:
    """Return how large the parts are, in the order of `PARTS`."""
    encoder = {name: x for name, x in checkpoint.vae.items() if name.startswith(("encoder.", "quant_conv."))}
    decoder = {name: x for name, x in checkpoint.vae.items() if name not in encoder}
    parts = (
        ("text_encoder", checkpoint.text_encoder),
        ("vae_encoder", encoder),
        ("vae_decoder", decoder),
        ("unet", checkpoint.unet),
    )
    return {name: PartSize(len(tensors), sum(x.numel() for x in tensors.values())) for name, tensors in parts}


def check_tensors(checkpoint: Checkpoint) -> None:
    """Compare a checkpoint's tensors with what its configs ask for, all of them before the long work.

    Raises:
        TensorMismatchError: they do not fit, see `check_fit`; or one holds NaN or infinity.

    """
    source = checkpoint.source
    try:
        with torch.device("meta"):
            networks = (
                (TextEncoder(checkpoint.text_encoder_config), source.text_encoder),
                (VAE(checkpoint.vae_config), source.vae),
                (UNet(checkpoint.unet_config), source.unet),
            )
    except (ValueError, ArithmeticError) as error:
        raise TensorMismatchError(f"{source.name} has sizes that make no network: {error}; fetch it again") from None
    for network, read in networks:
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        check_fit(read.name, type(network).__name__, read.tensors, shapes)
    _check_finite(checkpoint.text_encoder, source.text_encoder.name)
    _check_finite(checkpoint.vae, source.vae.name)
    _check_finite(checkpoint.unet, source.unet.name)


def _usual_sizes(checkpoint: Checkpoint, batch: int = 1) -> dict[str, int]:
    downscale, defaults = checkpoint.vae_config.downscale, checkpoint.source.defaults
    height, width = defaults.height // downscale, defaults.width // downscale
    sides = {"height": height, "width": width, "latent_height": height, "latent_width": width}
    tokens = checkpoint.text_encoder_config.max_position_embeddings
    return {"batch": batch, "contexts": batch, "tokens": tokens, **sides}


def _vae(checkpoint: Checkpoint) -> VAE:
    return _build(lambda: VAE(checkpoint.vae_config), checkpoint.vae)


def _spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype="int64" if dtype == "int64" else "float32", shape=shape)


def _build(make: Callable[[], Network], tensors: Tensors) -> Network:
    """Make a network without memory of its own and give it the checkpoint's tensors, float32 ones as they are."""
    with torch.device("meta"):
        network = make()
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def _check_finite(tensors: Tensors, source: str) -> None:
    for name, tensor in tensors.items():
        if not all(math.isfinite(end) for end in torch.aminmax(tensor)):  # a NaN anywhere becomes both
            raise TensorMismatchError(f"{source}: {name} holds NaN or infinity; fetch it again")
