"""x·sigmoid(x) in one pass over x."""

import onnx_ir as ir

from pocket_export.rewrite.nodes import Nodes


def fuse_silu(model: ir.Model) -> ir.Model:
    """Replace each Sigmoid and the Mul of its result and input by ONNX Runtime's QuickGelu with α = 1."""
    for sigmoid in [node for node in model.graph if node.op_type == "Sigmoid"]:
        x, gate = sigmoid.inputs[0], sigmoid.outputs[0]
        uses = list(gate.uses())
        if len(uses) != 1 or uses[0].node.op_type != "Mul" or x not in uses[0].node.inputs:
            continue
        product = uses[0].node
        nodes = Nodes(model)
        silu = nodes.add("QuickGelu", x, domain="com.microsoft", alpha=1.0)
        nodes.insert_before(product)
        ir.convenience.replace_nodes_and_values(
            model.graph, product, [product, sigmoid], [], list(product.outputs), [silu]
        )
    return model
