"""What follows a gated layer's product, as one operator."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from pocket_export.rewrite.cuda import fuse_bias_split_gelu, portable

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 3, 8)).astype(np.float32)
GEGLU = "m = MatMul (x, w) a = Add (m, b) h, g = Split <axis = 2, num_outputs = 2> (a) e = Gelu (g) y = Mul (h, e)"


def weights(width: int) -> dict[str, NDArray[np.float32]]:
    return {name: RANDOM.normal(size=s).astype(np.float32) for name, s in (("w", (8, width)), ("b", (width,)))}


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_it_is_one_operator_with_the_same_numbers(build_shaped: Build, run: Run) -> None:
    model = build_shaped(GEGLU, X.shape, **weights(2560))
    expected = run(model, X)
    after = fuse_bias_split_gelu(model)
    assert operators(after) == ["MatMul", "BiasSplitGelu"]
    np.testing.assert_allclose(run(portable(after), X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "width"),
    [
        (GEGLU, 256),
        (GEGLU.replace("Gelu (g) y = Mul (h, e)", "Gelu (h) y = Mul (g, e)"), 2560),
        (GEGLU.replace("Gelu", 'Gelu <approximate = "tanh">'), 2560),
        (GEGLU.replace("y = Mul (h, e)", "f = Mul (h, e) y = Mul (f, h)"), 2560),
    ],
    ids=["a width without a kernel", "the first half gated", "approximated", "a half that others take"],
)
def test_others_stay(build_shaped: Build, body: str, width: int) -> None:
    assert "BiasSplitGelu" not in operators(fuse_bias_split_gelu(build_shaped(body, X.shape, **weights(width))))
