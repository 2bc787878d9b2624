"""The graph that tells whether a CPU multiplies in 8 bits right. `python tests/products_graph.py` writes it anew."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pocket_diffusion.machine.cpu import PROBE, PROBE_WEIGHTS, ZERO_POINT, probe_weights


def products_graph() -> onnx.ModelProto:
    """Return the graph: activations `float32 [rows, inputs]` → products `float32 [rows, outputs]`."""
    inputs, outputs = PROBE_WEIGHTS
    constants = {
        "weights": probe_weights(),
        "one": np.array(1, np.float32),
        "zero_point": np.array(ZERO_POINT, np.uint8),
        "no_zero_point": np.array(0, np.int8),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["activations"], ["rounded"], to=TensorProto.UINT8),
            helper.make_node(
                "MatMulIntegerToFloat",
                ["rounded", "weights", "one", "one", "zero_point", "no_zero_point"],
                ["products"],
                domain="com.microsoft",
            ),
        ],
        "products",
        [helper.make_tensor_value_info("activations", TensorProto.FLOAT, ["rows", inputs])],
        [helper.make_tensor_value_info("products", TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


if __name__ == "__main__":
    onnx.save(products_graph(), PROBE)
