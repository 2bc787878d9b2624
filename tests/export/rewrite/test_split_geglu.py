"""A gated layer's product in two."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_export.rewrite import split_geglu
from pocket_export.rewrite.initializers import with_layouts

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 7, 16)).astype(np.float32)
W = RANDOM.normal(size=(16, 12)).astype(np.float32)
B = RANDOM.normal(size=12).astype(np.float32)
GEGLU = "m = MatMul(x, w) a = Add(m, b) h, g = Split <axis = 2, num_outputs = 2> (a) e = Gelu(g) y = Mul(h, e)"


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_nothing_is_cut_apart_and_the_numbers_stay(build: Build, run: Run) -> None:
    before = build(GEGLU, X.shape, w=W, b=B)
    expected = run(before, X)
    model = split_geglu(before)
    assert sorted(operators(model)) == ["Add", "Add", "Gelu", "MatMul", "MatMul", "Mul"]
    np.testing.assert_allclose(run(model, X), expected, rtol=1e-5, atol=1e-6)  # products of another shape


def test_the_halves_take_the_place_of_the_whole(build: Build) -> None:
    model = split_geglu(build(GEGLU, X.shape, w=W, b=B))
    found = [(layout.name, layout.tensor().numpy()) for _, layout in with_layouts(model)]
    assert sorted(name for name, _ in found) == ["b", "b", "w", "w"]
    np.testing.assert_array_equal(np.concatenate([half for name, half in found if name == "w"], axis=1), W)


def test_other_splits_stay(build: Build) -> None:
    body = "h, g = Split <axis = 2, num_outputs = 2> (x) y = Mul(h, g)"
    assert operators(split_geglu(build(body, X.shape))) == ["Split", "Mul"]


def test_a_split_of_rows_stays(build: Build) -> None:
    body = "m = MatMul(x, w) a = Add(m, b) h, g = Split <axis = 1, num_outputs = 2> (a) y = Mul(h, g)"
    x = RANDOM.normal(size=(2, 6, 16)).astype(np.float32)
    assert "Split" in operators(split_geglu(build(body, x.shape, w=W, b=B)))


def test_unequal_parts_and_products_needed_whole_stay(build: Build) -> None:
    sizes = np.array([4, 8])
    for body in (
        "h, g = Split <axis = 2> (a, sizes) e = ReduceSum(g) y = Mul(h, e)",
        "h, g = Split <axis = 2, num_outputs = 2> (a) s = ReduceSum(a) e = Mul(h, s) y = Mul(e, g)",
    ):
        body = f"m = MatMul(x, w) a = Add(m, b) {body}"
        assert "Split" in operators(split_geglu(build(body, X.shape, w=W, b=B, sizes=sizes)))
