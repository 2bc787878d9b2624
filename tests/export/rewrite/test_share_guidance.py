"""One picture under several contexts."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from pocket_export.rewrite import share_guidance

RANDOM = np.random.default_rng(0)
# What a U-Net does around its first cross-attention: feature maps, tokens and back, the time's bias, a skipped map.
GRAPH = """
<ir_version: 9, opset_import: ["": 20, "com.microsoft": 1]>
graph (float[batch, 8, height, width] latents, float[batch] timestep, float[batch, tokens, 8] context)
  => (float[batch, 16, height, width] noise)
<int64[1] eight = {8}, int64[1] minus_1 = {-1}, int64[3] axes = {1, 2, 3}>
{
  n = Shape <start = 0, end = 1> (latents)
  h = Shape <start = 2, end = 3> (latents)
  w = Shape <start = 3, end = 4> (latents)
  features = Tanh (latents)
  flat_shape = Concat <axis = 0> (n, eight, minus_1)
  flat = Reshape <allowzero = 1> (features, flat_shape)
  pixels = Transpose <perm = [0, 2, 1]> (flat)
  attended = com.microsoft.MultiHeadAttention <num_heads = 2> (pixels, context, context)
  summed = Add (pixels, attended)
  back = Transpose <perm = [0, 2, 1]> (summed)
  shape = Concat <axis = 0> (n, eight, h, w)
  maps = Reshape <allowzero = 1> (back, shape)
  time = Unsqueeze (timestep, axes)
  timed = Add (maps, time)
  noise = Concat <axis = 1> (timed, features)
}
"""

Inputs = dict[str, NDArray[np.float32]]


@pytest.fixture
def model() -> ir.Model:
    """With shapes, as the tracer gives them; those of what the operator of ONNX Runtime makes are added by hand."""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(GRAPH)))
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name in ("attended", "summed"):
        values[name].shape, values[name].dtype = ir.Shape(["batch", None, 8]), ir.DataType.FLOAT
    for name, shape in (("back", ["batch", 8, None]), ("timed", ["batch", 8, "height", "width"])):
        values[name].shape, values[name].dtype = ir.Shape(shape), ir.DataType.FLOAT
    return model


def run(model: ir.Model, inputs: Inputs) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    output: NDArray[Any] = session.run(None, inputs)[0]
    return output


def example(pictures: int, contexts: int) -> Inputs:
    shapes = {"latents": (pictures, 8, 3, 5), "timestep": (pictures,), "context": (contexts, 6, 8)}
    return {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def repeated(inputs: Inputs) -> Inputs:
    batch = len(inputs["context"])
    return {name: np.repeat(x, batch // len(x), axis=0) for name, x in inputs.items()}


@pytest.mark.parametrize("contexts", [1, 2, 3])
def test_one_picture_under_several_contexts_is_as_if_repeated(model: ir.Model, contexts: int) -> None:
    inputs = example(1, contexts)
    expected = run(model, repeated(inputs))
    np.testing.assert_allclose(run(share_guidance(model), inputs), expected, rtol=1e-5, atol=1e-6)


def test_as_many_pictures_as_contexts_stay_possible(model: ir.Model) -> None:
    inputs = example(3, 3)
    expected = run(model, inputs)
    np.testing.assert_allclose(run(share_guidance(model), inputs), expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_repeated_before_the_context_matters(model: ir.Model) -> None:
    expanded = [node.inputs[0].name for node in share_guidance(model).graph if node.op_type == "Expand"]  # type: ignore[union-attr]
    assert expanded == ["pixels", "features"]


def test_sizes_have_two_names_where_there_was_one(model: ir.Model) -> None:
    model = share_guidance(model)
    first = {value.name: str(value.shape[0]) for value in (*model.graph.inputs, *model.graph.outputs)}  # type: ignore[index]
    assert first == {"latents": "batch", "timestep": "batch", "context": "contexts", "noise": "contexts"}


def test_a_graph_without_a_context_stays() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["": 20]> graph (float[batch] x) => (float[batch] y) { y = Neg (x) }'
        )
    )
    assert [node.op_type for node in share_guidance(model).graph] == ["Neg"]
