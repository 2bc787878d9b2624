"""Averaged weights (EMA) under CompVis' names, which have lost their dots.

`model.diffusion_model.input_blocks.1.0.in_layers.2.weight` is averaged as
`model_ema.diffusion_modelinput_blocks10in_layers2weight` (`LitEma` in CompVis' ldm/modules/ema.py). The dots are found
again because what a block is made of has few names.
"""

import re

from pocket_diffusion.checkpoint.key_mapping import UNET
from pocket_diffusion.checkpoint.stored_tensor import StoredTensors

_EMA = "model_ema.diffusion_model"
_RESNET = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")
_ATTENTION = (
    *("norm", "proj_in", "proj_out"),
    *(f"transformer_blocks.0.{attn}.to_{part}" for attn in ("attn1", "attn2") for part in ("q", "k", "v", "out.0")),
    *(f"transformer_blocks.0.{part}" for part in ("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3")),
)
_LAYERS = (*_RESNET, *_ATTENTION, "op", "conv", "")  # "": the first convolution is a block of its own
_IN_BLOCK = {
    f"{layer}.{kind}".replace(".", ""): f"{layer}.{kind}".strip(".") for layer in _LAYERS for kind in ("weight", "bias")
}
_BLOCK = re.compile(r"(input_blocks|output_blocks|middle_block)(\d*)(\d)([a-z].*)")
_END = re.compile(r"(time_embed|out)(\d)(weight|bias)")


def has_ema(names: StoredTensors) -> bool:
    """Whether a CompVis checkpoint has averaged weights of a U-Net."""
    return any(name.startswith(_EMA) for name in names)


def ema_as_plain(tensors: StoredTensors) -> StoredTensors:
    """Return the tensors with the averaged weights under the names of plain ones; names that none has keep theirs."""
    return {
        UNET + _with_dots(name.removeprefix(_EMA)) if name.startswith(_EMA) else name: tensor
        for name, tensor in tensors.items()
    }


def _with_dots(name: str) -> str:
    if end := _END.fullmatch(name):
        return ".".join(end.groups())
    if (block := _BLOCK.fullmatch(name)) and block[4] in _IN_BLOCK:
        return ".".join(filter(None, (block[1], block[2], block[3], _IN_BLOCK[block[4]])))
    return name
