"""Weights that the graph would reshape at each run are stored reshaped.

A Reshape costs nothing at a run, but where the runtime has ONNX Runtime expand the weights, it either makes another
copy of them, which is kept until all are expanded, or keeps products from having their weights packed for good.
"""

import math

import onnx_ir as ir

from pocket_diffusion.layers import Reshape
from pocket_export.rewrite.initializers import derive, drop_unused, layout_of
from pocket_export.rewrite.sizes import fixed_shape


def fold_reshapes(model: ir.Model) -> ir.Model:
    """Replace each Reshape of weights to a fixed shape by weights of that shape."""
    for node in [node for node in model.graph if node.op_type == "Reshape"]:
        inputs = [value for value in node.inputs if value is not None and value.is_initializer()]
        if len(inputs) < 2 or layout_of(inputs[0]) is None:
            continue
        target = inputs[1].const_value
        assert target is not None  # noqa: S101 - it is an initializer
        shape = [int(size) for size in target.numpy()]
        if 0 in shape:
            continue  # stands for the size as it is, or for none: neither is worth a rule
        if -1 in shape:
            shape[shape.index(-1)] = math.prod(fixed_shape(inputs[0])) // -math.prod(shape)
        folded = derive(model, inputs[0], Reshape(shape=tuple(shape)))
        ir.convenience.replace_all_uses_with(node.outputs[0], folded)
        model.graph.remove(node, safe=True)
        for value in inputs:
            drop_unused(model, value)
    return model
