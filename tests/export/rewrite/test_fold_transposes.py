"""Transposed weights: the same numbers, without the node."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_export.rewrite import fold_transposes

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_a_transposed_weight_is_stored_transposed(build: Build, run: Run) -> None:
    x, w = RANDOM.normal(size=(3, 5)).astype(np.float32), RANDOM.normal(size=(7, 5)).astype(np.float32)
    model = build("t = Transpose <perm=[1,0]> (w) y = MatMul(x, t)", x.shape, w=w)
    model = fold_transposes(model)
    assert operators(model) == ["MatMul"]
    assert [tuple(v.const_value.shape.numpy()) for v in model.graph.initializers.values()] == [(5, 7)]
    np.testing.assert_array_equal(run(model, x), x @ w.T)


def test_axes_are_moved_as_the_node_would(build: Build, run: Run) -> None:
    x, w = np.zeros((5, 2, 3), np.float32), RANDOM.normal(size=(2, 3, 5)).astype(np.float32)
    model = fold_transposes(build("t = Transpose <perm=[2,0,1]> (w) y = Add(x, t)", x.shape, w=w))
    assert operators(model) == ["Add"]
    np.testing.assert_array_equal(run(model, x), w.transpose(2, 0, 1))


def test_a_weight_that_is_also_used_as_it_is_stays(build: Build, run: Run) -> None:
    x, w = RANDOM.normal(size=(3, 5)).astype(np.float32), RANDOM.normal(size=(5, 5)).astype(np.float32)
    model = build("t = Transpose <perm=[1,0]> (w) a = MatMul(x, t) y = MatMul(a, w)", x.shape, w=w)
    model = fold_transposes(model)
    assert operators(model) == ["MatMul", "MatMul"]
    assert "w" in model.graph.initializers
    np.testing.assert_allclose(run(model, x), x @ w.T @ w, rtol=1e-5)  # order of sums


def test_transposes_of_what_is_computed_stay(build: Build, run: Run) -> None:
    x = RANDOM.normal(size=(3, 5)).astype(np.float32)
    model = fold_transposes(build("y = Transpose <perm=[1,0]> (x)", x.shape))
    assert operators(model) == ["Transpose"]
    np.testing.assert_array_equal(run(model, x), x.T)
