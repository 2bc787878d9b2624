"""Small graphs, and ONNX Runtime to run them."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from pocket_export.rewrite.initializers import Layout, lay_out

Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]
Build = Callable[..., ir.Model]


def publish_weights(model: ir.Model) -> ir.Model:
    """Give float32 initializers layouts, as the tracer does; numbers of other types are constants."""
    for value in list(model.graph.initializers.values()):
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            lay_out(value, Layout(value.name or "", value.const_value.numpy()))
    return model


@pytest.fixture
def build() -> Build:
    """From nodes in ONNX's text form, `x` to `y`, and weights, which are published under their names."""

    def build(body: str, x: tuple[int, ...], **weights: NDArray[np.float32]) -> ir.Model:
        shape = ",".join(map(str, x))
        model = onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["": 20]> graph (float[{shape}] x) => (float y) {{ {body} }}'
        )
        for name, value in weights.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        onnx.checker.check_model(model)
        return publish_weights(ir.from_proto(model))

    return build


@pytest.fixture
def build_shaped(build: Build) -> Build:
    """The same, and every value has its shape, as the tracer gives it."""

    def build_shaped(body: str, x: tuple[int | str, ...], **weights: NDArray[np.float32]) -> ir.Model:
        proto = ir.to_proto(build(body, x, **weights))
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        model = publish_weights(ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True)))
        model.meta["usual_sizes"] = {"batch": 2, "latent_height": 8, "latent_width": 8}
        return model

    return build_shaped


@pytest.fixture
def run() -> Run:
    """As the runtime does on the CPU: without ONNX Runtime's own rewrites, which round int8 products further."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3

    def run(model: ir.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        output: NDArray[np.float32] = session.run(None, {"x": x})[0]
        return output

    return run
