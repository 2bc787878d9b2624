"""Weights that the graph would transpose at each run are stored transposed."""

from functools import partial

import numpy as np
import onnx_ir as ir

from pocket_export.rewrite.initializers import add_initializer, drop_unused


def fold_transposes(model: ir.Model) -> ir.Model:
    """Replace each Transpose of an initializer by a transposed initializer, made when it is written."""
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        tensor = source.const_value if source is not None and source.is_initializer() else None
        if source is None or tensor is None:
            continue
        output = node.outputs[0]
        axes = tuple(node.attributes["perm"].as_ints())
        name = f"{source.name}.transposed"
        folded = ir.LazyTensor(
            partial(_transpose, tensor, axes, name),
            dtype=tensor.dtype,
            shape=ir.Shape([tensor.shape.numpy()[axis] for axis in axes]),
            name=name,
        )
        ir.convenience.replace_all_uses_with(output, add_initializer(model, folded))
        model.graph.remove(node, safe=True)
        drop_unused(model, source)
    return model


def _transpose(tensor: ir.TensorProtocol, axes: tuple[int, ...], name: str) -> ir.TensorProtocol:
    return ir.tensor(np.ascontiguousarray(tensor.numpy().transpose(axes)), name=name)
