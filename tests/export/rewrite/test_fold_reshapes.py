"""Reshaped weights: the same numbers, without the node."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from pocket_export.rewrite import fold_reshapes, winograd

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("shape", [[6, 5], [-1, 5], [6, -1]])
def test_a_reshaped_weight_is_stored_reshaped(build: Build, run: Run, shape: list[int]) -> None:
    x, w = RANDOM.normal(size=(3, 6)).astype(np.float32), RANDOM.normal(size=(2, 3, 5)).astype(np.float32)
    model = build("r = Reshape(w, s) y = MatMul(x, r)", x.shape, w=w, s=np.array(shape))
    model = fold_reshapes(model)
    assert operators(model) == ["MatMul"]
    assert "w" not in model.graph.initializers
    np.testing.assert_array_equal(run(model, x), x @ w.reshape(6, 5))


def test_two_that_do_the_same_share_one(build: Build, run: Run) -> None:
    x, w = RANDOM.normal(size=(6, 6)).astype(np.float32), RANDOM.normal(size=(4, 9)).astype(np.float32)
    body = "a = Reshape(w, s) b = Reshape(w, s) c = MatMul(x, a) y = MatMul(c, b)"
    model = fold_reshapes(build(body, x.shape, w=w, s=np.array([6, 6])))
    assert operators(model) == ["MatMul", "MatMul"]
    np.testing.assert_allclose(run(model, x), x @ w.reshape(6, 6) @ w.reshape(6, 6), rtol=1e-5)  # order of sums


@pytest.mark.parametrize("body", ["y = Reshape(x, s)", "r = Reshape(w, z) y = Mul(x, r)"])
def test_other_reshapes_stay(build: Build, run: Run, body: str) -> None:
    """Of what is computed, and to a shape that depends on what is reshaped."""
    x, w = RANDOM.normal(size=(3, 5)).astype(np.float32), RANDOM.normal(size=(3, 5)).astype(np.float32)
    model = build(body, x.shape, w=w, s=np.array([5, 3]), z=np.array([0, -1]))
    before, expected = operators(model), run(model, x)
    model = fold_reshapes(model)
    assert operators(model) == before
    np.testing.assert_array_equal(run(model, x), expected)


def test_winograds_weights_wait_in_the_shape_of_their_product(build: Build, run: Run) -> None:
    """Else ONNX Runtime holds them twice while it expands them."""
    x, w = RANDOM.normal(size=(1, 8, 6, 6)).astype(np.float32), RANDOM.normal(size=(16, 8, 3, 3)).astype(np.float32)
    model = build("y = Conv <pads = [1, 1, 1, 1]> (x, w)", x.shape, w=w)
    model.meta["usual_sizes"] = {}
    model = winograd(model, lambda _: 2)
    expected = run(model, x)
    model = fold_reshapes(model)
    assert "winograd_flat" not in [value.name for value in model.graph.inputs]
    products = [node for node in model.graph if node.op_type == "Gemm"]
    assert products
    for product in products:
        weights = product.inputs[1]
        assert weights is not None
        assert weights.is_initializer()
        assert weights.const_value is not None
        assert weights.const_value.shape.numpy() == (16 * 8, 9)
    np.testing.assert_array_equal(run(model, x), expected)
