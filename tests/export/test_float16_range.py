"""What float16 cannot hold, the CPU provider can: it computes graphs of float16 in float32."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from pocket_diffusion.bundle import Component, TensorSpec
from pocket_diffusion.machine.session import GraphSession

X = np.array([[1, 2, 3, 4]], np.float32)


def write_decoder(folder: Path) -> Component:
    """Write 1,000 · 1,000 · x / 1,000,000 in float16, which a GPU takes for an infinity."""
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    factors = {"a": 1000, "b": 1000, "c": 1e-6}
    nodes = [helper.make_node("Cast", ["latents"], ["x0"], to=half)]
    nodes += [helper.make_node("Mul", [f"x{i}", name], [f"x{i + 1}"]) for i, name in enumerate(factors)]
    nodes.append(helper.make_node("Cast", ["x3"], ["picture"], to=single))
    values = [helper.make_tensor(name, half, [1], np.array([factor], np.float16)) for name, factor in factors.items()]
    given, made = (helper.make_tensor_value_info(name, single, [1, 4]) for name in ("latents", "picture"))
    graph = helper.make_graph(nodes, "decoder", [given], [made], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "decoder.onnx")
    specs = (TensorSpec("latents", "float32", (1, 4)), TensorSpec("picture", "float32", (1, 4)))
    return Component("decoder.onnx", "decoder.weights", specs[:1], specs[1:], 3, ())


def test_the_cpu_computes_in_float32_what_a_graph_has_in_float16(tmp_path: Path) -> None:
    decoder = GraphSession(tmp_path, "vae_decoder", write_decoder(tmp_path), "cpu")
    picture = decoder.run(latents=X)["picture"]
    np.testing.assert_allclose(picture, X, rtol=0.1)  # 1e-6 is a subnormal number of float16
