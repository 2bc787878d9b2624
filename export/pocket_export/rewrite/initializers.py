"""What rewrites of weights share."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_diffusion.layers import Form, Reshape, Slice, Step, Storage, Transpose, store

MIN_ELEMENTS = 4096
"""Smaller tensors (biases, norms) are a thousandth of the weights and stay in float32."""
_SUFFIXES: dict[Storage, str] = {"float32": "", "float16": ".fp16", "int8": ".int8", "scale": ".scale"}


@dataclass(frozen=True, eq=False)
class Layout:
    """What an initializer is: a published array, in some form. Constants have none."""

    name: str
    """The array's published name."""
    published: NDArray[np.float32]
    form: Form = Form()  # noqa: RUF009 - immutable

    @property
    def initializer(self) -> str:
        """The initializer's name, which tells forms apart."""
        return f"{self.name}{''.join(map(_suffix, self.form.steps))}{_SUFFIXES[self.form.storage]}"

    @property
    def shape(self) -> tuple[int, ...]:
        """The initializer's shape."""
        return self.form.shape_of(self.published.shape)

    def then(self, *steps: Step, storage: Storage = "float32", axis: int | None = None) -> "Layout":
        """Return what more steps make of it; the last one says how the result is stored, see `Form`."""
        return replace(self, form=Form(steps=(*self.form.steps, *steps), storage=storage, axis=axis))

    def tensor(self) -> ir.TensorProtocol:
        """Return the numbers as they lie in the file, made anew each time that they are asked for."""
        return ir.LazyTensor(
            self._make,
            dtype=ir.DataType.from_numpy(self.form.dtype),
            shape=ir.Shape(self.shape),
            name=self.initializer,
        )

    def _make(self) -> ir.TensorProtocol:
        return ir.tensor(store(self.form, self.published), name=self.initializer)


def layout_of(value: ir.Value) -> Layout | None:
    """Return what an initializer is of a published array; None for a constant."""
    layout: Layout | None = value.meta.get("layout")
    return layout


def published_layout(value: ir.Value) -> Layout:
    """Return what an initializer is, where it must be of a published array."""
    layout = layout_of(value)
    if layout is None:
        raise AssertionError(f"{value.name} is a constant")
    return layout


def lay_out(value: ir.Value, layout: Layout) -> None:
    """Have an initializer hold, and be called, what a layout says."""
    value.name, value.const_value = layout.initializer, layout.tensor()
    value.meta["layout"] = layout


def add_layout(model: ir.Model, layout: Layout) -> ir.Value:
    """Return the graph's initializer of a layout, made when there is none yet."""
    known = model.graph.initializers.get(layout.initializer)
    if known is not None:
        return known
    value = add_initializer(model, layout.tensor())
    value.meta["layout"] = layout
    return value


def derive(
    model: ir.Model, value: ir.Value, *steps: Step, storage: Storage = "float32", axis: int | None = None
) -> ir.Value:
    """Return the initializer that steps and a storage make of another, of a published array too."""
    return add_layout(model, published_layout(value).then(*steps, storage=storage, axis=axis))


def with_layouts(model: ir.Model) -> list[tuple[ir.Value, Layout]]:
    """Return the initializers that are made of published arrays."""
    found = [(value, layout_of(value)) for value in model.graph.initializers.values()]
    return [(value, layout) for value, layout in found if layout is not None]


def large_weights(model: ir.Model) -> list[tuple[ir.Value, Layout]]:
    """Return the float32 weights worth storing otherwise."""
    return [
        (value, layout)
        for value, layout in with_layouts(model)
        if layout.form.storage == "float32" and math.prod(layout.shape) >= MIN_ELEMENTS
    ]


def add_initializer(model: ir.Model, tensor: ir.TensorProtocol) -> ir.Value:
    """Add a tensor to the graph under its own name."""
    value = ir.Value(
        name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def cut(model: ir.Model, value: ir.Value, parts: int, axis: int) -> list[ir.Value]:
    """Add an initializer's parts along an axis, as equal as can be."""
    if parts == 1:
        return [value]
    assert value.const_value is not None  # noqa: S101 - it is an initializer
    size = int(value.const_value.shape.numpy()[axis])
    ends = [size * i // parts for i in range(parts + 1)]
    return [derive(model, value, Slice(axis=axis, start=start, end=end)) for start, end in pairwise(ends)]


def drop_unused(model: ir.Model, value: ir.Value) -> None:
    """Remove an initializer that no node uses any more, also where it is an optional input."""
    if not value.uses():
        model.graph.initializers.pop(value.name or "", None)
        if value in model.graph.inputs:
            model.graph.inputs.remove(value)


def _suffix(step: Step) -> str:
    match step:
        case Transpose():
            return f".transposed_{''.join(map(str, step.axes))}"
        case Slice():
            return f".part_{step.axis}_{step.start}_{step.end}"
        case Reshape():
            return f".{'x'.join(map(str, step.shape))}"
