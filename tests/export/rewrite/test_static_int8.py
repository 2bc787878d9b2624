"""Bytes to bytes by scales measured beforehand: near the exact network, and nothing in float32 between."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from pocket_export.rewrite.static_int8 import static_int8

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)
BODY = """
    a = Conv<pads = [1, 1, 1, 1]>(x, first, bias)
    ra = Relu(a)
    b = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(ra, second)
    two = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()
    c = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(b, , two)
    d = Add(c, ra)
    rd = Relu(d)
    e = Conv<pads = [1, 1, 1, 1]>(rd, last, half)
    y = Tanh(e)
"""


def weights() -> dict[str, NDArray[np.float32]]:
    shapes = {"first": (16, 3, 3, 3), "second": (16, 16, 3, 3), "last": (3, 16, 3, 3)}
    made = {name: RANDOM.normal(0, (2 / (9 * s[1])) ** 0.5, s).astype(np.float32) for name, s in shapes.items()}
    made["last"] *= 0.1
    return made | {"bias": RANDOM.normal(0, 0.1, 16).astype(np.float32), "half": np.full(3, 0.5, np.float32)}


@pytest.fixture
def rewritten(build: Build, tmp_path: Path) -> tuple[ir.Model, ir.Model, list[str], Path]:
    """A network, itself in 8 bits, whose magnitudes it takes, and the file that they belong in."""
    given = weights()
    exact, in_8_bits = (build(BODY, (1, 3, 8, 12), **given) for _ in range(2))
    scales = tmp_path / "magnitudes"
    return exact, in_8_bits, static_int8(in_8_bits, scales, pictures=("last",), exact=()), scales


def run_files(model: ir.Model, path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    ir.save(model, path)
    session = onnxruntime.InferenceSession(path, None, ["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return output


def magnitudes(exact: ir.Model, names: list[str], x: NDArray[np.float32]) -> NDArray[np.float32]:
    model = exact.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs[:] = [values[name] for name in names]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), None, ["CPUExecutionProvider"])
    return np.array([np.abs(one).max() for one in session.run(None, {"x": x})], np.float32)


def test_it_is_near_the_exact_network(
    rewritten: tuple[ir.Model, ir.Model, list[str], Path], run: Run, tmp_path: Path
) -> None:
    exact, in_8_bits, names, scales = rewritten
    x = (RANDOM.integers(0, 256, (1, 3, 8, 12)) / 255).astype(np.float32)
    scales.write_bytes(magnitudes(exact, names, x).tobytes())
    theirs = run(exact, x)
    ours = run_files(in_8_bits, tmp_path / "graph.onnx", x)
    # Each of seven roundings to 7 or 8 bits is off by about 1 %.
    assert 0 < np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.03


def test_nothing_between_is_in_float32(rewritten: tuple[ir.Model, ir.Model, list[str], Path]) -> None:
    _, in_8_bits, names, _ = rewritten
    counts = Counter(node.op_type for node in in_8_bits.graph)
    assert (counts["QLinearConv"], counts["QLinearAdd"], counts["DequantizeLinear"]) == (3, 1, 1)
    assert not {"Conv", "Relu", "Resize"} & counts.keys()
    assert names == ["ra", "b", "rd"]  # the scales of the pictures are known


def test_layers_that_are_to_be_exact_are(build: Build, tmp_path: Path) -> None:
    model = build(BODY, (1, 3, 8, 12), **weights())
    static_int8(model, tmp_path / "magnitudes", pictures=(), exact=("last",))
    counts = Counter(node.op_type for node in model.graph)
    assert (counts["QLinearConv"], counts["Conv"]) == (2, 1)
