"""Weights stored in a quarter of the space: int8 with one scale a channel, float32 where they are used."""

from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_export.rewrite.initializers import add_initializer, large_float_initializers, replace_initializer
from pocket_export.rewrite.store_float16 import store_float16

LARGEST_ERROR = 0.01
"""What int8 may change a layer's output by, relative to it, before its weights stay in float16."""


def store_int8(model: ir.Model) -> ir.Model:
    """Store the weights of products and convolutions as int8 with a DequantizeLinear each; all others as float16.

    Symmetric and per output channel (Jacob et al. 2018, section 2.1, without zero points). `meta["int8_errors"]` holds
    what is known of the layers' errors by their weights' names; `meta["int8_layers"]` gets what became of each.
    """
    errors: dict[str, float] = model.meta.get("int8_errors", {})
    layers = model.meta["int8_layers"] = {}
    for value, tensor in large_float_initializers(model):
        axis = _output_axis(value)
        if axis is None:
            continue
        error = next((e for name, e in errors.items() if f"{value.name}.".startswith(f"{name}.")), None)
        if error is None:  # the tracer has lost the layer's name: take what inputs without a pattern would give
            error = _relative_error(tensor.numpy(), axis)
        small_enough = error <= LARGEST_ERROR
        layers[value.name or ""] = {"error": error, "stored": "int8" if small_enough else "fp16"}
        if not small_enough:
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


def rounded_to_int8(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return weights as they are after having been stored, one scale for each index of `axis`."""
    scale = _along(_scale(weights, axis), axis, weights.ndim)
    return _steps(weights, scale).astype(np.float32) * scale


def _relative_error(weights: NDArray[np.float32], axis: int) -> float:
    size = float(np.linalg.norm(weights))
    return float(np.linalg.norm(rounded_to_int8(weights, axis) - weights)) / size if size else 0.0


def _output_axis(value: ir.Value) -> int | None:
    """Return the axis of a weight along which outputs are counted, or None where it is no such weight."""
    axes = set()
    for node, position in value.uses():
        if node.op_type == "Reshape" and len(value.shape or ()) == 4:
            axes.add(0)  # on its way to Winograd's form
        elif position != 1:
            return None
        elif node.op_type == "Conv":
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
    return ir.tensor(_steps(weights, _along(scale, axis, weights.ndim)), name=name)


def _steps(weights: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    return (weights / scale).round().clip(-127, 127).astype(np.int8)


def _along(scale: NDArray[np.float32], axis: int, ndim: int) -> NDArray[np.float32]:
    return np.expand_dims(scale, [i for i in range(ndim) if i != axis])
