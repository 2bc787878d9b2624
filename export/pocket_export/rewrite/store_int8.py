"""Weights stored in a quarter of the space: int8 with one scale a channel, float32 where they are used."""

import onnx_ir as ir

from pocket_diffusion.layers import Slice
from pocket_export.rewrite.initializers import Layout, large_weights
from pocket_export.rewrite.int8_weights import add_int8, as_product, relative_error
from pocket_export.rewrite.nodes import Nodes, replace_initializer
from pocket_export.rewrite.sizes import fixed_shape
from pocket_export.rewrite.store_float16 import store_float16

LARGEST_ERROR = 0.01
"""What int8 may change a layer's output by, relative to it, before its weights stay in float16."""


def store_int8(model: ir.Model) -> ir.Model:
    """Store the weights of products and convolutions as int8 with a DequantizeLinear each; all others as float16.

    How they are rounded and how they lie in the file, see `int8_weights`. `meta["int8_errors"]` holds what is known of
    the layers' errors by their weights' published names; `meta["int8_layers"]` gets what became of each.
    """
    errors: dict[str, float] = model.meta.get("int8_errors", {})
    layers = model.meta["int8_layers"] = {}
    for value, layout in large_weights(model):
        axis = _output_axis(value)
        if axis is None:
            continue
        error = errors.get(layout.name)
        if error is None:  # not measured: take what inputs without a pattern would give
            error = relative_error(layout.tensor().numpy(), axis)
        small_enough = error <= LARGEST_ERROR
        layers[layout.name] = {"error": error, "stored": "int8" if small_enough else "fp16"}
        if small_enough:
            _store(model, value, layout, axis)
    return store_float16(model)


def _store(model: ir.Model, value: ir.Value, layout: Layout, axis: int) -> None:
    """Replace float32 weights by stored ones, and the nodes that turn these back."""
    nodes = Nodes(model)
    is_convolution = len(fixed_shape(value)) == 4
    stored = _restore_convolution(model, nodes, layout) if is_convolution else add_int8(model, layout, axis)
    replace_initializer(model, value, nodes, nodes.add("DequantizeLinear", *stored, axis=axis))


def _restore_convolution(model: ir.Model, nodes: Nodes, layout: Layout) -> tuple[ir.Value, ir.Value]:
    """Return a convolution's rounded weights `[O, C, h, w]` and their scales, made of those that lie in the file.

    The file has the weights whole, also where the graph takes them in pieces: the 8-bit graph takes them so.
    """
    shape = layout.published.shape
    whole = Layout(layout.name, layout.published).then(*as_product(shape))
    weights, scale = add_int8(model, whole, axis=1)
    _, channels, height, width = shape
    for part in layout.form.steps:
        assert isinstance(part, Slice) and part.axis == 0  # noqa: S101 - nothing else is done to convolutions
        weights = nodes.add("Slice", weights, part.start, part.end, 1)
        scale = nodes.add("Slice", scale, part.start, part.end, 0)
    weights = nodes.add("Transpose", weights, perm=[1, 0])
    if height * width > 1:
        weights = nodes.add("Reshape", weights, [-1, height * width, channels])
        weights = nodes.add("Transpose", weights, perm=[0, 2, 1])
    return nodes.add("Reshape", weights, [-1, channels, height, width]), scale


def _output_axis(value: ir.Value) -> int | None:
    """Return the axis of a weight along which outputs are counted, or None where it is no such weight."""
    axes = set()
    for node, position in value.uses():
        if node.op_type == "Reshape" and len(value.shape or ()) == 4:
            axes.add(0)  # on its way to Winograd's form
        elif position != 1:
            return None
        elif node.op_type == "Conv":
            axes.add(0)
        elif node.op_type == "Gemm":
            axes.add(0 if node.attributes.get_int("transB", 0) else 1)
        elif node.op_type == "MatMul":
            axes.add(1)
        else:
            return None
    return axes.pop() if len(axes) == 1 else None
