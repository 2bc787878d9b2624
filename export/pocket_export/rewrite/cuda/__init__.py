"""Rewrites for CUDA: fused operators of ONNX Runtime that have kernels there alone, and their twins on a CPU."""

from pocket_export.rewrite.cuda.fuse_bias_split_gelu import fuse_bias_split_gelu
from pocket_export.rewrite.cuda.fuse_group_norm import fuse_group_norm
from pocket_export.rewrite.cuda.fuse_skip_layer_norm import fuse_skip_layer_norm
from pocket_export.rewrite.cuda.nhwc import nhwc
from pocket_export.rewrite.cuda.portable import portable

__all__ = ["fuse_bias_split_gelu", "fuse_group_norm", "fuse_skip_layer_norm", "nhwc", "portable"]
