"""Large feature maps a part at a time: a Scan runs a small graph for each part, and writes its results in place."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from pocket_export.rewrite.nodes import Nodes

_MOST_SHARES = 64
"""Of the tokens of a feature map: a power of two, or less where their number is not divisible."""


@dataclass(frozen=True)
class Shares:
    """The tokens of a feature map in shares of the same size."""

    tokens: ir.Value
    """`[N · shares, P / shares, C]`."""
    batch: ir.Value
    """N, int64 `[1]`."""
    count: ir.Value
    """How many shares a sample has, int64 `[1]`."""


def share_out(nodes: Nodes, tokens: ir.Value) -> Shares:
    """Cut the tokens `[N, P, C]` of a feature map into shares; nothing is copied."""
    batch, count = (nodes.add("Shape", tokens, start=axis, end=axis + 1) for axis in (0, 1))
    shares = nodes.add("Min", nodes.add("BitwiseAnd", count, nodes.add("Neg", count)), _MOST_SHARES)
    shape = nodes.add("Concat", [-1], nodes.add("Div", count, shares), [0], axis=0)
    return Shares(nodes.add("Reshape", tokens, shape), batch, shares)


class Body:
    """The graph that a Scan runs for each part; values of the graph around it may be used as they are."""

    def __init__(
        self, result: ir.Value, name: str, scanned: Sequence[ir.Value], dtype: ir.DataType = ir.DataType.FLOAT
    ) -> None:
        self._name = f"{result.name}.{name}"
        self._nodes: list[ir.Node] = []
        self.inputs = [ir.Value(name=f"{self._name}.in{i}", type=ir.TensorType(dtype)) for i in range(len(scanned))]

    def add(self, op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        """Write a node and return its output."""
        return self._append(ir.node(op_type, inputs, attributes))

    def copy(self, node: ir.Node, *inputs: ir.Value | None) -> ir.Value:
        """See `Nodes.like`."""
        copy = ir.node(node.op_type, inputs, domain=node.domain)
        copy.attributes.update(node.attributes)
        return self._append(copy)

    def graph(self, *outputs: ir.Value, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Graph:
        """Return the graph of all that was written."""
        for output in outputs:
            output.type = ir.TensorType(dtype)
        return ir.Graph(self.inputs, outputs, nodes=self._nodes, name=self._name)

    def _append(self, node: ir.Node) -> ir.Value:
        node.outputs[0].name = f"{self._name}.{len(self._nodes)}"
        self._nodes.append(node)
        return node.outputs[0]
