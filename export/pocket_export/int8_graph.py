"""A component's second graph, which multiplies in 8 bits, over the weights of the first."""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from pocket_diffusion.bundle import Component
from pocket_diffusion.errors import ExportError
from pocket_export.rewrite import bands, channels_last, int8_products, share_guidance, store_int8, winograd
from pocket_export.rewrite.initializers import layout_of
from pocket_export.rewrite.int8_products import Form


def int8_graph(model: ir.Model, forms: Mapping[str, Form]) -> ir.Model:
    """Return the 8-bit graph of a traced model, in which `forms` has layers by their weights' published names.

    Other layers are computed and stored as in the exact graph, as are the time embedding's.
    """
    graph = model.clone()
    graph.meta.update(model.meta)
    graph = channels_last(graph, forms.__contains__)
    graph = share_guidance(winograd(graph))
    return store_int8(bands(int8_products(graph, forms.get)))


def rounded_layers(graph: ir.Model) -> set[str]:
    """Return which layers an 8-bit graph multiplies in 8 bits, by their weights' published names."""
    products = [node.inputs[1] for node in graph.graph.all_nodes() if node.op_type == "MatMulIntegerToFloat"]
    layouts = [layout_of(weights) for weights in products if weights is not None]
    return {layout.name for layout in layouts if layout is not None}


def share_weights(graph: ir.Model, folder: Path, component: Component) -> None:
    """Let a graph take all published weights from the file of a written component, by their initializers' names.

    Raises:
        ExportError: some are not there.

    """
    written = ir.load(folder / component.graph).graph.initializers
    for name, value in graph.graph.initializers.items():
        if layout_of(value) is None:
            continue
        tensor, there = value.const_value, written.get(name)
        stored = None if there is None else there.const_value
        assert tensor is not None  # noqa: S101 - it is an initializer
        if not isinstance(stored, ir.ExternalTensor) or (stored.dtype, stored.shape) != (tensor.dtype, tensor.shape):
            raise ExportError(f"{component.weights} has no {name}, which the 8-bit graph beside it needs")
        value.const_value = stored
