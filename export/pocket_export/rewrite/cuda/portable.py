"""The twin of a graph for CUDA that runs anywhere: fused operators without a CPU kernel as what they stand for.

The twin computes what the kernels are documented to (docs/ContribOperators.md of ONNX Runtime; their sources are named
in `kernels`), from the same weights. It proves wiring, layouts and axes, and draws where there is no GPU.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from pocket_export.rewrite.cuda.kernels import DOMAIN
from pocket_export.rewrite.nodes import Nodes, constant
from pocket_export.rewrite.sizes import fixed_shape

_FIRST, _LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def portable(model: ir.Model) -> ir.Model:
    """Replace each operator that has no CPU kernel in a graph that computes in float32; its values keep their names."""
    for node in list(model.graph):
        expand = _EXPANSIONS.get(node.op_type) if node.domain == DOMAIN else None
        if expand is None:
            continue
        nodes = Nodes(model)
        outputs = expand(model, nodes, node)[: len(node.outputs)]
        nodes.insert_before(node)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [], list(node.outputs), outputs)
    return model


def _convolve(_model: ir.Model, nodes: Nodes, node: ir.Node) -> list[ir.Value]:
    x, weights, *bias = node.inputs
    turned = [nodes.add("Transpose", value, perm=_FIRST) for value in (x, weights)]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return [nodes.add("Transpose", nodes.add("Conv", *turned, *bias, **attributes), perm=_LAST)]


def _normalise(model: ir.Model, nodes: Nodes, node: ir.Node) -> list[ir.Value]:
    return [_group_norm(model, nodes, node, node.inputs[0])]


def _group_norm(model: ir.Model, nodes: Nodes, node: ir.Node, x: ir.Value | None) -> ir.Value:
    """Normalise a feature map as a node says."""
    _, gamma, beta, *_ = node.inputs
    if not node.attributes.get_int("channels_last", 1):
        x = nodes.add("Transpose", x, perm=_LAST)
    groups, channels = node.attributes["groups"].as_int(), fixed_shape(_given(gamma))[0]
    grouped = nodes.add("Reshape", x, [0, -1, groups, channels // groups])
    centred = nodes.add("Sub", grouped, nodes.add("ReduceMean", grouped, nodes.int64([1, 3])))
    variance = nodes.add("ReduceMean", nodes.add("Mul", centred, centred), nodes.int64([1, 3]))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    least = constant(model, f"epsilon_{epsilon:g}", np.array(epsilon, np.float32))
    deviation = nodes.add("Sqrt", nodes.add("Add", variance, least))
    normed = nodes.add("Reshape", nodes.add("Div", centred, deviation), nodes.add("Shape", x))
    out = nodes.add("Add", nodes.add("Mul", normed, gamma), beta)
    if node.attributes["activation"].as_int():
        out = nodes.add("QuickGelu", out, domain=DOMAIN, alpha=1.0)
    if not node.attributes.get_int("channels_last", 1):
        out = nodes.add("Transpose", out, perm=_FIRST)
    return out


def _sum_and_normalise(model: ir.Model, nodes: Nodes, node: ir.Node) -> list[ir.Value]:
    x, _, _, skip, *bias = node.inputs
    total = nodes.add("Add", x, skip)
    if bias:
        total = nodes.add("Add", total, bias[0])
    return [_group_norm(model, nodes, node, total), total]


def _split_gelu(_model: ir.Model, nodes: Nodes, node: ir.Node) -> list[ir.Value]:
    hidden, gate = nodes.add_many("Split", nodes.add("Add", *node.inputs), outputs=2, axis=-1, num_outputs=2)
    return [nodes.add("Mul", hidden, nodes.add("Gelu", gate))]


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None  # noqa: S101 - the operator wants it
    return value


_EXPANSIONS: dict[str, Callable[[ir.Model, Nodes, ir.Node], list[ir.Value]]] = {
    "NhwcConv": _convolve,
    "GroupNorm": _normalise,
    "SkipGroupNorm": _sum_and_normalise,
    "BiasSplitGelu": _split_gelu,
}
