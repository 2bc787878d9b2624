"""What float16 cannot hold, the CPU provider can: it computes graphs of float16 in float32."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pocket_diffusion.bundle import Component, TensorSpec
from pocket_diffusion.machine.session import GraphSession

X = np.array([[1, 2, 3, 4]], np.float32)


def write_decoder(folder: Path, *, rounds: bool) -> Component:
    """Write 1,000 · 1,000 · x / 1,000,000 in float16, which a GPU takes for an infinity.

    Where it `rounds`, there are float16's numbers between the products on any machine.
    """
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    factors = {"a": 1000, "b": 1000, "c": 1e-6}
    nodes = [helper.make_node("Cast", ["latents"], ["x0"], to=half)]
    for number, name in enumerate(factors):
        nodes.append(helper.make_node("Mul", [f"x{number}", name], [f"x{number + 1}"]))
        if rounds:
            nodes[-1].output[0] += "_exact"
            nodes.append(helper.make_node("Cast", [nodes[-1].output[0]], [f"y{number}"], to=single))
            nodes.append(helper.make_node("Cast", [f"y{number}"], [f"x{number + 1}"], to=half))
    nodes.append(helper.make_node("Cast", ["x3"], ["picture"], to=single))
    values = [helper.make_tensor(name, half, [1], np.float16([factor])) for name, factor in factors.items()]
    given, made = (helper.make_tensor_value_info(name, single, [1, 4]) for name in ("latents", "picture"))
    graph = helper.make_graph(nodes, "decoder", [given], [made], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "decoder.onnx")
    specs = (TensorSpec("latents", "float32", (1, 4)), TensorSpec("picture", "float32", (1, 4)))
    return Component("decoder.onnx", "decoder.weights", specs[:1], specs[1:], 3, ())


@pytest.mark.parametrize("rounds", [False, True])
def test_the_cpu_computes_in_float32_what_is_not_rounded_by_the_graph(tmp_path: Path, rounds: bool) -> None:
    decoder = GraphSession(tmp_path, "vae_decoder", write_decoder(tmp_path, rounds=rounds), "cpu")
    picture = decoder.run(latents=X)["picture"]
    assert np.isfinite(picture).all() != rounds
    if not rounds:
        np.testing.assert_allclose(picture, X, rtol=0.1)  # 1e-6 is a subnormal number of float16
