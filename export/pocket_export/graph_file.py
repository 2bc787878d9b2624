"""Graphs written to files, with their weights beside them."""

from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir

from pocket_diffusion.errors import ParityError
from pocket_diffusion.layers import Layer, LayerTable, Stored
from pocket_export.rewrite.initializers import published_layout, with_layouts


def write_graph(model: ir.Model, path: Path, weights: str | None = None) -> None:
    """Write a graph, and its published weights to a file of that name beside it, and have both checked by onnx.

    The graph keeps its constants, so that another checkpoint is another weights file. Without a name, the weights stay
    where they are: in files that exist.

    Raises:
        ParityError: onnx finds the graph invalid.

    """
    model.producer_name, model.producer_version = "pocket-diffusion", version("pocket-diffusion")
    for node in model.graph:
        node.metadata_props.clear()  # where in whose source code each node came from: larger than the graph itself
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    if weights is not None:
        _write_weights(model, path.parent, weights)
    ir.save(model, path)
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise ParityError(f"{path.name} is no valid graph: {error}") from None


def layer_table(model: ir.Model) -> LayerTable:
    """Return where the published weights of a written graph lie in its weights file."""
    layers: dict[str, Layer] = {}
    for value, layout in with_layouts(model):
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            raise AssertionError(f"{value.name} was not written")
        form = layout.form
        stored = Stored(
            initializer=layout.initializer,
            offset=tensor.offset or 0,
            steps=form.steps,
            storage=form.storage,
            axis=form.axis,
        )
        known = layers.get(layout.name)
        shape, others = layout.published.shape, () if known is None else known.stored
        layers[layout.name] = Layer(shape=shape, stored=(*others, stored))
    return LayerTable(layers=layers)


def _write_weights(model: ir.Model, folder: Path, name: str) -> None:
    """Write all published weights, those of the widest numbers first, so that none begins inside another's width."""
    values = [value for value, _ in with_layouts(model)]
    values.sort(key=lambda value: -published_layout(value).form.dtype.itemsize)
    tensors = [value.const_value for value in values if value.const_value is not None]
    written = ir.external_data.convert_tensors_to_external(tensors, folder, name)
    for value, tensor in zip(values, written, strict=True):
        value.const_value = tensor
