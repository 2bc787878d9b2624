"""OpenVINO as its users run it, tuned for latency, on what its own converter makes of diffusers' networks.

Without a word on precision, it computes in bfloat16 where the CPU has that.
"""

from pathlib import Path

import openvino

from systems.peer import Opened

_PRODUCTS = ("Convolution", "FullyConnected", "MatMul")
"""Types of layers, as OpenVINO calls them once it has compiled a model."""


def open_network(folder: Path, component: str, threads: int | None, precision: str | None = None) -> Opened:
    """See `systems.peer.OpenNetwork`; `precision` is what OpenVINO is told to compute in."""
    config = {"PERFORMANCE_HINT": "LATENCY"}
    if precision is not None:
        config["INFERENCE_PRECISION_HINT"] = precision
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = str(threads)
    model = openvino.Core().compile_model(folder / f"{component}.xml", "CPU", config)
    return Opened(lambda **inputs: model(inputs)[0], lambda: _precision(model))


def _precision(model: openvino.CompiledModel) -> str:
    """Return what the compiled model computes in, such as `bf16` or `8-bit, rest bf16`."""
    rest: str = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    layers = [node.get_rt_info() for node in model.get_runtime_model().get_ops()]
    products = {
        layer["runtimePrecision"].astype(str) for layer in layers if layer["layerType"].astype(str) in _PRODUCTS
    }
    return f"8-bit, rest {rest}" if products & {"i8", "u8"} else rest
