"""Products of 8-bit numbers: weights as they lie in the file, activations rounded at run time, sums exact.

An activation is rounded to unsigned 8 bits by a scale that is found when it is there, so nothing is calibrated. Each
tensor is rounded once for all products that read it, before its rows are gathered, repeated or padded.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pocket_export.rewrite.initializers import layout_of, published_layout
from pocket_export.rewrite.int8_weights import add_int8
from pocket_export.rewrite.nodes import Nodes, constant
from pocket_export.rewrite.sizes import fixed_shape

Form = Literal["tensor", "token", "two_terms"]
"""How a product's activations are rounded: by one scale a tensor, by one scale a token (row), which few large tokens do
not spoil, or as the sum of two terms, the second of which is what rounding left of the first: 15 bits in all."""

_MOVES = ("Gather", "Reshape", "Pad", "Slice", "Expand")
"""Operators that only move numbers, so that these may be rounded before."""
_TINY = np.array(1e-30, np.float32)
"""Stands for the largest number of a token that has none but zeros."""


class Rounded(NamedTuple):
    """An activation in 8 bits: (numbers - zero) · scale."""

    numbers: ir.Value
    scale: ir.Value
    zero: ir.Value


def int8_products(model: ir.Model, form_of: Callable[[str], Form | None]) -> ir.Model:
    """Multiply in 8 bits by every weight for whose published name `form_of` has a form; others stay in float32.

    Weights are `[inputs, outputs]`.
    """
    products = _Products(model)
    for node in list(model.graph):
        weights = node.inputs[1] if node.op_type == "MatMul" else None
        layout = None if weights is None else layout_of(weights)
        if layout is not None:
            form = form_of(layout.name)
            if form is not None:
                products.replace(node, form)
    RemoveUnusedNodesPass()(model)
    return model


class _Products:
    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._nodes = Nodes(model)
        self._rounded: dict[ir.Value, Rounded] = {}
        self._rests: dict[ir.Value, Rounded] = {}
        self._by_token: dict[ir.Value, tuple[Rounded, ir.Value]] = {}

    def replace(self, node: ir.Node, form: Form) -> None:
        x, weights = node.inputs[0], node.inputs[1]
        assert x is not None and weights is not None  # noqa: S101 - the caller looked
        stored = add_int8(self._model, published_layout(weights), axis=1)
        bias, last = _bias_after(node)
        if form == "token":
            rounded, largest = self._round_by_token(x)
            out = self._nodes.add("Mul", self._multiply(rounded, stored, None), largest)
            if bias is not None:
                out = self._nodes.add("Add", out, bias)
        else:
            out = self._multiply(self._round(x), stored, bias)
            if form == "two_terms":
                out = self._nodes.add("Add", out, self._multiply(self._round_rest(x), stored, None))
        self._nodes.insert_before(last)
        ir.convenience.replace_nodes_and_values(self._model.graph, last, [last], [], list(last.outputs), [out])

    def _multiply(self, x: Rounded, weights: tuple[ir.Value, ir.Value], bias: ir.Value | None) -> ir.Value:
        more = () if bias is None else (None, bias)
        return self._nodes.add(
            "MatMulIntegerToFloat", x.numbers, weights[0], x.scale, weights[1], x.zero, *more, domain="com.microsoft"
        )

    def _round(self, x: ir.Value) -> Rounded:
        """Return an activation in 8 bits."""

        def here(x: ir.Value) -> Rounded:
            return Rounded(*self._nodes.add_many("DynamicQuantizeLinear", x, outputs=3))

        return self._round_source(x, self._rounded, here)

    def _round_rest(self, x: ir.Value) -> Rounded:
        """Return what that leaves of an activation, in 8 bits of its own."""

        def here(x: ir.Value) -> Rounded:
            rest = self._nodes.add("Sub", x, self._nodes.add("DequantizeLinear", *self._round(x)))
            return Rounded(*self._nodes.add_many("DynamicQuantizeLinear", rest, outputs=3))

        return self._round_source(x, self._rests, here)

    def _round_source(
        self, x: ir.Value, known: dict[ir.Value, Rounded], here: Callable[[ir.Value], Rounded]
    ) -> Rounded:
        """Round an activation before it is moved, and move the rounded one."""
        if x not in known:
            move = x.producer()
            if move is None or move.op_type not in _MOVES or move.inputs[0] is None:
                known[x] = here(x)
            else:
                source = self._round_source(move.inputs[0], known, here)
                border = [source.zero] if move.op_type == "Pad" else []
                moved = self._nodes.like(move, source.numbers, *move.inputs[1:], *border)
                known[x] = source._replace(numbers=moved)
        return known[x]

    def _round_by_token(self, x: ir.Value) -> tuple[Rounded, ir.Value]:
        """Return an activation whose tokens were divided by their largest numbers, and these, `[..., 1]`."""
        if x not in self._by_token:
            nodes = self._nodes
            above = nodes.add("ReduceMax", x, -1, keepdims=1)
            below = nodes.add("Neg", nodes.add("ReduceMin", x, -1, keepdims=1))
            largest = nodes.add("Max", above, below, constant(self._model, "tiny", _TINY))
            scale = constant(self._model, "one_127th", np.array(1 / 127, np.float32))
            middle = constant(self._model, "uint8_128", np.array(128, np.uint8))
            scaled = nodes.add("Mul", x, nodes.add("Reciprocal", largest))
            self._by_token[x] = Rounded(nodes.add("QuantizeLinear", scaled, scale, middle), scale, middle), largest
        return self._by_token[x]


def _bias_after(product: ir.Node) -> tuple[ir.Value | None, ir.Node]:
    """Return the bias that is added to a product and the node that adds it; else None and the product."""
    uses = list(product.outputs[0].uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add":
        other = uses[0].node.inputs[1 - uses[0].idx]
        if other is not None and other.is_initializer() and len(fixed_shape(other)) == 1:
            return other, uses[0].node
    return None, product
