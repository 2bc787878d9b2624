"""Modules as the exporter traces them, and graphs as they are written, with nothing optimised away."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from pocket_diffusion.bundle import TensorSpec
from pocket_export.parts import Part
from pocket_export.trace import trace

Inputs = dict[str, NDArray[np.float32]]
USUAL = {"batch": 2, "contexts": 2, "height": 8, "width": 8, "latent_height": 8, "latent_width": 8, "tokens": 5}


def traced_module(
    name: str, module: nn.Module, inputs: Mapping[str, tuple[int | str, ...]], *, downscale: int, pixels_per_size: int
) -> ir.Model:
    """Trace a module of one output. Its norms and biases are changed, so that they matter."""
    module.eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in inputs.items())
    outputs = (TensorSpec(name="y", dtype="float32", shape=()),)
    return trace(Part(name, module, specs, outputs, USUAL, downscale, pixels_per_size=pixels_per_size))


def run_as_written(model: ir.Model, inputs: Inputs) -> NDArray[Any]:
    """Return a graph's first output."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    output: NDArray[Any] = session.run(None, inputs)[0]
    return output
