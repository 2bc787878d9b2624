"""What a model's networks are made of, from config files or from the shapes of tensors."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from pocket_diffusion.bundle import Positive
from pocket_diffusion.checkpoint.recognition import WANTED
from pocket_diffusion.checkpoint.stored_tensor import StoredTensors
from pocket_diffusion.errors import UnsupportedModelError
from pocket_diffusion.strict import Strict

SCALING_FACTOR = 0.18215
"""What Stable Diffusion 1.x multiplies latents by."""
_SD1_HEADS = 8  # shapes do not tell it; SD 1.x has 8 heads at every level
_CLIP_HEAD_CHANNELS = 64  # likewise; every published CLIP has it
_MOST = 100  # more levels or layers than any model has
_SD2_CONTEXT = 1024  # SD 1.x has 768
_RESNET_OUTPUT = r"resnets\.\d+\.(conv1|norm2|conv2)\.(weight|bias)"  # what is as wide as its level

Few = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
Levels = Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1, max_length=_MOST)]
Small = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class TextEncoderSpec(Strict, frozen=True):
    """CLIP's text transformer. The defaults here and below are what shapes do not tell of Stable Diffusion 1.x."""

    vocab_size: Positive
    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Few
    num_attention_heads: Positive
    max_position_embeddings: Positive
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Small = 1e-5


class UNetSpec(Strict, frozen=True):
    """The U-Net, its levels from the finest to the coarsest."""

    in_channels: Positive
    out_channels: Positive
    block_out_channels: Levels
    layers_per_block: Few
    attention_levels: tuple[bool, ...]
    attention_heads: tuple[Positive, ...]
    cross_attention_dim: Positive
    use_linear_projection: bool
    norm_num_groups: Positive = 32
    norm_eps: Small = 1e-5

    def __post_init__(self) -> None:
        """Refuse other numbers of levels."""
        if not len(self.block_out_channels) == len(self.attention_levels) == len(self.attention_heads):
            raise ValueError("the numbers of widths, of kinds of blocks and of heads differ")


class VAESpec(Strict, frozen=True):
    """The autoencoder, its levels from the finest to the coarsest."""

    block_out_channels: Levels
    layers_per_block: Few
    in_channels: Positive = 3
    latent_channels: Positive = 4
    norm_num_groups: Positive = 32
    scaling_factor: Annotated[float, msgspec.Meta(gt=0)] = SCALING_FACTOR

    @property
    def downscale(self) -> int:
        """How many pixels one latent stands for, along one side."""
        return 1 << (len(self.block_out_channels) - 1)


def check_channels(name: str, in_channels: int) -> None:
    """Refuse U-Nets that take more than latents.

    Raises:
        UnsupportedModelError: it has another number of input channels than 4.

    """
    kinds = {9: "an inpainting model", 8: "an instruct-pix2pix model", 5: "a depth-to-image model"}
    if in_channels != 4:
        what = kinds.get(in_channels, "a model")
        raise UnsupportedModelError(f"{name} is {what} (its U-Net takes {in_channels} channels, not 4); {WANTED}")


def infer_unet(name: str, tensors: StoredTensors) -> UNetSpec:
    """Infer the U-Net's sizes from the shapes of its tensors, under their published names.

    What several tensors tell is decided by most of them, so that a damaged one stands out when all are checked.

    Raises:
        UnsupportedModelError: it is a U-Net of another model.

    """
    conv_in = tensors.get("conv_in.weight")
    in_channels = conv_in.shape[1] if conv_in is not None and conv_in.ndim == 4 else 4
    check_channels(name, in_channels)
    with _unknown(name, "U-Net"):
        levels = range(_count(tensors, "down_blocks."))
        context = _most_common(tensors, r".*\.attn2\.to_[kv]\.weight", axis=1)
        if context == _SD2_CONTEXT:
            raise UnsupportedModelError(
                f"{name} is a Stable Diffusion 2 model (its context has {context} channels); {WANTED}"
            )
        return UNetSpec(
            in_channels=in_channels,
            out_channels=in_channels,
            block_out_channels=tuple(_most_common(tensors, rf"down_blocks\.{i}\.{_RESNET_OUTPUT}") for i in levels),
            layers_per_block=_count(tensors, "down_blocks.0.resnets."),
            attention_levels=tuple(any(n.startswith(f"down_blocks.{i}.attentions.") for n in tensors) for i in levels),
            attention_heads=(_SD1_HEADS,) * len(levels),
            cross_attention_dim=context,
            use_linear_projection=any(t.ndim == 2 for n, t in tensors.items() if n.endswith(".proj_in.weight")),
        )


def infer_vae(name: str, tensors: StoredTensors) -> VAESpec:
    """Infer the VAE's sizes from the shapes of its tensors, under their published names; see `infer_unet`."""
    with _unknown(name, "VAE"):
        levels = range(_count(tensors, "encoder.down_blocks."))
        return VAESpec(
            block_out_channels=tuple(
                _most_common(tensors, rf"encoder\.down_blocks\.{i}\.{_RESNET_OUTPUT}") for i in levels
            ),
            layers_per_block=_count(tensors, "encoder.down_blocks.0.resnets."),
        )


def infer_text_encoder(name: str, tensors: StoredTensors) -> TextEncoderSpec:
    """Infer the text encoder's sizes from the shapes of its tensors, under their published names; see `infer_unet`."""

    def rows(embedding: str, default: int) -> int:
        tensor = tensors.get(f"text_model.embeddings.{embedding}.weight")
        return tensor.shape[0] if tensor is not None and tensor.ndim == 2 else default

    with _unknown(name, "text encoder"):
        hidden = _most_common(tensors, r".*layer_norm\d?\.(weight|bias)")
        return TextEncoderSpec(
            vocab_size=rows("token_embedding", 49408),
            hidden_size=hidden,
            intermediate_size=_most_common(tensors, r".*\.mlp\.fc1\.(weight|bias)"),
            num_hidden_layers=_count(tensors, "text_model.encoder.layers."),
            num_attention_heads=max(hidden // _CLIP_HEAD_CHANNELS, 1),
            max_position_embeddings=rows("position_embedding", 77),
        )


def read_unet_config(name: str, config: Mapping[str, Any]) -> UNetSpec:
    """Read a diffusers `unet/config.json`.

    Raises:
        UnsupportedModelError: it has what SD 1.x never has.
        KeyError, TypeError, ValueError: it makes no sense; likewise below.

    """
    check_channels(name, config.get("in_channels", 4))
    if config.get("cross_attention_dim") == _SD2_CONTEXT:
        raise UnsupportedModelError(f"{name} is a Stable Diffusion 2 model (its context has 1024 channels); {WANTED}")
    _require(
        f"{name}: unet/config.json",
        config,
        act_fn="silu",
        addition_embed_type=None,
        class_embed_type=None,
        num_class_embeds=None,
        center_input_sample=False,
        conv_in_kernel=3,
        conv_out_kernel=3,
        downsample_padding=1,
        dual_cross_attention=False,
        encoder_hid_dim=None,
        flip_sin_to_cos=True,
        freq_shift=0,
        mid_block_scale_factor=1,
        mid_block_type="UNetMidBlock2DCrossAttn",
        num_attention_heads=None,
        only_cross_attention=False,
        resnet_time_scale_shift="default",
        time_cond_proj_dim=None,
        time_embedding_type="positional",
        transformer_layers_per_block=1,
    )
    widths = config["block_out_channels"]
    heads = config.get("attention_head_dim", _SD1_HEADS)  # diffusers' misnomer: it is the number of heads
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    unknown = [kind for kind in config["down_block_types"] if kind not in kinds]
    if unknown:
        raise UnsupportedModelError(f"{name}: unet/config.json has blocks of the kind {unknown[0]!r}; {WANTED}")
    values = {
        "in_channels": config.get("in_channels", 4),
        "out_channels": config.get("out_channels", 4),
        "block_out_channels": widths,
        "layers_per_block": config.get("layers_per_block", 2),
        "attention_levels": [kinds[kind] for kind in config["down_block_types"]],
        "attention_heads": heads if isinstance(heads, list) else [heads] * len(widths),
        "cross_attention_dim": config["cross_attention_dim"],
        "use_linear_projection": config.get("use_linear_projection", False),
        "norm_num_groups": config.get("norm_num_groups", 32),
        "norm_eps": config.get("norm_eps", 1e-5),
    }
    return msgspec.convert(values, UNetSpec)


def read_vae_config(name: str, config: Mapping[str, Any]) -> VAESpec:
    """Read a diffusers `vae/config.json`; see `read_unet_config`."""
    _require(f"{name}: vae/config.json", config, act_fn="silu", shift_factor=None, latents_mean=None)
    known = ("in_channels", "latent_channels", "norm_num_groups", "scaling_factor")
    values = {key: config[key] for key in known if key in config}
    values |= {
        "block_out_channels": config["block_out_channels"],
        "layers_per_block": config.get("layers_per_block", 1),
    }
    return msgspec.convert(values, VAESpec)


def read_text_encoder_config(name: str, config: Mapping[str, Any]) -> TextEncoderSpec:
    """Read a transformers `text_encoder/config.json`; see `read_unet_config`."""
    act = config.get("hidden_act", "quick_gelu")
    if config.get("model_type", "clip_text_model") != "clip_text_model" or act not in ("quick_gelu", "gelu"):
        raise UnsupportedModelError(f"{name} has a text encoder that is not CLIP's; {WANTED}")
    values = {
        "vocab_size": config.get("vocab_size", 49408),
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "max_position_embeddings": config.get("max_position_embeddings", 77),
        "hidden_act": act,
        "layer_norm_eps": config.get("layer_norm_eps", 1e-5),
    }
    return msgspec.convert(values, TextEncoderSpec)


def _require(where: str, config: Mapping[str, Any], **required: object) -> None:
    for key, value in required.items():
        if config.get(key, value) != value:
            raise UnsupportedModelError(f"{where} has {key} {config[key]!r}, not {value!r}; {WANTED}")


@contextlib.contextmanager
def _unknown(name: str, part: str) -> Iterator[None]:
    """Say what cannot be inferred."""
    try:
        yield
    except LookupError as error:
        raise UnsupportedModelError(f"{name} has an unknown kind of {part}: {error.args[0]}; {WANTED}") from None


def _most_common(tensors: StoredTensors, pattern: str, axis: int = 0) -> int:
    """Return the size that most tensors of that name have along an axis."""
    sizes = Counter(t.shape[axis] for n, t in tensors.items() if t.ndim > axis and re.fullmatch(pattern, n))
    if not sizes:
        raise LookupError(f"no tensor's name matches {pattern}")
    return sizes.most_common(1)[0][0]


def _count(tensors: StoredTensors, prefix: str) -> int:
    """Return how many numbered things there are below a prefix."""
    numbers = (n.removeprefix(prefix).partition(".")[0] for n in tensors if n.startswith(prefix))
    count = 1 + max((int(number) for number in numbers if number.isdecimal() and len(number) < 5), default=-1)
    if not 0 < count <= _MOST:
        raise LookupError(f"it has {count} of {prefix}*")
    return count
