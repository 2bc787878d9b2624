"""Weights stored in half the space: float16 in the file, float32 where they are used."""

import numpy as np
import onnx_ir as ir

from pocket_export.rewrite.initializers import derive, large_weights
from pocket_export.rewrite.nodes import Nodes, replace_initializer

_LARGEST = float(np.finfo(np.float16).max)


def store_float16(model: ir.Model) -> ir.Model:
    """Store large weights as float16 with a Cast each; what float16 cannot hold stays as it is."""
    for value, layout in large_weights(model):
        if np.abs(layout.tensor().numpy()).max() > _LARGEST:
            continue
        nodes = Nodes(model)
        restored = nodes.add("Cast", derive(model, value, storage="float16"), to=ir.DataType.FLOAT)
        replace_initializer(model, value, nodes, restored)
    return model
