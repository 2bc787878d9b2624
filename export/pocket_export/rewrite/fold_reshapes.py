"""Weights that the graph would reshape at each run are stored reshaped.

A Reshape costs nothing at a run, but where the runtime has ONNX Runtime expand the weights, it either makes another
copy of them, which is kept until all are expanded, or keeps products from having their weights packed for good.
"""

import math
from functools import partial

import onnx_ir as ir

from pocket_export.rewrite.initializers import add_initializer, drop_unused


def fold_reshapes(model: ir.Model) -> ir.Model:
    """Replace each Reshape of an initializer to a fixed shape by a reshaped initializer, made when it is written."""
    for node in [node for node in model.graph if node.op_type == "Reshape"]:
        inputs = [value for value in node.inputs if value is not None and value.is_initializer()]
        if len(inputs) < 2:
            continue
        source, target = (value.const_value for value in inputs)
        assert source is not None and target is not None  # noqa: S101 - they are initializers
        shape = [int(size) for size in target.numpy()]
        if 0 in shape:
            continue  # stands for the size as it is, or for none: neither is worth a rule
        if -1 in shape:
            shape[shape.index(-1)] = math.prod(source.shape.numpy()) // -math.prod(shape)
        name = f"{inputs[0].name}.{'x'.join(map(str, shape))}"
        folded = model.graph.initializers.get(name)  # there already where two nodes do the same
        if folded is None:
            make = partial(_reshape, source, shape, name)
            folded = add_initializer(model, ir.LazyTensor(make, dtype=source.dtype, shape=ir.Shape(shape), name=name))
        ir.convenience.replace_all_uses_with(node.outputs[0], folded)
        model.graph.remove(node, safe=True)
        for value in inputs:
            drop_unused(model, value)
    return model


def _reshape(tensor: ir.TensorProtocol, shape: list[int], name: str) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().reshape(shape), name=name)
