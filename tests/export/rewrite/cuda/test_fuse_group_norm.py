"""Group norms, with SiLU and sums, as one operator."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from pocket_export.rewrite import fuse_silu
from pocket_export.rewrite.cuda import fuse_group_norm, portable

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)
CHANNELS, GROUPS = 8, 4
SHAPE = (2, CHANNELS, 6, 5)
X = RANDOM.normal(1, 2, SHAPE).astype(np.float32)
NORM = """
    g = Reshape (z, to_groups)
    i = InstanceNormalization <epsilon = 0.01> (g, ones, zeros)
    r = Reshape (i, to_channels)
    m = Mul (r, w)
    n = Add (m, b)
"""
SILU = "s = Sigmoid (n) y = Mul (n, s)"


def weights(groups: int = GROUPS) -> dict[str, NDArray[Any]]:
    return {
        "to_groups": np.array([0, groups, -1]),
        "to_channels": np.array(SHAPE),
        "ones": np.ones(groups, np.float32),
        "zeros": np.zeros(groups, np.float32),
        "w": RANDOM.normal(size=(CHANNELS, 1, 1)).astype(np.float32),
        "b": RANDOM.normal(size=(CHANNELS, 1, 1)).astype(np.float32),
    }


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def fused(build: Build, body: str, **more: NDArray[Any]) -> tuple[ir.Model, ir.Model]:
    """Return a graph and what becomes of it."""
    model = build(body, SHAPE, **weights(), **more)
    return model.clone(), fuse_group_norm(fuse_silu(model))


@pytest.mark.parametrize("end", ["y = Neg (n)", SILU])
def test_norm_and_activation_are_one_operator(build_shaped: Build, run: Run, end: str) -> None:
    before, after = fused(build_shaped, "z = Abs (x)" + NORM + end)
    (norm,) = [node for node in after.graph if node.op_type == "GroupNorm"]
    assert norm.attributes["activation"].as_int() == (end == SILU)
    assert not {"InstanceNormalization", "QuickGelu"} & set(operators(after))
    np.testing.assert_allclose(run(portable(after), X), run(before, X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("skip", [SHAPE, (2, CHANNELS, 1, 1)], ids=["feature map", "number a channel"])
def test_a_sum_before_is_part_of_it(build_shaped: Build, run: Run, skip: tuple[int, ...]) -> None:
    kind = "t = Mul (x, x)" if skip == SHAPE else "t = ReduceMean (x, sides)"
    body = f"a = Abs (x) {kind} z = Add (t, a)" + NORM + SILU.replace("y", "e") + "y = Add (e, z)"
    before, after = fused(build_shaped, body, sides=np.array([2, 3]))
    assert operators(after).count("SkipGroupNorm") == 1
    assert operators(after).count("Add") == 1  # the last one, which takes the sum
    np.testing.assert_allclose(run(portable(after), X), run(before, X), rtol=1e-4, atol=1e-5)


def test_a_sum_that_nothing_else_takes_is_not_written(build_shaped: Build) -> None:
    _, after = fused(build_shaped, "a = Abs (x) z = Add (x, a)" + NORM + SILU)
    assert [len(node.outputs) for node in after.graph if node.op_type == "SkipGroupNorm"] == [1]


def test_a_number_a_row_is_added_before(build_shaped: Build) -> None:
    _, after = fused(build_shaped, "a = ReduceMean (x, rows) z = Add (x, a)" + NORM + SILU, rows=np.array([3]))
    assert {"Add", "GroupNorm"} <= set(operators(after))


def test_odd_groups_stay(build_shaped: Build) -> None:
    """The kernel takes two channels at a time."""
    model = build_shaped("z = Abs (x)" + NORM + SILU, SHAPE, **weights(groups=CHANNELS))
    assert "InstanceNormalization" in operators(fuse_group_norm(fuse_silu(model)))
