"""What rewrites of weights share."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import onnx_ir as ir

MIN_ELEMENTS = 4096
"""Smaller tensors (biases, norms) are a thousandth of the weights and stay in float32."""


@dataclass(frozen=True)
class Piece:
    """What an initializer is of another, counted along the axis that was cut."""

    whole: str
    """The other's name."""
    tensor: ir.TensorProtocol
    """The other's numbers."""
    start: int
    end: int

    @classmethod
    def of(cls, value: ir.Value) -> "Piece":
        """Return what `cut` made an initializer of; where it did not, the whole of itself."""
        assert value.const_value is not None  # noqa: S101 - it is an initializer
        whole = cls(value.name or "", value.const_value, 0, int(value.const_value.shape.numpy()[0]))
        piece: Piece = value.meta.get("piece", whole)
        return piece


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
        pieces[-1].meta["piece"] = Piece(value.name or "", tensor, start, end)
    return pieces


def drop_unused(model: ir.Model, value: ir.Value) -> None:
    """Remove an initializer that no node uses any more, also where it is an optional input."""
    if not value.uses():
        model.graph.initializers.pop(value.name or "", None)
        if value in model.graph.inputs:
            model.graph.inputs.remove(value)


def _piece(tensor: ir.TensorProtocol, where: tuple[slice, ...], name: str) -> ir.TensorProtocol:
    return ir.tensor(np.ascontiguousarray(tensor.numpy()[where]), name=name)
