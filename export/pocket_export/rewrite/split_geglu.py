"""A gated layer's one product as two, so that nothing has to be cut apart."""

import onnx_ir as ir

from pocket_export.rewrite.initializers import cut, drop_unused
from pocket_export.rewrite.nodes import Nodes


def split_geglu(model: ir.Model) -> ir.Model:
    """Replace MatMul, Add and a Split in halves by two MatMuls and Adds, each with half of the weights."""
    for split in [node for node in model.graph if node.op_type == "Split" and len(node.outputs) == 2]:
        add = split.inputs[0].producer() if split.inputs[0] is not None else None
        product = add.inputs[0].producer() if add is not None and add.inputs[0] is not None else None
        if add is None or product is None or (product.op_type, add.op_type) != ("MatMul", "Add"):
            continue
        x, weights, bias = product.inputs[0], product.inputs[1], add.inputs[1]
        if weights is None or bias is None or not (weights.is_initializer() and bias.is_initializer()):
            continue
        columns = (-1, len(x.shape) - 1) if x is not None and x.shape is not None else (-1,)
        if split.attributes.get_int("axis", 0) not in columns:
            continue
        if len(split.inputs) > 1 or any(len(node.outputs[0].uses()) > 1 for node in (product, add)):
            continue  # other parts than halves, or a product that something else needs whole
        nodes = Nodes(model)
        halves = [
            nodes.add("Add", nodes.add("MatMul", x, half), half_of_bias)
            for half, half_of_bias in zip(cut(model, weights, 2, axis=1), cut(model, bias, 2, axis=0), strict=True)
        ]
        nodes.insert_before(split)
        ir.convenience.replace_nodes_and_values(
            model.graph, split, [split, add, product], [], list(split.outputs), halves
        )
        drop_unused(model, weights)
        drop_unused(model, bias)
    return model
