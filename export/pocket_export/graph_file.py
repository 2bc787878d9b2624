"""Graphs written to files, with their weights beside them."""

from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir

from pocket_diffusion.errors import ParityError

_EMBEDDED_BYTES = 1024  # smaller tensors stay inside the graph's own file


def write_graph(model: ir.Model, path: Path, weights: str | None = None) -> None:
    """Write a graph, and its weights to a file of that name beside it, and have both checked by onnx.

    Without a name, the weights stay where they are: in files that exist, or in the graph.

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
    if weights is None:
        ir.save(model, path)
    else:
        ir.save(model, path, external_data=weights, size_threshold_bytes=_EMBEDDED_BYTES)
        (path.parent / weights).touch()  # every component has one, also where no tensor is large enough
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise ParityError(f"{path.name} is no valid graph: {error}") from None
