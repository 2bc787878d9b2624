"""What kind of model a checkpoint holds: its configs, from files or tensor shapes, or its name if we refuse it."""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.errors import UnsupportedModelError
from pocket_export.key_mapping import Tensors, is_compvis
from pocket_models import TextEncoderConfig, UNetConfig, VAEConfig

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipelineLegacy")
_WANTED = "wanted is a Stable Diffusion 1.x text-to-image model"

_SD1_HEADS = 8  # shapes do not tell it; SD 1.x has 8 heads at every level
_CLIP_HEAD_CHANNELS = 64  # likewise; every published CLIP has it
_MOST = 100  # more levels or layers than any model has
_SD2_CONTEXT = 1024  # SD 1.x has 768
_RESNET_OUTPUT = r"resnets\.\d+\.(conv1|norm2|conv2)\.(weight|bias)"  # what is as wide as its level

# diffusers' defaults for keys that a scheduler's config lacks, and where the classes have others. They are not Stable
# Diffusion's.
_SCHEDULE: dict[str, object] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "timestep_spacing": None,  # samplers have defaults of their own for this and the next
    "set_alpha_to_one": None,
}
_LIKE_STABLE_DIFFUSION: dict[str, object] = {"beta_start": 0.00085, "beta_end": 0.012}
_SCHEDULE_BY_CLASS: dict[str, dict[str, object]] = {
    "DPMSolverSDEScheduler": _LIKE_STABLE_DIFFUSION,
    "HeunDiscreteScheduler": _LIKE_STABLE_DIFFUSION,
    "KDPM2AncestralDiscreteScheduler": _LIKE_STABLE_DIFFUSION,
    "KDPM2DiscreteScheduler": _LIKE_STABLE_DIFFUSION,
    "LCMScheduler": _LIKE_STABLE_DIFFUSION | {"beta_schedule": "scaled_linear"},
    "TCDScheduler": _LIKE_STABLE_DIFFUSION | {"beta_schedule": "scaled_linear"},
}
# diffusers' Stable Diffusion pipelines correct every other value: both would spoil the pictures.
_CORRECTED: dict[str, object] = {"steps_offset": 1, "clip_sample": False}

# The first that matches names the model.
_REFUSED: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("a LoRA", lambda n: n.startswith(("lora_", "lycoris_")) or ".lora" in n or "_lora." in n),
    (
        "a textual inversion",
        lambda n: n.startswith(("string_to_", "<")) or n in ("emb_params", "clip_l", "clip_g"),
    ),
    ("a ControlNet", lambda n: n.startswith(("control_model.", "controlnet_"))),
    ("a Flux model", lambda n: "double_blocks." in n or n.startswith("single_transformer_blocks.")),
    ("a Stable Diffusion 3 model", lambda n: "joint_blocks." in n or ".add_q_proj." in n),
    ("a Stable Diffusion XL model", lambda n: n.startswith("conditioner.embedders.") or ".label_emb." in n),
    ("a Stable Diffusion 2 model", lambda n: n.startswith("cond_stage_model.model.")),
)


def check_compvis(name: str, tensors: Tensors) -> None:
    """Refuse a single-file checkpoint that is no SD 1.x, by the name of what it is.

    Raises:
        UnsupportedModelError: it is something else, or only a part of it.

    """
    for what, matches in _REFUSED:
        if any(map(matches, tensors)):
            raise UnsupportedModelError(f"{name} is {what}; {_WANTED}")
    has_vae = any(n.startswith(("first_stage_model.", "encoder.", "decoder.")) for n in tensors)
    if not is_compvis(set(tensors)):
        if has_vae:
            what = "a VAE alone"
        elif any(n.startswith(("down_blocks.", "input_blocks.")) for n in tensors):
            what = "a U-Net alone"
        elif any(n.startswith("text_model.") for n in tensors):
            what = "a text encoder alone"
        else:
            what = f"no diffusion model that is known (it has {min(tensors)[:100]!r}, for one)"
        raise UnsupportedModelError(f"{name} is {what}; {_WANTED}")
    for part, prefix in (("VAE", "first_stage_model."), ("text encoder", "cond_stage_model.transformer.")):
        if not any(n.startswith(prefix) for n in tensors):
            raise UnsupportedModelError(f"{name} has no {part} in it; {_WANTED} with all its parts")


def check_channels(name: str, in_channels: int) -> None:
    """Refuse U-Nets that take more than latents.

    Raises:
        UnsupportedModelError: it has another number of input channels than 4.

    """
    kinds = {9: "an inpainting model", 8: "an instruct-pix2pix model", 5: "a depth-to-image model"}
    if in_channels != 4:
        what = kinds.get(in_channels, "a model")
        raise UnsupportedModelError(f"{name} is {what} (its U-Net takes {in_channels} channels, not 4); {_WANTED}")


def infer_unet_config(name: str, tensors: Tensors) -> UNetConfig:
    """Infer the U-Net's config from the shapes of its tensors, under our names.

    What several tensors tell is decided by most of them, so that a damaged one stands out when all are checked.
    """
    conv_in = tensors.get("conv_in.weight")
    in_channels = conv_in.shape[1] if conv_in is not None and conv_in.ndim == 4 else UNetConfig.in_channels
    check_channels(name, in_channels)
    with _unknown(name, "U-Net"):
        levels = range(_count(tensors, "down_blocks."))
        context = _most_common(tensors, r".*\.attn2\.to_[kv]\.weight", axis=1)
        if context == _SD2_CONTEXT:
            raise UnsupportedModelError(
                f"{name} is a Stable Diffusion 2 model (its context has {context} channels); {_WANTED}"
            )
        return UNetConfig(
            in_channels=in_channels,
            out_channels=in_channels,
            block_out_channels=tuple(_most_common(tensors, rf"down_blocks\.{i}\.{_RESNET_OUTPUT}") for i in levels),
            layers_per_block=_count(tensors, "down_blocks.0.resnets."),
            attention_levels=tuple(any(n.startswith(f"down_blocks.{i}.attentions.") for n in tensors) for i in levels),
            attention_heads=(_SD1_HEADS,) * len(levels),
            cross_attention_dim=context,
            use_linear_projection=any(t.ndim == 2 for n, t in tensors.items() if n.endswith(".proj_in.weight")),
        )


def infer_vae_config(name: str, tensors: Tensors) -> VAEConfig:
    """Infer the VAE's config from the shapes of its tensors, under our names; see `infer_unet_config`."""
    with _unknown(name, "VAE"):
        levels = range(_count(tensors, "encoder.down_blocks."))
        return VAEConfig(
            block_out_channels=tuple(
                _most_common(tensors, rf"encoder\.down_blocks\.{i}\.{_RESNET_OUTPUT}") for i in levels
            ),
            layers_per_block=_count(tensors, "encoder.down_blocks.0.resnets."),
        )


def infer_text_encoder_config(name: str, tensors: Tensors) -> TextEncoderConfig:
    """Infer the text encoder's config from the shapes of its tensors, under our names; see `infer_unet_config`."""
    embeddings = "text_model.embeddings"

    def rows(embedding: str, default: int) -> int:
        tensor = tensors.get(f"{embeddings}.{embedding}.weight")
        return tensor.shape[0] if tensor is not None and tensor.ndim == 2 else default

    with _unknown(name, "text encoder"):
        hidden = _most_common(tensors, r".*layer_norm\d?\.(weight|bias)")
        return TextEncoderConfig(
            vocab_size=rows("token_embedding", TextEncoderConfig.vocab_size),
            hidden_size=hidden,
            intermediate_size=_most_common(tensors, r".*\.mlp\.fc1\.(weight|bias)"),
            num_hidden_layers=_count(tensors, "text_model.encoder.layers."),
            num_attention_heads=max(hidden // _CLIP_HEAD_CHANNELS, 1),
            max_position_embeddings=rows("position_embedding", TextEncoderConfig.max_position_embeddings),
        )


def read_unet_config(name: str, config: Mapping[str, Any]) -> UNetConfig:
    """Read a diffusers `unet/config.json`; raises UnsupportedModelError for what SD 1.x never has."""
    check_channels(name, config.get("in_channels", 4))
    if config.get("cross_attention_dim") == _SD2_CONTEXT:
        raise UnsupportedModelError(f"{name} is a Stable Diffusion 2 model (its context has 1024 channels); {_WANTED}")
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
    widths = tuple(config["block_out_channels"])
    heads = config.get("attention_head_dim", _SD1_HEADS)  # diffusers' misnomer: it is the number of heads
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    unknown = [kind for kind in config["down_block_types"] if kind not in kinds]
    if unknown:
        raise UnsupportedModelError(f"{name}: unet/config.json has blocks of the kind {unknown[0]!r}; {_WANTED}")
    return UNetConfig(
        in_channels=config.get("in_channels", 4),
        out_channels=config.get("out_channels", 4),
        block_out_channels=widths,
        layers_per_block=config.get("layers_per_block", 2),
        attention_levels=tuple(kinds[kind] for kind in config["down_block_types"]),
        attention_heads=tuple(heads) if isinstance(heads, list) else (heads,) * len(widths),
        cross_attention_dim=config["cross_attention_dim"],
        use_linear_projection=config.get("use_linear_projection", False),
        norm_num_groups=config.get("norm_num_groups", 32),
        norm_eps=config.get("norm_eps", 1e-5),
    )


def read_vae_config(name: str, config: Mapping[str, Any]) -> VAEConfig:
    """Read a diffusers `vae/config.json`; raises UnsupportedModelError for what SD 1.x never has."""
    _require(f"{name}: vae/config.json", config, act_fn="silu", shift_factor=None, latents_mean=None)
    return VAEConfig(
        in_channels=config.get("in_channels", 3),
        latent_channels=config.get("latent_channels", 4),
        block_out_channels=tuple(config["block_out_channels"]),
        layers_per_block=config.get("layers_per_block", 1),
        norm_num_groups=config.get("norm_num_groups", 32),
        scaling_factor=config.get("scaling_factor", VAEConfig.scaling_factor),
    )


def read_text_encoder_config(name: str, config: Mapping[str, Any]) -> TextEncoderConfig:
    """Read a transformers `text_encoder/config.json`; raises UnsupportedModelError for what is not CLIP."""
    act = config.get("hidden_act", "quick_gelu")
    if config.get("model_type", "clip_text_model") != "clip_text_model" or act not in ("quick_gelu", "gelu"):
        raise UnsupportedModelError(f"{name} has a text encoder that is not CLIP's; {_WANTED}")
    return TextEncoderConfig(
        vocab_size=config.get("vocab_size", 49408),
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        max_position_embeddings=config.get("max_position_embeddings", 77),
        hidden_act=act,
        layer_norm_eps=config.get("layer_norm_eps", 1e-5),
    )


def read_schedule(name: str, config: Mapping[str, Any]) -> NoiseSchedule:
    """Read a diffusers `scheduler/scheduler_config.json`: the schedule; the sampler it was saved with is not kept.

    Raises:
        UnsupportedModelError: it asks for what this version cannot do.
        msgspec.ValidationError: its numbers make no sense.

    """
    known = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "beta_schedule": ("linear", "scaled_linear"),
        "timestep_spacing": ("leading", "linspace", "trailing"),
    }
    for key, allowed in known.items():
        if config.get(key) is not None and config[key] not in allowed:
            choices = ", ".join(map(str, allowed))
            raise UnsupportedModelError(f"{name}: the scheduler has {key} {config[key]!r}; known are: {choices}")
    values = {**_SCHEDULE, **_SCHEDULE_BY_CLASS.get(config.get("_class_name", ""), {}), **config, **_CORRECTED}
    values["train_timesteps"] = values.pop("num_train_timesteps")
    schedule = {key: values[key] for key in NoiseSchedule.__struct_fields__ if key in values}
    return msgspec.convert(schedule, NoiseSchedule)


def _require(where: str, config: Mapping[str, Any], **required: object) -> None:
    for key, value in required.items():
        if config.get(key, value) != value:
            raise UnsupportedModelError(f"{where} has {key} {config[key]!r}, not {value!r}; {_WANTED}")


@contextlib.contextmanager
def _unknown(name: str, part: str) -> Iterator[None]:
    """Say what cannot be inferred."""
    try:
        yield
    except LookupError as error:
        raise UnsupportedModelError(f"{name} has an unknown kind of {part}: {error.args[0]}; {_WANTED}") from None


def _most_common(tensors: Tensors, pattern: str, axis: int = 0) -> int:
    """Return the size that most tensors of that name have along an axis."""
    sizes = Counter(t.shape[axis] for n, t in tensors.items() if t.ndim > axis and re.fullmatch(pattern, n))
    if not sizes:
        raise LookupError(f"no tensor's name matches {pattern}")
    return sizes.most_common(1)[0][0]


def _count(tensors: Tensors, prefix: str) -> int:
    """Return how many numbered things there are below a prefix."""
    numbers = (n.removeprefix(prefix).partition(".")[0] for n in tensors if n.startswith(prefix))
    count = 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
    if not 0 < count <= _MOST:
        raise LookupError(f"it has {count} of {prefix}*")
    return count
