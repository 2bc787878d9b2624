"""Which precision, weight storage and rewrites a bundle gets, by target: a table."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from pocket_diffusion.bundle import Target, WeightStorage
from pocket_diffusion.errors import InvalidRequestError
from pocket_export.rewrite import (
    downsample_tokens,
    fold_reshapes,
    fuse_silu,
    share_guidance,
    split_geglu,
    store_float16,
    store_int8,
    take_concepts,
    winograd,
)
from pocket_export.rewrite.cuda import fuse_bias_split_gelu, fuse_group_norm, fuse_skip_layer_norm, nhwc

Rewrite = Callable[[ir.Model], ir.Model]


@dataclass(frozen=True)
class Recipe:
    """How one kind of bundle is made."""

    target: Target
    weights: WeightStorage
    rewrites: tuple[Rewrite, ...]
    tolerance: float
    """The relative error against PyTorch in float32 with the source's weights that is still accepted."""
    in_8_bits: tuple[str, ...] = ()
    """The parts that get a second graph, which multiplies in 8 bits."""
    in_float16: bool = False
    """Whether operators compute in float16, where their numbers fit it."""


OLDEST_ONNXRUNTIME = "1.24"
"""The first version that has all operators used here and keeps weights inside the bundle's folder."""

PREPARED = (split_geglu, fuse_silu, downsample_tokens, take_concepts)
"""What exact and 8-bit graphs for a CPU begin with."""
_CPU = (*PREPARED, winograd, share_guidance)
_CUDA = (
    *(fuse_silu, take_concepts),
    *(fuse_group_norm, fuse_skip_layer_norm, fuse_bias_split_gelu, nhwc),
    share_guidance,
)

# int8 weights keep their shape, whose first axis has the scales, and are reshaped in the graph.
#
# Float32 graphs differ from PyTorch in the order of their sums. Float16 weights are off by up to 2⁻¹¹ each, which
# hundreds of layers partly average out; int8 ones by up to 1/254 of their channel's largest.
RECIPES = {
    (how.target, how.weights): how
    for how in (
        Recipe("cpu", "fp32", (*_CPU, fold_reshapes), 1e-4),
        Recipe("cpu", "fp16", (*_CPU, fold_reshapes, store_float16), 5e-3),
        Recipe("cpu", "int8", (*_CPU, store_int8), 1e-1, ("unet", "vae_decoder", "vae_encoder")),
        Recipe("cuda", "fp32", _CUDA, 1e-4),
        Recipe("cuda", "fp16", (*_CUDA, store_float16), 2e-2, in_float16=True),
    )
}


def recipe(target: Target, weights: WeightStorage) -> Recipe:
    """Look up how a bundle is made.

    Raises:
        InvalidRequestError: there is no such combination.

    """
    try:
        return RECIPES[target, weights]
    except KeyError:
        known = ", ".join(f"--target {t} --weights {w}" for t, w in RECIPES)
        raise InvalidRequestError(f"--target {target} --weights {weights} does not exist; there are: {known}") from None
