"""What follows a gated layer's product as one operator: com.microsoft's BiasSplitGelu."""

import onnx_ir as ir

from pocket_export.rewrite.cuda.kernels import DOMAIN, splits_gelu
from pocket_export.rewrite.nodes import Nodes, is_row, only_user
from pocket_export.rewrite.sizes import fixed_shape


def fuse_bias_split_gelu(model: ir.Model) -> ir.Model:
    """Replace Add of a bias, Split in halves, Gelu of the second and Mul, where the kernel takes the width."""
    for split in [node for node in model.graph if node.op_type == "Split" and len(node.outputs) == 2]:
        add = split.inputs[0].producer() if split.inputs[0] is not None else None
        if add is None or add.op_type != "Add" or len(split.inputs) > 1 or only_user(add) is not split:
            continue
        x, bias = add.inputs
        if x is None or x.shape is None or len(x.shape) != 3 or bias is None or not is_row(bias):
            continue
        if split.attributes.get_int("axis", 0) not in (-1, 2) or not splits_gelu(fixed_shape(bias)[0]):
            continue
        hidden, gate = split.outputs
        gelu = next(iter(gate.uses())).node if len(gate.uses()) == 1 else None
        if gelu is None or gelu.op_type != "Gelu" or gelu.attributes.get_string("approximate", "none") != "none":
            continue
        product = only_user(gelu)
        if product is None or product.op_type != "Mul" or only_user(split) is not product:
            continue
        if {*product.inputs} != {hidden, gelu.outputs[0]}:
            continue
        nodes = Nodes(model)
        out = nodes.add("BiasSplitGelu", x, bias, domain=DOMAIN)
        out.shape, out.type = product.outputs[0].shape, product.outputs[0].type
        nodes.insert_before(product)
        ir.convenience.replace_nodes_and_values(
            model.graph, product, [product, gelu, split, add], [], list(product.outputs), [out]
        )
    return model
