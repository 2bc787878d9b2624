"""What a model's networks are made of, from config files or from the shapes of tensors."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from pocket_diffusion.bundle import Positive
from pocket_diffusion.checkpoint.recognition import WANTED
from pocket_diffusion.checkpoint.stored_tensor import StoredTensors
from pocket_diffusion.errors import UnsupportedModelError
from pocket_diffusion.strict import Strict

SCALING_FACTOR = 0.18215
"""What Stable Diffusion 1.x multiplies latents by."""
LATENTS = 4
"""The channels of latents."""
_SHOWN_BESIDE = (0, 4, 5)  # channels beside the latents': none, a picture's latents, a mask and masked latents
_OPEN_CLIP_WIDTH = 1024  # of SD 2.x's context; SD 1.x has 768
_SD1_HEADS = 8  # shapes do not tell it; SD 1.x has 8 heads at every level
_SD2_HEAD_CHANNELS = 64  # likewise; SD 2.x has more heads at wider levels
_GUIDANCE_WIDTHS = range(4, 4097, 2)  # half sines, half cosines; published models have 256
_MIDDLE = "UNetMidBlock2DCrossAttn"
_CLIP_HEAD_CHANNELS = 64  # likewise; every published CLIP has it
_MOST = 100  # more levels or layers than any model has
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
    mid_block: bool = True
    only_cross_attention: tuple[bool, ...] = ()
    """By level, whether both attentions of a block look at the context; empty where none does."""
    time_cond_proj_dim: int | None = None
    """The width of the guidance scale's embedding, of models that have learnt guidance."""

    def __post_init__(self) -> None:
        """Refuse other numbers of levels, and inputs that no model has."""
        levels = len(self.block_out_channels)
        if not levels == len(self.attention_levels) == len(self.attention_heads):
            raise ValueError("the numbers of widths, of kinds of blocks and of heads differ")
        *finer, coarsest = self.attention_levels
        attends = (*finer, coarsest or self.mid_block)
        for width, heads, has_any in zip(self.block_out_channels, self.attention_heads, attends, strict=True):
            if has_any and width % heads:
                raise ValueError(f"{heads} heads cannot share {width} channels")
        if len(self.only_cross_attention) not in (0, levels):
            raise ValueError("only_cross_attention has another number of levels")
        if self.in_channels - self.out_channels not in _SHOWN_BESIDE:
            raise ValueError(f"it predicts {self.out_channels} channels from {self.in_channels}")
        if self.time_cond_proj_dim is not None and self.time_cond_proj_dim not in _GUIDANCE_WIDTHS:
            raise ValueError(f"it embeds guidance in {self.time_cond_proj_dim} numbers, not in 4, 6, 8, … or 4096")


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
    """Refuse U-Nets that take something else beside latents than a picture, or a mask and what it leaves.

    Raises:
        UnsupportedModelError: it has another number of input channels than 4, 8 or 9.

    """
    if in_channels - LATENTS not in _SHOWN_BESIDE:
        what = {5: "a depth-to-image model", 7: "an upscaler"}.get(in_channels, "a model of another kind")
        known = "4 (text to image), 8 (instruct-pix2pix) or 9 (inpainting)"
        raise UnsupportedModelError(f"{name} is {what} (its U-Net takes {in_channels} channels, not {known}); {WANTED}")


def infer_unet(name: str, tensors: StoredTensors) -> UNetSpec:
    """Infer the U-Net's sizes from the shapes of its tensors, under their published names.

    What several tensors tell is decided by most of them, so that a damaged one stands out when all are checked.

    Raises:
        UnsupportedModelError: it is a U-Net of another model.

    """
    conv_in = tensors.get("conv_in.weight")
    in_channels = conv_in.shape[1] if conv_in is not None and conv_in.ndim == 4 else LATENTS
    check_channels(name, in_channels)
    guidance = tensors.get("time_embedding.cond_proj.weight")
    with _unknown(name, "U-Net"):
        levels = range(_count(tensors, "down_blocks."))
        context = _most_common(tensors, r".*\.attn2\.to_[kv]\.weight", axis=1)
        widths = tuple(_most_common(tensors, rf"down_blocks\.{i}\.{_RESNET_OUTPUT}") for i in levels)
        by_width = context == _OPEN_CLIP_WIDTH
        return UNetSpec(
            in_channels=in_channels,
            out_channels=LATENTS,
            block_out_channels=widths,
            layers_per_block=_count(tensors, "down_blocks.0.resnets."),
            attention_levels=tuple(any(n.startswith(f"down_blocks.{i}.attentions.") for n in tensors) for i in levels),
            attention_heads=tuple(max(w // _SD2_HEAD_CHANNELS, 1) if by_width else _SD1_HEADS for w in widths),
            cross_attention_dim=context,
            use_linear_projection=any(t.ndim == 2 for n, t in tensors.items() if n.endswith(".proj_in.weight")),
            mid_block=any(n.startswith("mid_block.") for n in tensors),
            only_cross_attention=_unless_none([_only_cross(tensors, i, context, widths[i]) for i in levels]),
            time_cond_proj_dim=guidance.shape[1] if guidance is not None and guidance.ndim == 2 else None,
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


def infer_text_encoder(name: str, tensors: StoredTensors, *, open_clip: bool) -> TextEncoderSpec:
    """Infer the text encoder's sizes from the shapes of its tensors, under their published names; see `infer_unet`.

    OpenCLIP's is told from OpenAI's CLIP by the names in the file, not by shapes.
    """

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
            hidden_act="gelu" if open_clip else "quick_gelu",
        )


def read_unet_config(name: str, config: Mapping[str, Any]) -> UNetSpec:
    """Read a diffusers `unet/config.json`.

    Raises:
        UnsupportedModelError: it has what no model of Stable Diffusion 1.x or 2.x has.
        KeyError, TypeError, ValueError: it makes no sense; likewise below.

    """
    check_channels(name, config.get("in_channels", LATENTS))
    # `upcast_attention` is for kernels whose scores overflow in float16. Our fused one sums them in float32 anyway.
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
        num_attention_heads=None,
        out_channels=LATENTS,
        resnet_skip_time_act=False,
        resnet_time_scale_shift="default",
        time_embedding_act_fn=None,
        time_embedding_dim=None,
        time_embedding_type="positional",
        timestep_post_act=None,
        transformer_layers_per_block=1,
    )
    widths = config["block_out_channels"]
    heads = config.get("attention_head_dim", _SD1_HEADS)  # diffusers' misnomer: it is the number of heads
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    down = config["down_block_types"]
    unknown = [kind for kind in down if kind not in kinds]
    if unknown:
        raise UnsupportedModelError(f"{name}: unet/config.json has blocks of the kind {unknown[0]!r}; {WANTED}")
    _require(
        f"{name}: unet/config.json", config, up_block_types=[kind.replace("Down", "Up") for kind in reversed(down)]
    )
    if config.get("resnet_out_scale_factor") is not None:
        _require(f"{name}: unet/config.json", config, resnet_out_scale_factor=1)
    middle = config.get("mid_block_type", _MIDDLE)
    if middle is not None:
        _require(f"{name}: unet/config.json", config, mid_block_type=_MIDDLE)
        _check_middle(f"{name}: unet/config.json", config)
    only_cross = config.get("only_cross_attention") or ()
    values = {
        "in_channels": config.get("in_channels", LATENTS),
        "out_channels": LATENTS,
        "block_out_channels": widths,
        "layers_per_block": config.get("layers_per_block", 2),
        "attention_levels": [kinds[kind] for kind in down],
        "attention_heads": heads if isinstance(heads, list) else [heads] * len(widths),
        "cross_attention_dim": config["cross_attention_dim"],
        "use_linear_projection": config.get("use_linear_projection", False),
        "norm_num_groups": config.get("norm_num_groups", 32),
        "norm_eps": config.get("norm_eps", 1e-5),
        "mid_block": middle is not None,
        "only_cross_attention": _unless_none([True] * len(widths) if only_cross is True else only_cross),
        "time_cond_proj_dim": config.get("time_cond_proj_dim"),
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


def _check_middle(where: str, config: Mapping[str, Any]) -> None:
    """Refuse a middle whose attentions both look at the context; one answer for all levels is its own, too."""
    if config.get("mid_block_only_cross_attention") is not None:
        _require(where, config, mid_block_only_cross_attention=False)
    elif config.get("only_cross_attention") is True:
        raise UnsupportedModelError(f"{where} has only_cross_attention True in the middle, too; {WANTED}")


@contextlib.contextmanager
def _unknown(name: str, part: str) -> Iterator[None]:
    """Say what cannot be inferred."""
    try:
        yield
    except (LookupError, ValueError) as error:
        raise UnsupportedModelError(f"{name} has an unknown kind of {part}: {error.args[0]}; {WANTED}") from None


def _unless_none(levels: Sequence[bool]) -> tuple[bool, ...]:
    """Return what holds at some levels, or nothing where it holds at none."""
    return tuple(levels) if any(levels) else ()


def _only_cross(tensors: StoredTensors, level: int, context: int, width: int) -> bool:
    """Tell whether the first attention of a level looks at the context; if both are as wide, shapes do not tell it."""
    keys = tensors.get(f"down_blocks.{level}.attentions.0.transformer_blocks.0.attn1.to_k.weight")
    return keys is not None and keys.ndim == 2 and keys.shape[1] == context != width


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
