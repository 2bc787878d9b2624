"""The layer table: where each published weight of a network lies in its weights file, how it is turned and how rounded.

One file a component, `<component>.layers.json`, written by the exporter. Everything that changes weights goes through
it: importing another checkpoint, LoRA. `store` makes an array of the file from a published one, `restore` goes back.

Int8 is symmetric with one scale an output (Jacob et al. 2018, section 2.1, without zero points), from -127 to 127: on
some CPUs, products with -128 are wrong.
"""

import math
from collections.abc import Callable, Iterable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.errors import BundleDamagedError, InvalidRequestError
from pocket_diffusion.strict import Strict

Shape = Annotated[tuple[Annotated[int, msgspec.Meta(gt=0, le=2**31)], ...], msgspec.Meta(max_length=8)]
Axis = Annotated[int, msgspec.Meta(ge=0, lt=8)]
Index = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Storage = Literal["float32", "float16", "int8", "scale"]
"""What the numbers in the file are. `scale` has the float32 scale of each output of an `int8` array."""
DTYPES: dict[Storage, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
    "scale": np.dtype("<f4"),
}
LARGEST_TABLE = 2**24
"""Bytes. Stable Diffusion 1.5's U-Net takes a hundredth of it."""


class Transpose(Strict, frozen=True, tag="transpose"):
    """Axes in another order."""

    axes: Annotated[tuple[Axis, ...], msgspec.Meta(max_length=8)]
    """For each axis of the result, the one that it was."""

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view."""
        return array.transpose(self.axes)

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the result's shape; ValueError where that shape has no such axes."""
        if sorted(self.axes) != list(range(len(shape))):
            raise ValueError(f"{shape} cannot be transposed to {self.axes}")
        return tuple(shape[axis] for axis in self.axes)


class Slice(Strict, frozen=True, tag="slice"):
    """A part along one axis."""

    axis: Axis
    start: Index
    end: Index

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view."""
        return array[(*[slice(None)] * self.axis, slice(self.start, self.end))]

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the result's shape; ValueError where that shape has no such part."""
        if self.axis >= len(shape) or not self.start < self.end <= shape[self.axis]:
            raise ValueError(f"{shape} has no part from {self.start} to {self.end} along axis {self.axis}")
        return (*shape[: self.axis], self.end - self.start, *shape[self.axis + 1 :])


class Reshape(Strict, frozen=True, tag="reshape"):
    """The same numbers in another shape."""

    shape: Shape

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view where there can be one, else a copy."""
        return array.reshape(self.shape)

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the result's shape; ValueError where that shape has more or fewer numbers."""
        if math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"{shape} cannot be reshaped to {self.shape}")
        return self.shape


Step = Transpose | Slice | Reshape


class Form(Strict, frozen=True, omit_defaults=True):
    """What is made of a published array for a graph: first the steps, one by one, then the storage."""

    steps: Annotated[tuple[Step, ...], msgspec.Meta(max_length=8)] = ()
    storage: Storage = "float32"
    axis: Axis | None = None
    """Of int8 and scale: the axis, after the steps, that counts the outputs. Else None."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers in the file."""
        return DTYPES[self.storage]

    def shape_of(self, published: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in the file of an array that is published in another; ValueError for impossible steps."""
        for step in self.steps:
            published = step.shape_after(published)
        if (self.axis is None) != (self.storage in ("float32", "float16")):
            raise ValueError(f"{self.storage} with the axis {self.axis}")
        if self.axis is not None and self.axis >= len(published):
            raise ValueError(f"{published} has no axis {self.axis}")
        return (published[self.axis],) if self.storage == "scale" and self.axis is not None else published


class Stored(Form, frozen=True, kw_only=True, omit_defaults=True):
    """An array of the weights file, made from a published one or from a part of it."""

    initializer: str
    """Its name in the graphs, the exact one and the one that multiplies in 8 bits."""
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**50)]
    """Where it begins in the component's weights file, in bytes."""


class Layer(Strict, frozen=True):
    """A published weight, bias or embedding."""

    shape: Shape
    """As it is published."""
    stored: Annotated[tuple[Stored, ...], msgspec.Meta(min_length=1, max_length=64)]
    """What the file has of it, all of it together."""

    def bytes_of(self, stored: Stored) -> int:
        """Return the size of one of its arrays in the file."""
        return math.prod(stored.shape_of(self.shape)) * stored.dtype.itemsize


class LayerTable(Strict, frozen=True):
    """The layers of one component."""

    layers: dict[str, Layer]
    """By published name, which is diffusers' within the component: `text_model.final_layer_norm.bias`,
    `down_blocks.0.attentions.0.proj_in.weight`, `decoder.mid_block.attentions.0.to_q.weight`."""

    def check(self, file_size: int) -> None:
        """Compare the table with itself, and with the size of the weights file in bytes.

        Raises:
            ValueError: a layer cannot be stored so, or not restored; arrays lie outside the file or in each other.

        """
        used: list[tuple[int, int, str]] = []
        for name, layer in self.layers.items():
            try:
                _check_layer(layer)
                used += [(s.offset, s.offset + layer.bytes_of(s), s.initializer) for s in layer.stored]
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        used.sort()
        for (_, end, name), (start, _, other) in pairwise(used):
            if end > start:
                raise ValueError(f"{name} and {other} lie in each other")
        if used and used[-1][1] > file_size:
            raise ValueError(f"{used[-1][2]} ends at {used[-1][1]}, but the weights file has {file_size} bytes")
        if len({name for _, _, name in used}) < len(used):
            raise ValueError("two arrays have one name")


def store(form: Form, published: NDArray[np.float32]) -> NDArray[Any]:
    """Return what the file has of a published array, contiguous, in the file's shape and type; it may be that array.

    Raises:
        InvalidRequestError: float16 cannot hold a number, or int8 has no scale for NaN or infinity. In float32 and
            float16, NaN and infinity stay what they are.

    """
    array: NDArray[Any] = published
    for step in form.steps:
        array = step.apply(array)
    if form.storage == "float32":
        return np.ascontiguousarray(array, form.dtype)
    if form.storage == "float16":
        try:
            with np.errstate(over="raise"):
                return np.ascontiguousarray(array.astype(form.dtype))  # rounded first: turning then moves half
        except FloatingPointError:
            raise InvalidRequestError(
                f"weights reach {np.abs(array).max():g}, which float16 cannot hold; it ends at 65504"
            ) from None
    assert form.axis is not None  # noqa: S101 - of int8 and scale
    scale = scale_of(array, form.axis)
    if not np.isfinite(scale).all():
        raise InvalidRequestError("weights hold NaN or infinity, which int8 cannot hold")
    return scale if form.storage == "scale" else round_to_int8(array, scale, form.axis)


def restore(layer: Layer, read: Callable[[Stored], NDArray[Any]]) -> NDArray[np.float32]:
    """Return a published array from what the file has of it, which `read` returns in the file's shape and type."""
    published = np.empty(layer.shape, np.float32)
    for stored in layer.stored:
        if stored.storage == "scale":
            continue
        values = read(stored)
        if stored.storage == "int8":
            assert stored.axis is not None  # noqa: S101 - the table was checked
            scale = next(s for s in layer.stored if s.storage == "scale" and _alike(s, stored))
            values = values * along(read(scale), stored.axis, values.ndim)  # as DequantizeLinear does
        _put(published, stored.steps, values)
    return published


def read_array(weights: Path, layer: Layer, stored: Stored) -> NDArray[Any]:
    """Return an array of a layer as it lies in a weights file.

    The file is read and not mapped: one that becomes shorter meanwhile must not end the process.

    Raises:
        BundleDamagedError: the file cannot be read, or is shorter than its table says.

    """
    shape = stored.shape_of(layer.shape)
    try:
        return np.fromfile(weights, stored.dtype, math.prod(shape), offset=stored.offset).reshape(shape)
    except (OSError, ValueError):
        raise BundleDamagedError(
            f"{weights} cannot be read, or became shorter; export the bundle again or fetch a fresh copy"
        ) from None


def scale_of(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return the scale of each output, `[outputs]`: its largest weight is ±127. `axis` counts the outputs."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.maximum(weights.max(axis=others), -weights.min(axis=others))
    return np.where(largest == 0, 1, largest / 127).astype(np.float32)


def round_to_int8(weights: NDArray[np.float32], scale: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    """Return weights in steps of their output's scale, contiguous."""
    steps = np.divide(weights, along(scale, axis, weights.ndim), order="C")
    np.rint(steps, out=steps)
    return steps.clip(-127, 127, out=steps).astype(np.int8)


def along(numbers: NDArray[np.float32], axis: int, ndim: int) -> NDArray[np.float32]:
    """Return numbers `[n]` with axes of one around, so that they lie along an axis of `ndim`."""
    return np.expand_dims(numbers, [i for i in range(ndim) if i != axis])


def _put(target: NDArray[np.float32], steps: tuple[Step, ...], values: NDArray[Any]) -> None:
    """Write values to where the steps took them from."""
    if not steps:
        target[...] = values
    elif isinstance(steps[0], Reshape):
        reshaped = steps[0].apply(target)  # a copy where it cannot be a view
        _put(reshaped, steps[1:], values)
        if not np.may_share_memory(reshaped, target):
            target[...] = reshaped.reshape(target.shape)
    else:
        _put(steps[0].apply(target), steps[1:], values)


def _check_layer(layer: Layer) -> None:
    """Raise a ValueError unless each part can be stored, and all of them make the whole."""
    for stored in layer.stored:
        stored.shape_of(layer.shape)
    rounded, scales = ([s for s in layer.stored if s.storage == kind] for kind in ("int8", "scale"))
    if len(rounded) != len(scales) or not all(any(_alike(s, scale) for scale in scales) for s in rounded):
        raise ValueError("not every int8 array has its scales")
    boxes = {_box(layer.shape, s.steps) for s in layer.stored if s.storage != "scale"}
    if sum(math.prod(end - start for start, end in box) for box in boxes) != math.prod(layer.shape) or any(
        _overlap(one, other) for one, other in combinations(boxes, 2)
    ):
        raise ValueError("its arrays together are not the whole of it")


def _alike(one: Form, other: Form) -> bool:
    return (one.steps, one.axis) == (other.steps, other.axis)


def _box(shape: tuple[int, ...], steps: Iterable[Step]) -> tuple[tuple[int, int], ...]:
    """Return from where to where, along each published axis, steps take numbers; ValueError where that is no box."""
    box = [(0, size) for size in shape]
    axes = list(range(len(shape)))
    for step in steps:
        if isinstance(step, Transpose) and axes:
            axes = [axes[axis] for axis in step.axes]
        elif isinstance(step, Slice):
            if not axes:
                raise ValueError("a part is taken after a reshape; take it before")
            start = box[axes[step.axis]][0]
            box[axes[step.axis]] = (start + step.start, start + step.end)
        elif isinstance(step, Reshape):
            axes = []
    return tuple(box)


def _overlap(one: tuple[tuple[int, int], ...], other: tuple[tuple[int, int], ...]) -> bool:
    return all(start < b and a < end for (start, end), (a, b) in zip(one, other, strict=True))
