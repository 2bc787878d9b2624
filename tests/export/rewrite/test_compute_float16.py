"""Graphs in float16, with islands of float32 where float16 would overflow; results are rounded as a GPU rounds them."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_export.rewrite import compute_float16, simulate_float16, store_float16
from pocket_export.rewrite.compute_float16 import float32_operators

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 64)).astype(np.float32)
LOUD = (5000 * RANDOM.normal(size=(64, 64))).astype(np.float32)
W = RANDOM.normal(size=(64, 64)).astype(np.float32)
B = RANDOM.normal(size=64).astype(np.float32)
BODY = """
    a = MatMul(x, w)
    b = Add(a, bias)
    c = Relu(b)
    d = LayerNormalization(c, bias)
    y = MatMul(d, v)
"""
PEAKS = {"x": 3.0, "a": 160_000.0, "b": 160_000.0, "c": 160_000.0, "d": 5.0, "y": 30.0}


def loud(build: Build) -> ir.Model:
    """A graph whose first values reach 160,000, as a decoder's do, and whose output does not."""
    return store_float16(build(BODY, X.shape, w=LOUD, v=W, bias=B))


def kept(model: ir.Model, peaks: dict[str, float]) -> list[str]:
    return [str(node.outputs[0].name) for node in float32_operators(model, peaks)]


def in_float16(model: ir.Model, peaks: dict[str, float]) -> ir.Model:
    return compute_float16(model, float32_operators(model, peaks))


def test_what_reads_or_writes_large_numbers_stays_float32(build: Build) -> None:
    assert kept(loud(build), PEAKS) == ["a", "b", "c", "d"]
    assert kept(loud(build), PEAKS | dict.fromkeys("abc", 30_000.0)) == []
    assert kept(loud(build), PEAKS | {"c": np.nextafter(30_000.0, np.inf)} | dict.fromkeys("ab", 1.0)) == ["c", "d"]


def test_an_overflow_without_islands_is_none_with_them(build: Build, run: Run) -> None:
    exact = run(loud(build), X)
    overflown = run(simulate_float16(in_float16(loud(build), dict.fromkeys(PEAKS, 1.0))), X)
    assert not np.isfinite(overflown).any()
    found = run(simulate_float16(in_float16(loud(build), PEAKS)), X)
    assert 0 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 2e-3  # float16's steps are 2⁻¹¹


def test_weights_stay_float16_in_storage_also_in_islands(build: Build) -> None:
    model = in_float16(loud(build), PEAKS)
    large = {name: value.dtype for name, value in model.graph.initializers.items() if name != "bias"}
    assert large == {"w.fp16": ir.DataType.FLOAT16, "v.fp16": ir.DataType.FLOAT16}
    last = next(node for node in model.graph if node.op_type == "MatMul" and node.inputs[1].name == "v.fp16")  # type: ignore[union-attr]
    assert last.outputs[0].dtype == ir.DataType.FLOAT16


def test_a_weight_that_float16_cannot_hold_keeps_its_product_in_float32(build: Build, run: Run) -> None:
    """`store_float16` leaves it in float32; what it makes may be small."""
    weights = W.copy()
    weights[5, 7] = 70_000.0
    x = X.copy()
    x[:, 5] = 0
    model = store_float16(build("y = MatMul(x, w)", X.shape, w=weights))
    assert kept(model, {"x": 3.0, "y": 30.0}) == ["y"]
    np.testing.assert_array_equal(run(simulate_float16(in_float16(model, {"x": 3.0, "y": 30.0})), x), run(model, x))


def test_angles_stay_float32(build: Build) -> None:
    model = build("a = Mul(x, f) s = Sin(a) y = Mul(s, f)", X.shape, f=B)
    assert kept(model, dict.fromkeys("xasy", 1.0)) == ["a", "s"]


def test_inputs_and_outputs_stay_float32_and_are_called_the_same(build: Build, run: Run) -> None:
    model = in_float16(build("y = Relu(x)", X.shape), {"x": 1.0, "y": 1.0})
    assert [(value.name, value.dtype) for value in (*model.graph.inputs, *model.graph.outputs)] == [
        ("x", ir.DataType.FLOAT),
        ("y", ir.DataType.FLOAT),
    ]
    np.testing.assert_array_equal(run(simulate_float16(model), X), np.maximum(X, 0).astype(np.float16))
