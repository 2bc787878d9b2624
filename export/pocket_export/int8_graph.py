"""A component's second graph, which multiplies in 8 bits, over the weights of the first."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx_ir as ir

from pocket_diffusion.bundle import Component
from pocket_diffusion.errors import ExportError
from pocket_export.rewrite import channels_last, int8_products, share_guidance, store_int8, winograd
from pocket_export.rewrite.int8_products import Form
from pocket_export.rewrite.store_int8 import known_of

_LARGEST_OWN_BYTES = 2**21
"""What the graph may hold of its own: biases, norms, and shapes."""


def int8_graph(model: ir.Model, forms: Mapping[str, Form]) -> ir.Model:
    """Return the 8-bit graph of a traced model, in which `forms` has layers by their weights' published names.

    Other layers are computed and stored as in the exact graph, as are the time embedding's.
    """
    graph = model.clone()
    graph.meta.update(model.meta)
    graph = channels_last(graph, lambda weights: known_of(forms, weights) is not None)
    graph = share_guidance(winograd(graph))
    return store_int8(int8_products(graph, lambda weights: known_of(forms, weights)))


def rounded_layers(graph: ir.Model, names: Iterable[str]) -> set[str]:
    """Return which layers, of these published names, an 8-bit graph multiplies in 8 bits."""
    products = [node.inputs[1] for node in graph.graph if node.op_type == "MatMulIntegerToFloat"]
    known = {name: name for name in names}
    found = {known_of(known, (weights.name or "").removesuffix(".int8")) for weights in products if weights is not None}
    return {name for name in found if name is not None}


def share_weights(graph: ir.Model, folder: Path, component: Component) -> None:
    """Let a graph take its weights from the file of a written component, by their names.

    Raises:
        ExportError: large weights are not there.

    """
    written = ir.load(folder / component.graph).graph.initializers
    own = 0
    for name, value in graph.graph.initializers.items():
        tensor, there = value.const_value, written.get(name)
        assert tensor is not None  # noqa: S101 - it is an initializer
        stored = None if there is None else there.const_value
        if isinstance(stored, ir.ExternalTensor) and (stored.dtype, stored.shape) == (tensor.dtype, tensor.shape):
            value.const_value = stored
        else:
            own += tensor.nbytes
    if own > _LARGEST_OWN_BYTES:
        raise ExportError(f"the 8-bit graph beside {component.graph} would hold {own / 1e6:.0f} MB of its own weights")
