"""Names of parameters in checkpoints → names in our modules, as rules.

Ours are those that diffusers and transformers publish, so a diffusers folder needs next to none. CompVis checkpoints
number the U-Net's blocks in one row and the VAE's decoder from its end.
"""

import re
from collections.abc import Callable

import torch

Tensors = dict[str, torch.Tensor]

# Buffers that some versions of transformers saved with the text encoder; they hold 0, 1, 2, …
_IGNORED = re.compile(r"(^|\.)position_ids$")

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_TEXT = "cond_stage_model.transformer."

_UNET_RESNET = [
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.emb_layers\.1\.", ".time_emb_proj."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.skip_connection\.", ".conv_shortcut."),
]
_UNET_ENDS = [
    (r"^time_embed\.0\.", "time_embedding.linear_1."),
    (r"^time_embed\.2\.", "time_embedding.linear_2."),
    (r"^input_blocks\.0\.0\.", "conv_in."),
    (r"^middle_block\.0\.", "mid_block.resnets.0."),
    (r"^middle_block\.1\.", "mid_block.attentions.0."),
    (r"^middle_block\.2\.", "mid_block.resnets.1."),
    (r"^out\.0\.", "conv_norm_out."),
    (r"^out\.2\.", "conv_out."),
]
_VAE_NAMES = [
    (r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^decoder\.up\.(\d+)\.block\.", r"decoder.up_blocks.\1.resnets."),
    (r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
]
# CompVis' names of the VAE's attention, and those of diffusers before version 0.17.
_VAE_ATTENTION = [
    (r"(\.attentions\.0)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.0)\.(?:q|query)\.", r"\1.to_q."),
    (r"(\.attentions\.0)\.(?:k|key)\.", r"\1.to_k."),
    (r"(\.attentions\.0)\.(?:v|value)\.", r"\1.to_v."),
    (r"(\.attentions\.0)\.(?:proj_out|proj_attn)\.", r"\1.to_out.0."),
]


def is_compvis(names: set[str]) -> bool:
    """Whether these are names of a CompVis checkpoint with a U-Net."""
    return any(name.startswith(_UNET) for name in names)


def compvis_unet(tensors: Tensors) -> Tensors:
    """Return the U-Net's tensors of a CompVis checkpoint under our names."""
    ours = _below(_UNET, tensors)
    # A row of blocks: the first convolution, then for each level its layers and a downsampling.
    first_downsample = min((int(n.split(".")[1]) for n in ours if ".op." in n), default=len(ours))
    layers = first_downsample - 1

    def rename(name: str) -> str:
        name = _apply(_UNET_ENDS, name)
        name = re.sub(r"^input_blocks\.(\d+)\.(\d+)\.", lambda m: _down_block(int(m[1]), int(m[2]), layers), name)
        name = re.sub(
            r"^output_blocks\.(\d+)\.(\d+)\.(conv\.)?",
            lambda m: _up_block(int(m[1]), int(m[2]), layers, upsample=m[3] is not None),
            name,
        )
        return _apply(_UNET_RESNET, name).replace("downsamplers.0.op.", "downsamplers.0.conv.")

    return _rename(ours, rename)


def compvis_vae(tensors: Tensors) -> Tensors:
    """Return the VAE's tensors of a CompVis checkpoint under our names."""
    ours = _below(_VAE, tensors)
    levels = 1 + max((int(n.split(".")[2]) for n in ours if n.startswith("decoder.up.")), default=0)

    def rename(name: str) -> str:
        name = _apply(_VAE_NAMES, name)
        return re.sub(r"(decoder\.up_blocks)\.(\d+)", lambda m: f"{m[1]}.{levels - 1 - int(m[2])}", name)

    return published_vae(_rename(ours, rename))


def compvis_text_encoder(tensors: Tensors) -> Tensors:
    """Return the text encoder's tensors of a CompVis checkpoint under our names."""
    return published_text_encoder(_below(_TEXT, tensors))


def published_vae(tensors: Tensors) -> Tensors:
    """Return the VAE's tensors of a diffusers folder under today's names; 1x1 convolutions become linear layers."""
    named = _rename(tensors, lambda name: _apply(_VAE_ATTENTION, name))
    return {n: t.flatten(1) if ".attentions.0.to_" in n and t.ndim == 4 else t for n, t in named.items()}


def published_text_encoder(tensors: Tensors) -> Tensors:
    """Return the text encoder's tensors of a diffusers folder under our names."""
    return {
        name if name.startswith("text_model.") else f"text_model.{name}": tensor
        for name, tensor in tensors.items()
        if not _IGNORED.search(name)
    }


def _down_block(number: int, part: int, layers: int) -> str:
    level, layer = divmod(number - 1, layers + 1)
    if layer == layers:
        return f"down_blocks.{level}.downsamplers.0."
    return f"down_blocks.{level}.{'attentions' if part else 'resnets'}.{layer}."


def _up_block(number: int, part: int, layers: int, *, upsample: bool) -> str:
    level, layer = divmod(number, layers + 1)
    if upsample:
        return f"up_blocks.{level}.upsamplers.0.conv."
    return f"up_blocks.{level}.{'attentions' if part else 'resnets'}.{layer}."


def _below(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _apply(rules: list[tuple[str, str]], name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _rename(tensors: Tensors, rename: Callable[[str], str]) -> Tensors:
    return {rename(name): tensor for name, tensor in tensors.items()}
