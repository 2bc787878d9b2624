"""Large feature maps convolved in bands: a few rows of the picture, or a share of the tokens, at a time.

What a convolution reads exists only as bytes: a first Scan normalises and activates each band to learn the range, a
second does it again and rounds. The windows, nine times as large, never exist whole: a third Scan gathers and
multiplies those of a few rows. Scans write where their part belongs in the result, so that nothing is joined.
"""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from pocket_export.rewrite.nodes import Nodes, constant
from pocket_export.rewrite.scans import Body, share_out

_MOST_ROWS = 8
"""Rows of the picture whose windows are multiplied at a time: a power of two, or less where the height is not
divisible."""
_BY_NUMBER = ("Add", "Mul", "QuickGelu")
"""Operators that may come between a feature map and its rounding."""


class _Windows(NamedTuple):
    """A product of gathered windows."""

    tokens: ir.Value
    """`[N, P, C]`."""
    table: ir.Value
    """Which tokens each row of pixels is made of, `[H, W · window]`."""
    gather: ir.Node
    reshape: ir.Node
    product: ir.Node


def bands(model: ir.Model) -> ir.Model:
    """Put Scans in the place of each 8-bit product whose windows are gathered by rows: by a table with two axes.

    The two terms of one product go through the same Scan. An activation that is needed for more than one rounding
    stays whole.
    """
    products = [windows for windows in map(_windows_of, list(model.graph)) if windows is not None]
    for rounding in dict.fromkeys(_rounding_of(windows.tokens) for windows in products):
        chain = [] if rounding is None else _chain_before(rounding)
        if rounding is not None and chain:
            _round(model, rounding, chain)
    for windows in products:
        if windows.product.graph is not None:  # else it went with the other term
            _multiply(model, *_with_second_term(windows))
    return model


def _round(model: ir.Model, rounding: ir.Node, chain: list[ir.Node]) -> None:
    """Replace a rounding to bytes and what comes before it by two Scans over shares of the tokens."""
    nodes = Nodes(model)
    tokens = chain[0].inputs[0]
    assert tokens is not None  # noqa: S101 - of an operator that has one
    shares = share_out(nodes, tokens)
    scanned = [shares.tokens]
    operands = [other for node in chain for other in node.inputs[1:]]
    for operand in operands:  # one row for each sample, or for all of them
        assert operand is not None and operand.shape is not None  # noqa: S101 - `_chain_before` looked
        if len(operand.shape) == 3:
            each = nodes.add("Expand", operand, nodes.add("Concat", shares.batch, shares.count, [1], axis=0))
            scanned.append(nodes.add("Reshape", each, [-1, 1, _width(operand)]))

    def apply(body: Body) -> ir.Value:
        value, *rows = body.inputs
        for node in chain:
            others = [rows.pop(0) if len(other.shape or ()) == 3 else other for other in node.inputs[1:] if other]
            value = body.copy(node, value, *others)
        return value

    ranges = Body(rounding.outputs[0], "range", scanned)
    activated = apply(ranges)
    extremes = [ranges.add(kind, activated, keepdims=0) for kind in ("ReduceMin", "ReduceMax")]
    zero = constant(model, "float_0", np.array(0, np.float32))
    lows, highs = nodes.add_many(
        "Scan", *scanned, outputs=2, body=ranges.graph(*extremes), num_scan_inputs=len(scanned)
    )
    low = nodes.add("Min", nodes.add("ReduceMin", lows, keepdims=0), zero)
    high = nodes.add("Max", nodes.add("ReduceMax", highs, keepdims=0), zero)
    # DynamicQuantizeLinear of these two numbers finds the scale and the zero point of all.
    both = nodes.add("Concat", *(nodes.add("Unsqueeze", end, 0) for end in (low, high)), axis=0)
    _, scale, middle = nodes.add_many("DynamicQuantizeLinear", both, outputs=3)

    rounded = Body(rounding.outputs[0], "rounded", scanned)
    numbers = rounded.add("QuantizeLinear", apply(rounded), scale, middle)
    joined = nodes.add(
        "Scan", *scanned, body=rounded.graph(numbers, dtype=ir.DataType.UINT8), num_scan_inputs=len(scanned)
    )
    out = nodes.add("Reshape", joined, nodes.add("Shape", tokens))
    nodes.insert_before(rounding)
    ir.convenience.replace_all_uses_with(list(rounding.outputs), [out, scale, middle])
    for use in [use for node in chain for use in node.outputs[0].uses() if use.node.op_type == "Shape"]:
        use.node.replace_input_with(use.idx, tokens)
    _remove(model, [rounding, *reversed(chain)])


def _multiply(model: ir.Model, last: ir.Node, terms: list[_Windows]) -> None:
    """Replace products and their sum, which is `last`, by a Scan over bands of rows."""
    nodes = Nodes(model)
    tokens, table = terms[0].tokens, terms[0].table
    batch, count = (nodes.add("Shape", tokens, start=axis, end=axis + 1) for axis in (0, 1))
    samples = nodes.add("Range", nodes.int64(0), nodes.add("Squeeze", batch), nodes.int64(1))
    starts = nodes.add("Reshape", nodes.add("Mul", samples, count), [-1, 1, 1])
    height, length = (nodes.add("Shape", table, start=axis, end=axis + 1) for axis in (0, 1))
    rows = nodes.add("Min", nodes.add("BitwiseAnd", height, nodes.add("Neg", height)), _MOST_ROWS)
    shape = nodes.add("Concat", [-1], nodes.add("Mul", rows, length), axis=0)
    by_band = nodes.add("Reshape", nodes.add("Add", nodes.add("Unsqueeze", table, 0), starts), shape)
    body = Body(last.outputs[0], "band", [by_band], dtype=ir.DataType.INT64)
    products = []
    for term in terms:
        flat = nodes.add("Reshape", term.tokens, [1, -1, 0])
        windows = body.copy(term.reshape, body.copy(term.gather, flat, *body.inputs), *term.reshape.inputs[1:])
        products.append(body.copy(term.product, windows, *term.product.inputs[1:]))
    product = body.copy(last, *products) if len(products) > 1 else products[0]
    joined = nodes.add("Scan", by_band, body=body.graph(product), num_scan_inputs=1)
    weights = terms[0].product.inputs[1]
    assert weights is not None  # noqa: S101 - of a product
    out = nodes.add("Reshape", joined, nodes.add("Concat", batch, [-1, _width(weights)], axis=0))
    nodes.insert_before(last)
    ir.convenience.replace_all_uses_with(last.outputs[0], out)
    _remove(model, [last, *(node for term in terms for node in (term.product, term.reshape, term.gather))])


def _windows_of(node: ir.Node | None) -> _Windows | None:
    """Return the windows that a node multiplies, where these are gathered by rows."""
    if node is None or node.op_type != "MatMulIntegerToFloat":
        return None
    reshape = _producer(node.inputs[0])
    gather = None if reshape is None or reshape.op_type != "Reshape" else _producer(reshape.inputs[0])
    if reshape is None or gather is None or gather.op_type != "Gather":
        return None
    tokens, table = gather.inputs
    if tokens is None or table is None or table.shape is None or len(table.shape) != 2:
        return None
    return _Windows(tokens, table, gather, reshape, node)


def _with_second_term(first: _Windows) -> tuple[ir.Node, list[_Windows]]:
    """Return the last node and the terms of a product: itself, or the sum with another by the same weights."""
    uses = list(first.product.outputs[0].uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add":
        second = _windows_of(_producer(uses[0].node.inputs[1 - uses[0].idx]))
        if second is not None and second.product.inputs[1] is first.product.inputs[1]:
            return uses[0].node, [first, second]
    return first.product, [first]


def _rounding_of(tokens: ir.Value) -> ir.Node | None:
    """Return the node that rounded a feature map, which may have got a row of zeros since."""
    node = _producer(tokens)
    if node is not None and node.op_type == "Pad":
        node = _producer(node.inputs[0])
    return node if node is not None and node.op_type == "DynamicQuantizeLinear" else None


def _chain_before(rounding: ir.Node) -> list[ir.Node]:
    """Return what is done to each number of a feature map before it is rounded, and for nothing else; the first first.

    Second operands are a number for each channel `[C]`, or one for each sample and channel `[N, 1, C]`.
    """
    chain: list[ir.Node] = []
    value = rounding.inputs[0]
    while value is not None and sum(use.node.op_type != "Shape" for use in value.uses()) == 1:
        node = value.producer()
        if node is None or node.op_type not in _BY_NUMBER or not all(map(_is_row, node.inputs[1:])):
            break
        chain.append(node)
        value = node.inputs[0]
    return chain[::-1]


def _is_row(value: ir.Value | None) -> bool:
    shape = [] if value is None or value.shape is None else list(value.shape)
    return len(shape) == 1 or (len(shape) == 3 and shape[1] == 1)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _width(value: ir.Value) -> int:
    """Return the size of the last axis, which is a fixed one."""
    assert value.shape is not None  # noqa: S101 - the callers looked
    return int(value.shape[-1])  # type: ignore[arg-type] # as above


def _remove(model: ir.Model, nodes: list[ir.Node]) -> None:
    """Remove those of these nodes whose outputs nobody uses any more."""
    for node in nodes:
        if node.graph is not None and not any(value.uses() for value in node.outputs):
            model.graph.remove(node, safe=True)
