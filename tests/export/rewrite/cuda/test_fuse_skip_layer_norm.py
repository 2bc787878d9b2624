"""The sum before a layer norm, and the norm."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_export.rewrite.cuda import fuse_skip_layer_norm

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)
SHAPE = (2, 7, 16)
X = RANDOM.normal(1, 2, SHAPE).astype(np.float32)
WEIGHTS = {name: RANDOM.normal(size=16).astype(np.float32) for name in ("gamma", "beta", "bias")}
BLOCK = "a = Abs (x) p = Add (a, bias) t = Add (x, p) n = LayerNormalization <epsilon = 0.01> (t, gamma, beta) "


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def fused(build: Build, body: str, **more: NDArray[Any]) -> tuple[ir.Model, ir.Model]:
    """Return a graph and what becomes of it."""
    model = build(body, SHAPE, **WEIGHTS, **more)
    return model.clone(), fuse_skip_layer_norm(model)


def test_sum_bias_and_norm_are_one_operator_that_returns_the_sum(build_shaped: Build, run: Run) -> None:
    before, after = fused(build_shaped, BLOCK + "y = Mul (n, t)")
    assert operators(after) == ["Abs", "SkipLayerNormalization", "Mul"]
    np.testing.assert_allclose(run(after, X), run(before, X), rtol=1e-4, atol=1e-4)


def test_a_sum_with_bias_that_others_take_stays(build_shaped: Build, run: Run) -> None:
    before, after = fused(build_shaped, BLOCK + "y = Mul (n, p)")
    assert sorted(operators(after)) == ["Abs", "Add", "Mul", "SkipLayerNormalization"]
    np.testing.assert_allclose(run(after, X), run(before, X), rtol=1e-4, atol=1e-4)


def test_a_norm_of_a_product_stays(build_shaped: Build) -> None:
    _, after = fused(build_shaped, "a = Add (x, bias) y = LayerNormalization (a, gamma, beta)")
    assert operators(after) == ["Add", "LayerNormalization"]
