"""What a float16 graph computes, on machines that have no float16: in float32, with every result rounded.

ONNX Runtime's CPU provider runs a float16 graph in float32 and does not round in between, so that nothing overflows
there.
"""

import onnx_ir as ir

from pocket_export.rewrite.compute_float16 import element_type, results
from pocket_export.rewrite.nodes import Nodes


def simulate_float16(model: ir.Model) -> ir.Model:
    """Let a graph's float16 operators compute in float32, and round to float16 all that they write.

    A GPU sums float16 products in float32 too.
    """
    halves = [node for node in model.graph if any(element_type(x) == ir.DataType.FLOAT16 for x in node.outputs)]
    stored = [x for x in model.graph.initializers.values() if element_type(x) == ir.DataType.FLOAT16]
    restored = Nodes(model)
    for value in stored:
        uses = list(value.uses())
        full = restored.add("Cast", value, to=ir.DataType.FLOAT)
        full.dtype = ir.DataType.FLOAT
        for node, i in uses:
            node.replace_input_with(i, full)
    restored.insert_in_front()
    for node in halves:
        for value in results(node):
            nodes = Nodes(model)
            uses = list(value.uses())
            rounded = value if node.op_type == "Cast" else nodes.add("Cast", value, to=ir.DataType.FLOAT16)
            full = nodes.add("Cast", rounded, to=ir.DataType.FLOAT)
            if node.op_type != "Cast":
                value.dtype = ir.DataType.FLOAT
            rounded.dtype, full.dtype = ir.DataType.FLOAT16, ir.DataType.FLOAT
            nodes.insert_after(node)
            for user, i in uses:
                user.replace_input_with(i, full)
    return model
