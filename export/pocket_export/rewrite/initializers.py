"""What rewrites of weights share."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]

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


def fold(model: ir.Model, node: ir.Node, arrange: Callable[[Array], Array], shape: list[int], name: str) -> None:
    """Replace a node, whose first input is an initializer, by what `arrange` makes of that when it is written."""
    source = node.inputs[0]
    assert source is not None and source.const_value is not None  # noqa: S101 - it is an initializer
    folded = model.graph.initializers.get(name)  # there already where two nodes do the same
    if folded is None:
        make = partial(_arrange, source.const_value, arrange, name)
        dtype = source.const_value.dtype
        folded = add_initializer(model, ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(shape), name=name))
    ir.convenience.replace_all_uses_with(node.outputs[0], folded)
    inputs = [value for value in node.inputs if value is not None]
    model.graph.remove(node, safe=True)
    for value in inputs:
        drop_unused(model, value)


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
            partial(_arrange, tensor, itemgetter(where), name),
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


def _arrange(tensor: ir.TensorProtocol, arrange: Callable[[Array], Array], name: str) -> ir.TensorProtocol:
    return ir.tensor(np.ascontiguousarray(arrange(tensor.numpy())), name=name)
