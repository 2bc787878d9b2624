"""Weights in int8 with a scale a channel, sums in float32."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from pocket_export.rewrite import split_geglu, store_int8, winograd
from pocket_export.rewrite.initializers import with_layouts
from pocket_export.rewrite.int8_weights import rounded_to_int8

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def stored(model: ir.Model) -> list[tuple[str, str]]:
    """The weights' published names, and how they are stored."""
    return sorted((layout.name, layout.form.storage) for _, layout in with_layouts(model))


def rounded(weights: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    """Our own rounding: to multiples of a 127th of the largest number of each channel."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    step = np.abs(weights).max(axis=others, keepdims=True).astype(np.float64) / 127
    return np.rint(weights / step) * step


# Channels of very different sizes, so that a scale along the wrong axis shows.
SPREAD = np.logspace(-3, 3, 64, dtype=np.float32)


@pytest.mark.parametrize(
    ("body", "weights", "axis"),
    [
        ("y = MatMul(x, w)", normal(64, 64) * SPREAD, 1),
        ("y = Gemm <transB=1> (x, w)", normal(64, 64) * SPREAD[:, None], 0),
        ("y = Gemm (x, w)", normal(64, 64) * SPREAD, 1),
    ],
)
def test_products_are_those_of_weights_rounded_by_output_channel(
    build: Build, run: Run, body: str, weights: NDArray[np.float32], axis: int
) -> None:
    x = normal(3, 64)
    model = store_int8(build(body, x.shape, w=weights))
    assert stored(model) == [("w", "int8"), ("w", "scale")]
    assert model.graph[0].op_type == "DequantizeLinear"
    matrix = rounded(weights, axis)
    theirs = x @ (matrix.T if "transB" in body else matrix)
    ours = run(model, x)
    # Relative to the channel: float32 sums of 64 terms against float64 ones.
    channel = np.abs(theirs).max(axis=0)
    assert (np.abs(ours - theirs) / channel).max() < 1e-4
    # And what rounding does: each weight is off by at most a 254th of its channel's largest.
    exact = x @ (weights.T if "transB" in body else weights)
    largest = np.abs(weights).max(axis=1 - axis)
    assert (np.abs(ours - exact) <= largest / 254 * np.abs(x).sum(axis=1, keepdims=True) * 1.001).all()


def test_convolutions_are_those_of_weights_rounded_by_output_channel(build: Build, run: Run) -> None:
    x, w = normal(1, 8, 9, 9), normal(64, 8, 3, 3) * SPREAD[:, None, None, None]
    body = "y = Conv <pads=[1,1,1,1]> (x, w)"
    model = store_int8(build(body, x.shape, w=w))
    assert stored(model) == [("w", "int8"), ("w", "scale")]
    theirs = run(build(body, x.shape, w=rounded(w, 0).astype(np.float32)), x)
    error = np.abs(run(model, x) - theirs).max(axis=(0, 2, 3)) / np.abs(theirs).max(axis=(0, 2, 3))
    assert error.max() < 1e-5  # float32


def restored(model: ir.Model, run: Run, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return convolutions' weights as they leave the nodes that turn them back, of which the last come first."""
    values = [node.outputs[0] for node in reversed(model.graph) if node.op_type == "DequantizeLinear"]
    found = []
    for value in values:
        model.graph.outputs[:] = [value]
        found.append(run(model, x))
    return found


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 1)], ids=str)
def test_a_convolution_lies_in_the_file_as_a_product_takes_it(build: Build, run: Run, kernel: tuple[int, int]) -> None:
    """`[h·w·C, O]`, as 8-bit graphs read it. Turned back, each weight is the rounded one, bit for bit."""
    x, w = normal(1, 80, 9, 9), normal(64, 80, *kernel) * SPREAD[:, None, None, None]
    model = store_int8(build("y = Conv (x, w)", x.shape, w=w))
    (steps,) = (layout.tensor().numpy() for _, layout in with_layouts(model) if layout.form.storage == "int8")
    scale = np.abs(w).max(axis=(1, 2, 3)) / 127
    assert steps.shape == (kernel[0] * kernel[1] * 80, 64)
    np.testing.assert_allclose(
        steps.reshape(*kernel, 80, 64) * scale, w.transpose(2, 3, 1, 0), atol=0.501 * float(scale.max())
    )
    np.testing.assert_array_equal(restored(model, run, x)[0], rounded_to_int8(w, axis=0))


def test_a_convolution_in_pieces_lies_in_the_file_whole(
    build: Build, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Winograd's form makes its weights a part of the channels at a time."""
    monkeypatch.setitem(winograd.__globals__, "PART_BYTES", 64 * 80 * 36 * 4 / 3.5)
    x, w = normal(1, 80, 9, 9), normal(64, 80, 3, 3) * SPREAD[:, None, None, None]
    model = build("y = Conv <pads=[1,1,1,1]> (x, w)", ("batch", 80, "height", "width"), w=w)
    model.meta["usual_sizes"] = {"batch": 1, "height": 16, "width": 16}
    model = winograd(model, lambda _: 4)
    assert stored(model) == [("w", "float32")] * 4
    model = store_int8(model)
    assert stored(model) == [("w", "int8"), ("w", "scale")]
    assert list(model.meta["int8_layers"]) == ["w"]
    np.testing.assert_array_equal(np.concatenate(restored(model, run, x)), rounded_to_int8(w, axis=0))


def test_the_nodes_that_turn_a_convolution_back_stand_first(build: Build) -> None:
    body = "a = Conv <pads=[1,1,1,1]> (x, v) b = Softplus (a) y = Conv (b, w)"
    model = store_int8(build(body, (1, 80, 9, 9), v=normal(64, 80, 3, 3), w=normal(80, 64, 1, 1)))
    operators = [node.op_type for node in model.graph]
    assert operators[-3:] == ["Conv", "Softplus", "Conv"]
    assert set(operators[:-3]) == {"Transpose", "Reshape", "DequantizeLinear"}


def test_a_channel_of_zeros_stays_zeros(build: Build, run: Run) -> None:
    x, w = normal(3, 64), normal(64, 64)
    w[:, 9] = 0
    assert (run(store_int8(build("y = MatMul(x, w)", x.shape, w=w)), x)[:, 9] == 0).all()


def test_weights_that_are_not_multiplied_with_are_stored_as_float16(build: Build, run: Run) -> None:
    """Embeddings, and weights with a use that has no output channels."""
    x, w, v = normal(64, 64), normal(64, 64), normal(64, 64)
    model = store_int8(build("a = Add(x, w) y = MatMul(a, v)", x.shape, w=w, v=v))
    assert stored(model) == [("v", "int8"), ("v", "scale"), ("w", "float16")]
    theirs = (x + w.astype(np.float16)) @ rounded(v, 1)
    np.testing.assert_allclose(run(model, x), theirs, rtol=1e-3, atol=1e-3)  # float32 sums of 64 terms


def test_dequantizers_and_casts_stand_first(build: Build) -> None:
    x, w = normal(64, 64), normal(64, 64)
    model = store_int8(build("a = Add(x, w) b = MatMul(a, v) y = MatMul(b, u)", x.shape, w=w, v=w + 1, u=w - 1))
    nodes = [node.op_type for node in model.graph]
    assert sorted(nodes[:3]) == ["Cast", "DequantizeLinear", "DequantizeLinear"]
    assert nodes[3:] == ["Add", "MatMul", "MatMul"]


def test_a_sensitive_layer_stays_in_float16(build: Build) -> None:
    model = build("a = MatMul(x, v) y = MatMul(a, w)", (3, 64), v=normal(64, 64), w=normal(64, 64))
    model.meta["int8_errors"] = {"v": 0.011, "w": 0.009}
    assert stored(store_int8(model)) == [("v", "float16"), ("w", "int8"), ("w", "scale")]
    assert model.meta["int8_layers"] == {
        "v": {"error": 0.011, "stored": "fp16"},
        "w": {"error": 0.009, "stored": "int8"},
    }


def test_parts_of_a_weight_share_its_error(build: Build) -> None:
    body = "m = MatMul(x, w) a = Add(m, b) h, g = Split <axis = 1, num_outputs = 2> (a) y = Mul(h, g)"
    model = split_geglu(build(body, (3, 64), w=normal(64, 128), b=normal(128)))
    model.meta["int8_errors"] = {"w": 0.5}
    assert stored(store_int8(model)) == [("b", "float32")] * 2 + [("w", "float16")] * 2
    assert model.meta["int8_layers"] == {"w": {"error": 0.5, "stored": "fp16"}}


def test_a_layer_that_was_not_measured_goes_by_its_weights(build: Build) -> None:
    """One large number in each column leaves the others few steps of its 127th."""
    spiky = normal(64, 64)
    spiky[0] = 30.0
    model = store_int8(build("a = MatMul(x, v) y = MatMul(a, w)", (3, 64), v=spiky, w=np.sign(normal(64, 64))))
    error = np.linalg.norm(rounded(spiky, 1) - spiky) / np.linalg.norm(spiky)
    assert error > 0.01
    assert model.meta["int8_layers"]["v"] == {"error": pytest.approx(error, rel=1e-3), "stored": "fp16"}
    assert model.meta["int8_layers"]["w"] == {"error": pytest.approx(0, abs=1e-6), "stored": "int8"}
