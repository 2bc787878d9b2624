"""Weights stored in half the space: float16 in the file, float32 where they are used."""

from functools import partial

import numpy as np
import onnx_ir as ir

from pocket_export.rewrite.initializers import add_initializer, large_float_initializers
from pocket_export.rewrite.nodes import Nodes, replace_initializer

_LARGEST = float(np.finfo(np.float16).max)


def store_float16(model: ir.Model) -> ir.Model:
    """Store large weights as float16 with a Cast each; what float16 cannot hold stays as it is."""
    for value, tensor in large_float_initializers(model):
        if np.abs(tensor.numpy()).max() > _LARGEST:
            continue
        name = f"{value.name}.fp16"
        stored = ir.LazyTensor(
            partial(_halve, tensor, name),
            dtype=ir.DataType.FLOAT16,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
        nodes = Nodes(model)
        replace_initializer(
            model, value, nodes, nodes.add("Cast", add_initializer(model, stored), to=ir.DataType.FLOAT)
        )
    return model


def _halve(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float16), name=name)
