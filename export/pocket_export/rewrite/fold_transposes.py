"""Weights that the graph would transpose at each run are stored transposed."""

from functools import partial

import numpy as np
import onnx_ir as ir

from pocket_export.rewrite.initializers import fold


def fold_transposes(model: ir.Model) -> ir.Model:
    """Replace each Transpose of an initializer by a transposed initializer, made when it is written."""
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or not source.is_initializer() or source.const_value is None:
            continue
        axes = tuple(node.attributes["perm"].as_ints())
        shape = source.const_value.shape.numpy()
        fold(model, node, partial(np.transpose, axes=axes), [shape[axis] for axis in axes], f"{source.name}.transposed")
    return model
