"""Weights as int8 with one scale for each output channel: how they are rounded, and how they lie in the file.

Symmetric (Jacob et al. 2018, section 2.1, without zero points), from -127 to 127: on some CPUs, products with -128 are
wrong. In the file, weights of products and convolutions are `[inputs, outputs]`, as products of 8-bit numbers take
them; a convolution's inputs are its window's rows, columns and channels, in this order.
"""

from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_export.rewrite.initializers import add_initializer

COLUMNS = ".columns"
"""What the name of a convolution's weights ends in where they are a product's."""


def as_columns(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a convolution's weights `[O, C, h, w]` as a product's `[h·w·C, O]`."""
    return np.ascontiguousarray(weights.transpose(2, 3, 1, 0).reshape(-1, len(weights)))


def columns_of(weights: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """Return a convolution's weights as a product's, made when they are needed, under a name that tells them apart."""
    channels_out, channels_in, height, width = weights.shape.numpy()
    name = f"{name}{COLUMNS}"
    shape = ir.Shape([height * width * channels_in, channels_out])
    return ir.LazyTensor(partial(_make_columns, weights, name), dtype=weights.dtype, shape=shape, name=name)


def add_int8(model: ir.Model, name: str, tensor: ir.TensorProtocol, axis: int) -> tuple[ir.Value, ir.Value]:
    """Return initializers with rounded weights and their scales `[outputs]`, the same where there are any of that name.

    `axis` counts the outputs.
    """
    stored, scales = f"{name}.int8", f"{name}.scale"
    known = model.graph.initializers.get(stored)
    if known is not None:
        return known, model.graph.initializers[scales]
    scale = scale_of(tensor.numpy(), axis)
    make = partial(_make_int8, tensor, scale, axis, stored)
    weights = ir.LazyTensor(make, dtype=ir.DataType.INT8, shape=ir.Shape(tensor.shape.numpy()), name=stored)
    return add_initializer(model, weights), add_initializer(model, ir.tensor(scale, name=scales))


def rounded_to_int8(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return weights as they are after having been stored, one scale for each index of `axis`."""
    scale = _along(scale_of(weights, axis), axis, weights.ndim)
    return _steps(weights, scale).astype(np.float32) * scale


def relative_error(weights: NDArray[np.float32], axis: int) -> float:
    """Return what rounding changes of weights, relative to them."""
    size = float(np.linalg.norm(weights))
    return float(np.linalg.norm(rounded_to_int8(weights, axis) - weights)) / size if size else 0.0


def scale_of(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return the scale of each output: its largest weight is ±127."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others)
    return np.where(largest > 0, largest / 127, 1).astype(np.float32)


def _make_columns(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    return ir.tensor(as_columns(tensor.numpy()), name=name)


def _make_int8(tensor: ir.TensorProtocol, scale: NDArray[np.float32], axis: int, name: str) -> ir.TensorProtocol:
    weights = tensor.numpy()
    return ir.tensor(_steps(weights, _along(scale, axis, weights.ndim)), name=name)


def _steps(weights: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    return (weights / scale).round().clip(-127, 127).astype(np.int8)


def _along(scale: NDArray[np.float32], axis: int, ndim: int) -> NDArray[np.float32]:
    return np.expand_dims(scale, [i for i in range(ndim) if i != axis])
