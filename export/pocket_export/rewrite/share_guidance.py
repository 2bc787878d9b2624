"""What does not depend on the context is computed once for all contexts."""

import onnx_ir as ir

from pocket_export.rewrite.nodes import Nodes

# Of the operators that join values with the context's, these want equal batches; the others broadcast.
_WANTS_EQUAL_BATCHES = ("Concat", "MultiHeadAttention", "SkipGroupNorm", "SkipLayerNormalization")


def share_guidance(model: ir.Model) -> ir.Model:
    """Let a U-Net take one picture's latents and timestep with several contexts, as guidance wants it.

    Up to the first cross-attention both halves of a guided step are the same numbers, and so is all that depends on the
    timestep alone; they are repeated where they first meet the context. As many pictures as contexts stay possible.
    """
    by_name = {value.name: value for value in model.graph.inputs}
    context = by_name.get("context")
    if context is None or context.shape is None:
        return model
    _keep_batch_in_reshapes(model, context.shape[0])
    dependent = {context}
    nodes = Nodes(model)
    contexts = nodes.add("Shape", context, start=0, end=1)
    nodes.insert_before(model.graph[0])
    for node in list(model.graph):
        if not dependent.intersection(node.inputs) or node.op_type == "Shape":
            continue
        dependent.update(node.outputs)
        if node.op_type in _WANTS_EQUAL_BATCHES:
            for i, value in enumerate(node.inputs):
                if value is None or value.shape is None or value.is_initializer() or value in dependent:
                    continue
                ones = [1] * (len(value.shape) - 1)
                repeats = nodes.add("Concat", contexts, ones, axis=0)
                node.replace_input_with(i, nodes.add("Expand", value, repeats))
            if len(nodes):
                nodes.insert_before(node)
    batch = context.shape[0]
    for value in dependent:
        if value.shape is not None:  # ONNX Runtime trusts equal names to be equal sizes
            value.shape = ir.Shape(["contexts" if size == batch else size for size in value.shape])
    return model


def _keep_batch_in_reshapes(model: ir.Model, batch: int | ir.SymbolicDim) -> None:
    """Where a Reshape's target begins with an input's batch, let it begin with 0: the batch of what is reshaped."""

    def keeps_batch(reshape: ir.Node) -> bool:
        data = reshape.inputs[0]
        return reshape.op_type == "Reshape" and data is not None and data.shape is not None and data.shape[0] == batch

    nodes = Nodes(model)
    for shape in [node for node in model.graph if node.op_type == "Shape"]:
        attributes = {name: attribute.value for name, attribute in shape.attributes.items()}
        if attributes != {"start": 0, "end": 1} or shape.inputs[0] not in model.graph.inputs:
            continue
        for concat, position in list(shape.outputs[0].uses()):
            reshapes = concat.outputs[0].consumers()
            if concat.op_type == "Concat" and position == 0 and all(map(keeps_batch, reshapes)):
                concat.replace_input_with(0, nodes.int64([0]))
                for reshape in reshapes:
                    reshape.attributes.pop("allowzero", None)
