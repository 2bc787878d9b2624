"""Weights in float16, sums in float32."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_export.rewrite import store_float16

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 64)).astype(np.float32)
W = RANDOM.normal(size=(64, 64)).astype(np.float32)  # the fewest numbers that are worth it
B = RANDOM.normal(size=64).astype(np.float32)


def stored(model: ir.Model) -> dict[str, ir.DataType]:
    return {name: value.const_value.dtype for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]


def test_large_weights_are_stored_as_float16_and_small_ones_as_they_were(build: Build, run: Run) -> None:
    model = store_float16(build("m = MatMul(x, w) y = Add(m, b)", X.shape, w=W, b=B))
    assert stored(model) == {"w.fp16": ir.DataType.FLOAT16, "b": ir.DataType.FLOAT}
    # Computed in float32 from the rounded weights: only the order of sums differs.
    np.testing.assert_allclose(run(model, X), X @ W.astype(np.float16).astype(np.float32) + B, rtol=1e-4, atol=1e-5)


def test_casts_stand_first(build: Build) -> None:
    """Elsewhere ONNX Runtime would run all of them before the first product, and hold all weights twice."""
    model = build("a = MatMul(x, w) c = MatMul(a, v) d = Relu(c) y = MatMul(d, u)", X.shape, w=W, v=W + 1, u=W - 1)
    nodes = [node.op_type for node in store_float16(model).graph]
    assert nodes == ["Cast"] * 3 + ["MatMul", "MatMul", "Relu", "MatMul"]


def test_what_float16_cannot_hold_stays_float32(build: Build, run: Run) -> None:
    large = W.copy()
    large[5, 7] = -65600.0
    model = store_float16(build("a = MatMul(x, w) y = MatMul(a, v)", X.shape, w=large, v=W))
    assert stored(model) == {"w": ir.DataType.FLOAT, "v.fp16": ir.DataType.FLOAT16}
    assert np.isfinite(run(model, X)).all()


def test_the_largest_number_that_float16_holds_is_held(build: Build) -> None:
    large = W.copy()
    large[5, 7] = 65504.0
    assert stored(store_float16(build("y = MatMul(x, w)", X.shape, w=large))) == {"w.fp16": ir.DataType.FLOAT16}


def test_a_weight_used_twice_is_stored_once(build: Build, run: Run) -> None:
    model = store_float16(build("a = MatMul(x, w) y = MatMul(a, w)", X.shape, w=W))
    assert [node.op_type for node in model.graph] == ["Cast", "MatMul", "MatMul"]
    half = W.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(run(model, X), X @ half @ half, rtol=1e-3, atol=1e-3)  # order of sums
