"""x·sigmoid(x) as one operator."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_export.rewrite import fuse_silu

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

X = np.linspace(-30, 30, 1001, dtype=np.float32)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_it_is_one_operator_with_the_same_numbers(build: Build, run: Run) -> None:
    model = fuse_silu(build("s = Sigmoid(x) y = Mul(x, s)", X.shape))
    assert operators(model) == ["QuickGelu"]
    wide = X.astype(np.float64)
    # ONNX Runtime's sigmoid is 0 from -18 downwards, where x times it would be up to 3e-7.
    np.testing.assert_allclose(run(model, X), wide / (1 + np.exp(-wide)), rtol=1e-5, atol=2e-6)


def test_the_factors_may_be_the_other_way_round(build: Build) -> None:
    assert operators(fuse_silu(build("s = Sigmoid(x) y = Mul(s, x)", X.shape))) == ["QuickGelu"]


def test_a_gate_of_something_else_stays(build: Build) -> None:
    assert operators(fuse_silu(build("s = Sigmoid(x) z = Neg(x) y = Mul(z, s)", X.shape))) == ["Sigmoid", "Neg", "Mul"]


def test_a_sigmoid_that_is_needed_elsewhere_stays(build: Build) -> None:
    body = "s = Sigmoid(x) m = Mul(x, s) y = Add(m, s)"
    assert operators(fuse_silu(build(body, X.shape))) == ["Sigmoid", "Mul", "Add"]
