"""What rewrites of weights share."""

from functools import partial
from itertools import pairwise

import numpy as np
import onnx_ir as ir

MIN_ELEMENTS = 4096
"""Smaller tensors (biases, norms) are a thousandth of the weights and stay in float32."""


def large_float_initializers(model: ir.Model) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Return the float32 weights worth storing otherwise."""
    found = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size >= MIN_ELEMENTS:
            found.append((value, tensor))
    return found


def add_initializer(model: ir.Model, tensor: ir.TensorProtocol) -> ir.Value:
    """Add a tensor to the graph under its own name."""
    value = ir.Value(
        name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def replace_initializer(model: ir.Model, value: ir.Value, node: ir.Node) -> None:
    """Let `node` compute what `value` held.

    The node goes to the front of the list: ONNX Runtime orders nodes by a depth-first walk from the outputs, and only
    nodes at the front are run just before their result is used; elsewhere all of them run first, and all weights
    are in memory twice.
    """
    output = node.outputs[0]
    output.shape, output.dtype = value.shape, ir.DataType.FLOAT
    ir.convenience.replace_all_uses_with(value, output)
    del model.graph.initializers[value.name or ""]
    model.graph.insert_before(model.graph[0], node)


def cut(model: ir.Model, value: ir.Value, parts: int, axis: int) -> list[ir.Value]:
    """Add an initializer's parts along an axis, as equal as can be, each made when it is written."""
    if parts == 1:
        return [value]
    tensor = value.const_value
    assert tensor is not None  # noqa: S101 - it is an initializer
    shape = list(tensor.shape.numpy())
    ends = [shape[axis] * i // parts for i in range(parts + 1)]
    pieces = []
    for i, (start, end) in enumerate(pairwise(ends)):
        name = f"{value.name}.{i}"
        where = tuple(slice(start, end) if i == axis else slice(None) for i in range(len(shape)))
        piece = ir.LazyTensor(
            partial(_piece, tensor, where, name),
            dtype=tensor.dtype,
            shape=ir.Shape([*shape[:axis], end - start, *shape[axis + 1 :]]),
            name=name,
        )
        pieces.append(add_initializer(model, piece))
    return pieces


def drop_unused(model: ir.Model, value: ir.Value) -> None:
    """Remove an initializer that no node uses any more, also where it is an optional input."""
    if not value.uses():
        model.graph.initializers.pop(value.name or "", None)
        if value in model.graph.inputs:
            model.graph.inputs.remove(value)


def _piece(tensor: ir.TensorProtocol, where: tuple[slice, ...], name: str) -> ir.TensorProtocol:
    return ir.tensor(np.ascontiguousarray(tensor.numpy()[where]), name=name)
