"""The sum before a layer norm and the norm as one operator: com.microsoft's SkipLayerNormalization."""

import onnx_ir as ir

from pocket_export.rewrite.cuda.kernels import DOMAIN
from pocket_export.rewrite.nodes import Nodes, is_row, only_user


def fuse_skip_layer_norm(model: ir.Model) -> ir.Model:
    """Replace each LayerNormalization of a sum of tokens `[N, P, C]`; the sum stays for those that use it.

    A bias that was added to one of the two before, and to nothing else, goes in, too.
    """
    for norm in [node for node in model.graph if node.op_type == "LayerNormalization"]:
        total = norm.inputs[0]
        add = total.producer() if total is not None else None
        if total is None or add is None or add.op_type != "Add" or len(norm.inputs) != 3:
            continue
        if not all(value is not None and value.shape == total.shape for value in add.inputs):
            continue
        if total.shape is None or norm.attributes.get_int("axis", -1) not in (-1, len(total.shape) - 1):
            continue
        _fuse(model, add, norm)
    return model


def _fuse(model: ir.Model, add: ir.Node, norm: ir.Node) -> None:
    x, skip = add.inputs
    parts = [add]
    bias: list[ir.Value | None] = []
    for one, other in ((x, skip), (skip, x)):
        biased = one.producer() if one is not None else None
        if biased is not None and biased.op_type == "Add" and is_row(biased.inputs[1]) and only_user(biased) is add:
            (x, row), skip = biased.inputs, other
            bias, parts = [row], [add, biased]
            break
    nodes = Nodes(model)
    normed, mean, deviation, total = nodes.add_many(
        "SkipLayerNormalization",
        x,
        skip,
        *norm.inputs[1:],
        *bias,
        outputs=4,
        domain=DOMAIN,
        epsilon=norm.attributes.get_float("epsilon", 1e-5),
    )
    nodes.insert_before(add)
    mean.name = deviation.name = ""  # outputs that are left out
    ir.convenience.replace_nodes_and_values(
        model.graph, norm, [norm, *parts], [], [norm.outputs[0], add.outputs[0]], [normed, total]
    )
