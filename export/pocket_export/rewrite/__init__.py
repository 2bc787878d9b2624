"""Graph rewrites: each a function from a model to a model that computes the same, in one file of its own.

Models come from `trace`, with their `usual_sizes` in `meta`. benchmarks/rewrites.py measures what each is worth.
"""

from pocket_export.rewrite.bands import bands
from pocket_export.rewrite.channels_last import channels_last
from pocket_export.rewrite.compute_float16 import compute_float16
from pocket_export.rewrite.downsample_tokens import downsample_tokens
from pocket_export.rewrite.fold_reshapes import fold_reshapes
from pocket_export.rewrite.fuse_silu import fuse_silu
from pocket_export.rewrite.int8_products import int8_products
from pocket_export.rewrite.share_guidance import share_guidance
from pocket_export.rewrite.simulate_float16 import simulate_float16
from pocket_export.rewrite.split_geglu import split_geglu
from pocket_export.rewrite.store_float16 import store_float16
from pocket_export.rewrite.store_int8 import store_int8
from pocket_export.rewrite.take_concepts import take_concepts
from pocket_export.rewrite.winograd import winograd

__all__ = [
    "bands",
    "channels_last",
    "compute_float16",
    "downsample_tokens",
    "fold_reshapes",
    "fuse_silu",
    "int8_products",
    "share_guidance",
    "simulate_float16",
    "split_geglu",
    "store_float16",
    "store_int8",
    "take_concepts",
    "winograd",
]
