"""Convolutions from bytes to bytes, by scales that were measured beforehand: for networks without norms.

Where the largest magnitude of an activation is known, ONNX Runtime's `QLinearConv` makes bytes of bytes, so that no
large feature map exists in float32, and a ReLU is nothing but the least byte. It computes fastest with channels last.
Weights are rounded in the graph, when it is loaded: from -127 to 127 with one scale an output.
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pocket_export.rewrite.initializers import published_layout
from pocket_export.rewrite.nodes import Nodes, constant
from pocket_export.rewrite.sizes import fixed_shape

_TINY = np.float32(1e-30)
"""Stands for the largest of weights that are all zero."""


class _Scale(NamedTuple):
    """How numbers are bytes: (byte - zero) · step."""

    step: ir.Value
    zero: ir.Value


class _Bytes(NamedTuple):
    """A feature map `[N, H, W, C]` in 8 bits."""

    numbers: ir.Value
    scale: _Scale


def static_int8(model: ir.Model, scales: Path, *, pictures: Collection[str], exact: Collection[str]) -> list[str]:
    """Compute a network of 3x3 convolutions, ReLUs, sums and enlargements in 8 bits.

    What comes into it in float32 must be a ReLU's result, or a picture in 0…1. The graph takes the magnitudes from a
    file beside it, one float32 each.

    Args:
        model: the network, which is changed.
        scales: that file, which the graph only names.
        pictures: the convolutions, by their weights' published names, that give pictures in 0…1.
        exact: those that stay in float32.

    Returns:
        The names of the activations whose magnitudes it takes, in the order of the file.

    """
    rewriting = _Rewriting(model, scales, pictures, exact)
    rewriting.run()
    RemoveUnusedNodesPass()(model)
    return rewriting.measured


class _Rewriting:
    def __init__(self, model: ir.Model, scales: Path, pictures: Collection[str], exact: Collection[str]) -> None:
        self.measured: list[str] = []
        self._model = model
        self._scales = scales
        self._pictures = pictures
        self._exact = exact
        self._nodes = Nodes(model)
        self._bytes: dict[ir.Value, _Bytes] = {}
        """By the value `[N, C, H, W]` in whose place they stand."""

    def run(self) -> None:
        for node in list(self._model.graph):
            if node.op_type == "Conv" and _weights_name(node) not in self._exact:
                self._convolve(node)
            elif any(value in self._bytes for value in node.inputs):
                if node.op_type == "Add":
                    self._add(node)
                elif node.op_type == "Resize":
                    self._enlarge(node)
                elif node.outputs[0] not in self._bytes:  # else it is a ReLU that is in the bytes already
                    self._leave(node)
            self._nodes.insert_before(node)

    def _convolve(self, node: ir.Node) -> None:
        add, weights = self._nodes.add, _given(node, 1)
        x = self._as_bytes(_given(node, 0))
        largest = add("Max", add("ReduceMax", add("Abs", weights), [1, 2, 3], keepdims=0), self._float("tiny", _TINY))
        step = add("Div", largest, self._float("float_127", np.float32(127)))
        outputs = fixed_shape(weights)[0]
        zeros = constant(self._model, f"int8_zeros_{outputs}", np.zeros(outputs, np.int8))
        rounded = add("QuantizeLinear", weights, step, zeros, axis=0)
        bias = []
        if len(node.inputs) > 2:
            unit = add("Mul", x.scale.step, step)
            bias = [add("Cast", add("Round", add("Div", _given(node, 2), unit)), to=int(ir.DataType.INT32))]
        result, scale = self._result(node)
        strides = node.attributes.get("strides")
        made = add(
            "QLinearConv",
            x.numbers,
            *x.scale,
            rounded,
            step,
            constant(self._model, "int8_0", np.array(0, np.int8)),
            *scale,
            *bias,
            domain="com.microsoft",
            channels_last=1,
            pads=[1, 1, 1, 1],
            strides=[1, 1] if strides is None else list(strides.as_ints()),
        )
        self._bytes[result] = _Bytes(made, scale)

    def _add(self, node: ir.Node) -> None:
        a, b = (self._as_bytes(_given(node, i)) for i in range(2))
        result, scale = self._result(node)
        made = self._nodes.add("QLinearAdd", a.numbers, *a.scale, b.numbers, *b.scale, *scale, domain="com.microsoft")
        self._bytes[result] = _Bytes(made, scale)

    def _enlarge(self, node: ir.Node) -> None:
        """Repeat each pixel along both sides: ONNX Runtime's own Resize is slow with channels last."""
        add, x = self._nodes.add, self._bytes[_given(node, 0)]
        shape = add("Shape", x.numbers)
        batch, height, width, channels = (add("Slice", shape, i, i + 1) for i in range(4))
        apart = add("Reshape", x.numbers, add("Concat", batch, height, [1], width, [1], channels, axis=0))
        repeated = add("Expand", apart, [1, 1, 2, 1, 2, 1])
        sides = add("Mul", height, 2), add("Mul", width, 2)
        made = add("Reshape", repeated, add("Concat", batch, *sides, channels, axis=0))
        self._bytes[node.outputs[0]] = x._replace(numbers=made)

    def _leave(self, node: ir.Node) -> None:
        """Have a node take float32 with channels first."""
        for i, value in enumerate(node.inputs):
            if value is not None and value in self._bytes:
                x = self._bytes[value]
                floats = self._nodes.add("DequantizeLinear", x.numbers, *x.scale)
                node.replace_input_with(i, self._nodes.add("Transpose", floats, perm=[0, 3, 1, 2]))

    def _as_bytes(self, value: ir.Value) -> _Bytes:
        if value not in self._bytes:
            source = value.producer()
            is_relu = source is not None and source.op_type == "Relu"
            scale = self._measured(value, 255) if is_relu else self._picture()
            numbers = self._nodes.add("QuantizeLinear", value, *scale)
            self._bytes[value] = _Bytes(self._nodes.add("Transpose", numbers, perm=[0, 2, 3, 1]), scale)
        return self._bytes[value]

    def _result(self, node: ir.Node) -> tuple[ir.Value, _Scale]:
        """Return what a node's bytes stand for, behind the ReLU if one follows, and their scale."""
        value = node.outputs[0]
        uses = list(value.uses())
        if node.op_type == "Conv" and _weights_name(node) in self._pictures:
            return value, self._picture()
        if len(uses) == 1 and uses[0].node.op_type == "Relu":
            after = uses[0].node.outputs[0]
            return after, self._measured(after, 255)
        return value, self._measured(value, 127)

    def _measured(self, value: ir.Value, steps: int) -> _Scale:
        """Return the scale that has so many steps up to the magnitude of an activation."""
        place = len(self.measured)
        self.measured.append(str(value.name))
        tensor = ir.ExternalTensor(
            self._scales.name,
            4 * place,
            4,
            ir.DataType.FLOAT,
            shape=ir.Shape([]),
            name=f"magnitude_{place}",
            base_dir=self._scales.parent,
        )
        magnitude = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([]), const_value=tensor)
        self._model.graph.register_initializer(magnitude)
        step = self._nodes.add("Div", magnitude, self._float(f"float_{steps}", np.float32(steps)))
        return _Scale(step, self._zero(0 if steps == 255 else 128))

    def _picture(self) -> _Scale:
        return _Scale(self._float("one_255th", np.float32(1 / 255)), self._zero(0))

    def _zero(self, byte: int) -> ir.Value:
        return constant(self._model, f"uint8_{byte}", np.array(byte, np.uint8))

    def _float(self, name: str, number: np.float32) -> ir.Value:
        return constant(self._model, name, np.array(number))


def _given(node: ir.Node, i: int) -> ir.Value:
    value = node.inputs[i]
    assert value is not None  # noqa: S101 - the operators here take all of theirs
    return value


def _weights_name(node: ir.Node) -> str:
    """Return the published name of a convolution's weights."""
    return published_layout(_given(node, 1)).name
