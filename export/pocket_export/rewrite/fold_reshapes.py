"""Weights that the graph would reshape at each run are stored reshaped.

A Reshape costs nothing at a run, but where the runtime has ONNX Runtime expand the weights, it either makes another
copy of them, which is kept until all are expanded, or keeps products from having their weights packed for good.
"""

import math
from operator import methodcaller

import onnx_ir as ir

from pocket_export.rewrite.initializers import fold


def fold_reshapes(model: ir.Model) -> ir.Model:
    """Replace each Reshape of an initializer to a fixed shape by a reshaped initializer, made when it is written."""
    for node in list(model.graph):
        if node.op_type != "Reshape":
            continue
        source, target = (value.const_value if value and value.is_initializer() else None for value in node.inputs)
        if source is None or target is None:
            continue
        shape = [int(size) for size in target.numpy()]
        if 0 in shape:
            continue  # stands for the size as it is, or for none: neither is worth a rule
        if -1 in shape:
            shape[shape.index(-1)] = math.prod(source.shape.numpy()) // -math.prod(shape)
        name = f"{source.name}.{'x'.join(map(str, shape))}"
        fold(model, node, methodcaller("reshape", shape), shape, name)
    return model
