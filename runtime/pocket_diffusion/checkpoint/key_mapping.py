"""Names of parameters in checkpoints → names as diffusers and transformers publish them, as rules.

A diffusers folder needs next to none. CompVis checkpoints number the U-Net's blocks in one row and the VAE's decoder
from its end. Those of Stable Diffusion 2 have the text encoder under OpenCLIP's names.
"""

import re
from collections.abc import Callable, Iterable

from pocket_diffusion.checkpoint.stored_tensor import StoredTensor, StoredTensors
from pocket_diffusion.errors import CheckpointError

_SHOWN = 100  # how much of a name from the file an error shows

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT_ENCODER = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
"""What CompVis' names of a part begin with; text encoders are OpenAI's CLIP or OpenCLIP's."""
VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
"""What the names of a VAE begin with; files of its training hold a discriminator beside it."""

# What comes with text encoders and is no weight of theirs: buffers (0, 1, 2, …, and the causal mask), and what compares
# prompts with pictures.
_IGNORED = re.compile(r"(^|\.)(position_ids|attn_mask|logit_scale|text_projection(\.weight)?)$")
# Stable Diffusion 2 takes the output of OpenCLIP's last layer but one (ldm's FrozenOpenCLIPEmbedder, "penultimate"). Of
# the 24 layers, the last is never computed; files that were made of a diffusers folder do not have it.
_UNUSED = re.compile(r"transformer\.resblocks\.23\.")

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
    (r"^time_embed\.cond_proj\.", "time_embedding.cond_proj."),
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
    (r"^(decoder\.up\.\d+)\.block\.", r"\1.resnets."),
    (r"^(decoder\.up\.\d+)\.upsample\.", r"\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
]
_OPEN_CLIP_NAMES = [
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^transformer\.resblocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"^ln_final\.", "final_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
]
# CompVis' names of the VAE's attention, and those of diffusers before version 0.17.
_VAE_ATTENTION = [
    (r"(\.attentions\.0)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.0)\.(?:q|query)\.", r"\1.to_q."),
    (r"(\.attentions\.0)\.(?:k|key)\.", r"\1.to_k."),
    (r"(\.attentions\.0)\.(?:v|value)\.", r"\1.to_v."),
    (r"(\.attentions\.0)\.(?:proj_out|proj_attn)\.", r"\1.to_out.0."),
]


def is_compvis(names: Iterable[str]) -> bool:
    """Whether these are names of a CompVis checkpoint with a U-Net."""
    return any(name.startswith(UNET) for name in names)


def compvis_unet(tensors: StoredTensors) -> StoredTensors:
    """Return the U-Net's tensors of a CompVis checkpoint under their published names."""
    ours = below(UNET, tensors)
    # A row of blocks: the first convolution, then for each level its layers and a downsampling.
    downsamples = re.findall(r"^input_blocks\.([1-9]\d{,2})\.\d\.op\.", "\n".join(ours), re.MULTILINE)
    first_downsample = min(map(int, downsamples), default=len(ours))
    layers = first_downsample - 1

    def rename(name: str) -> str:
        name = _apply(_UNET_ENDS, name)
        name = re.sub(r"^input_blocks\.(\d{1,3})\.(\d)\.", lambda m: _down_block(int(m[1]), int(m[2]), layers), name)
        name = re.sub(
            r"^output_blocks\.(\d{1,3})\.(\d)\.(conv\.)?",
            lambda m: _up_block(int(m[1]), int(m[2]), layers, upsample=m[3] is not None),
            name,
        )
        return _apply(_UNET_RESNET, name).replace("downsamplers.0.op.", "downsamplers.0.conv.")

    return _rename(ours, rename)


def compvis_vae(tensors: StoredTensors) -> StoredTensors:
    """Return the VAE's tensors of a CompVis checkpoint under their published names."""
    return single_vae(below(VAE, tensors))


def single_vae(tensors: StoredTensors) -> StoredTensors:
    """Return the tensors of a VAE in CompVis' or diffusers' form under their published names, and nothing else."""
    ours = {name: tensor for name, tensor in tensors.items() if name.startswith(VAE_PARTS)}
    levels = 1 + max(map(int, re.findall(r"^decoder\.up\.(\d{1,3})\.", "\n".join(ours), re.MULTILINE)), default=0)

    def rename(name: str) -> str:
        name = _apply(_VAE_NAMES, name)
        return re.sub(r"^decoder\.up\.(\d{1,3})\.", lambda m: f"decoder.up_blocks.{levels - 1 - int(m[1])}.", name)

    return published_vae(_rename(ours, rename))


def has_open_clip(names: Iterable[str]) -> bool:
    """Whether a CompVis checkpoint's text encoder is OpenCLIP's."""
    names = list(names)
    return any(n.startswith(OPEN_CLIP) for n in names) and not any(n.startswith(TEXT_ENCODER) for n in names)


def compvis_text_encoder(tensors: StoredTensors) -> StoredTensors:
    """Return the text encoder's tensors of a CompVis checkpoint under their published names."""
    if not has_open_clip(tensors):
        return published_text_encoder(below(TEXT_ENCODER, tensors))
    ours: StoredTensors = {}
    for name, tensor in below(OPEN_CLIP, tensors).items():
        if not _UNUSED.match(name):
            ours |= _split_projections(name, tensor)
    return published_text_encoder(_rename(ours, lambda name: _apply(_OPEN_CLIP_NAMES, name)))


def published_vae(tensors: StoredTensors) -> StoredTensors:
    """Return the VAE's tensors of a diffusers folder under today's names; 1x1 convolutions become linear layers."""
    named = _rename(tensors, lambda name: _apply(_VAE_ATTENTION, name))
    return {name: t.as_matrix() if ".attentions.0.to_" in name else t for name, t in named.items()}


def published_text_encoder(tensors: StoredTensors) -> StoredTensors:
    """Return the text encoder's tensors of a diffusers folder under their published names."""
    ours = {name: tensor for name, tensor in tensors.items() if not _IGNORED.search(name)}
    return _rename(ours, lambda name: name if name.startswith("text_model.") else f"text_model.{name}")


def _split_projections(name: str, tensor: StoredTensor) -> StoredTensors:
    """Return queries', keys' and values' projections, which OpenCLIP has in one tensor; any other is returned alone."""
    layer, found, kind = name.partition(".in_proj_")
    if not found or not tensor.ndim:
        return {name: tensor}
    third, all_rows = tensor.shape[0] // 3, tensor.shape[0]
    ends = {"q": (0, third), "k": (third, 2 * third), "v": (2 * third, all_rows)}
    return {f"{layer}.{part}_proj.{kind}": tensor.rows(*rows) for part, rows in ends.items()}


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


def below(prefix: str, tensors: StoredTensors) -> StoredTensors:
    """Return the tensors whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _apply(rules: list[tuple[str, str]], name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _rename(tensors: StoredTensors, rename: Callable[[str], str]) -> StoredTensors:
    renamed: StoredTensors = {}
    for name, tensor in tensors.items():
        known = renamed.setdefault(rename(name), tensor)
        if known is not tensor:
            names = " and ".join(ascii(t.name[:_SHOWN]) for t in (known, tensor))
            raise CheckpointError(f"{tensor.path} holds one tensor under two names, {names}; fetch it again")
    return renamed
