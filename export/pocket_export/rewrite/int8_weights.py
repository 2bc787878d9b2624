"""Weights as int8 with one scale for each output channel; `pocket_diffusion.layers` says how they are rounded.

In the file, weights of products and convolutions are `[inputs, outputs]`, as products of 8-bit numbers take them; a
convolution's inputs are its window's rows, columns and channels, in this order.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_diffusion.layers import Reshape, Step, Transpose, along, round_to_int8, scale_of
from pocket_export.rewrite.initializers import Layout, add_layout


def as_product(shape: Sequence[int]) -> tuple[Step, Step]:
    """Return the steps from a convolution's weights, of a shape `[O, C, h, w]`, to a product's `[h·w·C, O]`."""
    channels_out, channels_in, height, width = shape
    return Transpose(axes=(2, 3, 1, 0)), Reshape(shape=(height * width * channels_in, channels_out))


def add_int8(model: ir.Model, layout: Layout, axis: int) -> tuple[ir.Value, ir.Value]:
    """Return the initializers with rounded weights and with their scales `[outputs]`; `axis` counts the outputs."""
    return (
        add_layout(model, layout.then(storage="int8", axis=axis)),
        add_layout(model, layout.then(storage="scale", axis=axis)),
    )


def rounded_to_int8(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return weights as they are after having been stored, one scale for each index of `axis`."""
    scale = scale_of(weights, axis)
    return round_to_int8(weights, scale, axis) * along(scale, axis, weights.ndim)


def relative_error(weights: NDArray[np.float32], axis: int) -> float:
    """Return what rounding changes of weights, relative to them."""
    size = float(np.linalg.norm(weights))
    return float(np.linalg.norm(rounded_to_int8(weights, axis) - weights)) / size if size else 0.0
