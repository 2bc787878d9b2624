"""Weights stored in a quarter of the space: int8 with one scale a channel, float32 where they are used."""

from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_export.rewrite.initializers import add_initializer, large_float_initializers, replace_initializer
from pocket_export.rewrite.store_float16 import store_float16


def store_int8(model: ir.Model) -> ir.Model:
    """Store the weights of products and convolutions as int8 with a DequantizeLinear each; all others as float16.

    Symmetric and per output channel (Jacob et al. 2018, section 2.1, without zero points).
    """
    for value, tensor in large_float_initializers(model):
        axis = _output_axis(value)
        if axis is None:
            continue
        scale, name = _scale(tensor.numpy(), axis), f"{value.name}.int8"
        stored = ir.LazyTensor(
            partial(_quantize, tensor, scale, axis, name),
            dtype=ir.DataType.INT8,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
        inputs = [add_initializer(model, stored), add_initializer(model, ir.tensor(scale, name=f"{value.name}.scale"))]
        replace_initializer(model, value, ir.node("DequantizeLinear", inputs, {"axis": axis}))
    return store_float16(model)


def _output_axis(value: ir.Value) -> int | None:
    """Return the axis of a weight along which outputs are counted, or None where it is no such weight."""
    axes = set()
    for node, position in value.uses():
        if position != 1:
            return None
        if node.op_type == "Conv":
            axes.add(0)
        elif node.op_type == "Gemm":
            axes.add(0 if node.attributes.get_int("transB", 0) else 1)
        elif node.op_type == "MatMul":
            axes.add(1)
        else:
            return None
    return axes.pop() if len(axes) == 1 else None


def _scale(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others)
    return np.where(largest > 0, largest / 127, 1).astype(np.float32)


def _quantize(tensor: ir.TensorProtocol, scale: NDArray[np.float32], axis: int, name: str) -> ir.TensorProtocol:
    weights = tensor.numpy()
    shape = [1] * weights.ndim
    shape[axis] = -1
    return ir.tensor((weights / scale.reshape(shape)).round().clip(-127, 127).astype(np.int8), name=name)
