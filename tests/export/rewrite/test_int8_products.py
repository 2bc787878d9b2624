"""Products of 8-bit numbers, against their definition in NumPy: rounded numbers, exact sums, one scale."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pocket_diffusion.bundle import TensorSpec
from pocket_diffusion.machine.cpu import products_are_right
from pocket_export.parts import Part
from pocket_export.rewrite import channels_last, int8_products, split_geglu, store_int8
from pocket_export.rewrite.initializers import with_layouts
from pocket_export.rewrite.int8_products import Form
from pocket_export.sensitivity import measure_rounding_errors

pytestmark = pytest.mark.skipif(not products_are_right(), reason="8-bit products are wrong on this CPU")

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)
FORMS: tuple[Form, ...] = ("tensor", "token", "two_terms")
PRODUCT = "a = MatMul (x, w) b = Add (a, bias) y = Identity (b)"


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


# Outputs of very different sizes, so that a scale of another output shows.
WEIGHTS = normal(64, 48) * np.logspace(-2, 2, 48, dtype=np.float32)
BIAS = normal(48)


def rounded_weights(weights: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Jacob et al. 2018, without zero points: whole numbers from -127 to 127, and a scale for each column."""
    scale = np.abs(weights.astype(np.float64)).max(axis=0) / 127
    return np.rint(weights / scale).astype(np.int64), scale


def rounded_tensor(x: NDArray[np.float32]) -> tuple[NDArray[np.int64], np.float32]:
    """ONNX's DynamicQuantizeLinear: 256 steps from the least number to the largest, 0 among them; less the zero."""
    low, high = np.minimum(x.min(), np.float32(0)), np.maximum(x.max(), np.float32(0))
    scale = (high - low) / np.float32(255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero).astype(np.int64), scale


def multiply_by_tensor(x: NDArray[np.float32], w: NDArray[np.float32]) -> NDArray[np.float64]:
    (numbers, scale), (weights, scales) = rounded_tensor(x), rounded_weights(w)
    return (numbers @ weights) * scales * scale


def multiply_by_token(x: NDArray[np.float32], w: NDArray[np.float32]) -> NDArray[np.float64]:
    largest = np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-30)
    weights, scales = rounded_weights(w)
    return (np.rint(x / largest * 127).astype(np.int64) @ weights) * scales * largest / 127


def multiply_in_two_terms(x: NDArray[np.float32], w: NDArray[np.float32]) -> NDArray[np.float64]:
    numbers, scale = rounded_tensor(x)
    return multiply_by_tensor(x, w) + multiply_by_tensor(x - numbers.astype(np.float32) * scale, w)


BY_FORM = {"tensor": multiply_by_tensor, "token": multiply_by_token, "two_terms": multiply_in_two_terms}


def assert_same(ours: NDArray[np.float32], theirs: NDArray[np.floating[Any]]) -> None:
    """For each output alone, since they are of very different sizes. Sums of whole numbers are exact in float32."""
    assert ours.shape == theirs.shape
    others = tuple(range(theirs.ndim - 1))
    assert (np.abs(ours - theirs).max(axis=others) <= 1e-5 * np.abs(theirs).max(axis=others)).all()


def relative(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def of_all(form: Form) -> Callable[[str], Form]:
    return lambda _: form


@pytest.mark.parametrize("shape", [(64,), (7, 64), (2, 9, 64), (2, 1, 64)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_sums_are_exact_and_the_bias_is_added(build: Build, run: Run, form: Form, shape: tuple[int, ...]) -> None:
    x = normal(*shape) + 0.3  # so that the zero point is not in the middle
    model = int8_products(build(PRODUCT, x.shape, w=WEIGHTS, bias=BIAS), of_all(form))
    assert "MatMul" not in operators(model)
    assert_same(run(model, x), BY_FORM[form](x, WEIGHTS) + BIAS)


@pytest.mark.parametrize("form", FORMS)
def test_a_product_without_a_bias_may_be_the_output(build: Build, run: Run, form: Form) -> None:
    x = normal(7, 64)
    model = int8_products(build("y = MatMul (x, w)", x.shape, w=WEIGHTS), of_all(form))
    assert_same(run(model, x), BY_FORM[form](x, WEIGHTS))


@pytest.mark.parametrize(
    ("body", "added"),
    [
        ("a = MatMul (x, w) y = Add (bias, a)", True),
        ("a = MatMul (x, w) y = Add (a, a)", False),
        ("a = MatMul (x, w) b = Add (a, bias) y = Mul (a, b)", False),
        ("a = MatMul (x, w) y = Add (a, rows)", False),
    ],
    ids=["in front", "to itself", "one use of two", "a number for each token"],
)
def test_a_bias_is_what_alone_is_added_to_each_output(build: Build, run: Run, body: str, added: bool) -> None:
    x = normal(7, 64)
    weights = {"w": WEIGHTS, "bias": BIAS, "rows": normal(7, 1)}
    given = {name: array for name, array in weights.items() if name in body}
    model = int8_products(build(body, x.shape, **given), of_all("tensor"))
    product = next(node for node in model.graph if node.op_type == "MatMulIntegerToFloat")
    assert (len(product.inputs) == 7) == added
    assert ("Add" in operators(model)) != added
    direct = multiply_by_tensor(x, WEIGHTS)
    expected = {
        "y = Add (bias, a)": direct + BIAS,
        "y = Add (a, a)": 2 * direct,
        "y = Mul (a, b)": direct * (direct + BIAS),
        "y = Add (a, rows)": direct + weights["rows"],
    }
    assert_same(run(model, x), next(value for end, value in expected.items() if body.endswith(end)))


# One tensor is rounded once.


QUERY_KEY_VALUE = "q = MatMul (x, u) k = MatMul (x, v) r = MatMul (x, w) s = Mul (q, k) y = Add (s, r)"


@pytest.mark.parametrize(("form", "times"), [("tensor", 1), ("token", 1), ("two_terms", 2)])
def test_products_of_one_tensor_share_its_rounding(build: Build, run: Run, form: Form, times: int) -> None:
    x, u, v = normal(2, 7, 64), normal(64, 48), normal(64, 48)
    model = int8_products(build(QUERY_KEY_VALUE, x.shape, u=u, v=v, w=WEIGHTS), of_all(form))
    roundings = [name for name in operators(model) if name in ("DynamicQuantizeLinear", "QuantizeLinear")]
    assert len(roundings) == times
    multiply = BY_FORM[form]
    assert_same(run(model, x), multiply(x, u) * multiply(x, v) + multiply(x, WEIGHTS))


def test_products_of_one_tensor_may_have_different_forms(build: Build, run: Run) -> None:
    x, u, v = normal(2, 7, 64), normal(64, 48), normal(64, 48)
    forms: dict[str, Form] = {"u": "token", "v": "two_terms", "w": "tensor"}
    model = int8_products(build(QUERY_KEY_VALUE, x.shape, u=u, v=v, w=WEIGHTS), forms.get)
    assert operators(model).count("DynamicQuantizeLinear") == 2
    expected = multiply_by_token(x, u) * multiply_in_two_terms(x, v) + multiply_by_tensor(x, WEIGHTS)
    assert_same(run(model, x), expected)


@pytest.mark.parametrize("form", FORMS)
def test_both_halves_of_a_gated_layer_share_the_rounding(build: Build, run: Run, form: Form) -> None:
    x = normal(2, 7, 64)
    body = "a = MatMul (x, w) b = Add (a, bias) c, d = Split <axis = -1, num_outputs = 2> (b) y = Mul (c, d)"
    model = int8_products(split_geglu(build(body, x.shape, w=WEIGHTS, bias=BIAS)), of_all(form))
    assert sum(map(operators(model).count, ("DynamicQuantizeLinear", "QuantizeLinear"))) == 1 + (form == "two_terms")
    left, right = np.split(BY_FORM[form](x, WEIGHTS) + BIAS, 2, axis=-1)
    assert_same(run(model, x), left * right)


# Rounded before it is moved.


def numbers(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


Move = tuple[str, dict[str, NDArray[np.int64]], Callable[[NDArray[Any]], NDArray[Any]]]
MOVES: dict[str, Move] = {
    "gathered": ("Gather <axis = 1> (x, m)", {"m": numbers(2, 0, 0)}, lambda x: x[:, [2, 0, 0]]),
    "reshaped": ("Reshape (x, m)", {"m": numbers(-1, 64)}, lambda x: x.reshape(7, -1)),
    "padded": (
        "Pad (x, m)",
        {"m": numbers(0, 1, 0, 0, 2, 0)},
        lambda x: np.pad(x, ((0, 0), (1, 2), (0, 0))),
    ),
    "cut": (
        "Slice (x, m, n, o)",
        {"m": numbers(1), "n": numbers(4), "o": numbers(1)},
        lambda x: x[:, 1:4],
    ),
    "repeated": ("Expand (x, m)", {"m": numbers(4, 7, 64)}, lambda x: np.repeat(x, 4, axis=0)),
}


@pytest.mark.parametrize("form", ["tensor", "two_terms"])
@pytest.mark.parametrize("move", MOVES)
def test_what_is_moved_is_rounded_before(build: Build, run: Run, move: str, form: Form) -> None:
    """By the scale of the whole, which the largest number decides also where it is cut off. Borders are exact zeros."""
    x = normal(1, 7, 64) + 1
    x[0, 6, 3] = 20
    operator, constants, moved = MOVES[move]
    model = int8_products(build(f"a = {operator} y = MatMul (a, w)", x.shape, w=WEIGHTS, **constants), of_all(form))
    rounding = next(node for node in model.graph if node.op_type == "DynamicQuantizeLinear")
    assert rounding.inputs[0] is model.graph.inputs[0]
    assert_same(run(model, x), moved(BY_FORM[form](x, WEIGHTS)))


def test_two_products_of_differently_moved_numbers_share_their_rounding(build: Build, run: Run) -> None:
    x = normal(1, 7, 64)
    body = """
        a = Gather <axis = 1> (x, m) b = Reshape (a, n) c = MatMul (b, w) d = MatMul (x, v)
        e = ReduceMean <keepdims = 0> (c) y = Add (d, e)
    """
    v = normal(64, 48)
    model = int8_products(build(body, x.shape, w=WEIGHTS, v=v, m=numbers(5, 5), n=numbers(1, 2, 64)), of_all("tensor"))
    assert operators(model).count("DynamicQuantizeLinear") == 1
    assert_same(run(model, x), multiply_by_tensor(x, v) + multiply_by_tensor(x, WEIGHTS)[:, 5].mean())


@pytest.mark.parametrize("form", ["tensor", "two_terms"])
@pytest.mark.parametrize("how", ["pads = [1, 1, 1, 1]", "pads = [1, 1, 1, 1], strides = [2, 2]", "pads = [0, 0, 1, 1]"])
def test_convolutions_are_sums_of_whole_numbers_too(build_shaped: Build, run: Run, form: Form, how: str) -> None:
    x, w, bias = normal(2, 12, 7, 6) + 1, normal(20, 12, 3, 3), normal(20)
    body = f"y = Conv <{how}> (x, w, bias)"
    model = int8_products(channels_last(build_shaped(body, x.shape, w=w, bias=bias), lambda _: True), of_all(form))
    assert operators(model).count("MatMul") == 0
    weights, scales = rounded_weights(w.reshape(20, -1).T)
    first, scale = rounded_tensor(x)
    terms = first.astype(np.float32) * scale
    if form == "two_terms":
        second, scale = rounded_tensor(x - terms)
        terms += second.astype(np.float32) * scale
    exact = (weights * scales).T.reshape(w.shape).astype(np.float32)
    theirs = run(build_shaped(body, x.shape, w=exact, bias=bias), terms)
    assert_same(run(model, x), theirs)


# What rounding does.


def exactly(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """By the rounded weights, so that the difference is what rounding the activations does."""
    weights, scales = rounded_weights(EVEN)
    return x.astype(np.float64) @ (weights * scales)


EVEN = normal(320, 48)


@pytest.fixture
def error_of(build: Build, run: Run) -> Callable[[Form, NDArray[np.float32]], float]:
    def error_of(form: Form, x: NDArray[np.float32]) -> float:
        model = int8_products(build("y = MatMul (x, w)", x.shape, w=EVEN), of_all(form))
        return relative(run(model, x), exactly(x))

    return error_of


ErrorOf = Callable[[Form, NDArray[np.float32]], float]


def test_two_terms_have_15_bits(error_of: ErrorOf) -> None:
    """256 steps over 8 deviations, and 255 in each of them: 3.5e-5 deviations."""
    x = normal(1000, 320)
    assert 3e-3 < error_of("tensor", x) < 2e-2
    assert error_of("two_terms", x) < 1e-4


def test_few_large_tokens_spoil_one_scale_for_all_and_not_one_a_token(error_of: ErrorOf) -> None:
    """One number in 2 % of the tokens is forty times larger."""
    x = normal(1000, 320)
    x[RANDOM.integers(0, 1000, 20), RANDOM.integers(0, 320, 20)] *= 40
    errors = {form: error_of(form, x) for form in FORMS}
    assert errors["token"] < errors["tensor"] / 5
    assert errors["two_terms"] < errors["tensor"] / 50


def test_a_large_channel_spoils_every_scale_and_not_two_terms(error_of: ErrorOf) -> None:
    x = normal(1000, 320)
    x[:, 7] *= 40
    assert error_of("token", x) > 1e-2
    assert error_of("two_terms", x) < 1e-3


def test_errors_are_those_that_the_layer_was_measured_to_have(error_of: ErrorOf) -> None:
    """By `measure_rounding_errors`, in PyTorch; here the graph's own."""
    x = normal(1000, 320)
    x[RANDOM.integers(0, 1000, 20), RANDOM.integers(0, 320, 20)] *= 40
    layer = nn.Sequential(nn.Linear(320, 48))
    layer[0].weight = nn.Parameter(torch.from_numpy(EVEN.T.copy()))
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 320))
    measured = measure_rounding_errors(Part("layer", layer, (spec,), (spec,), {}, 8), [(torch.from_numpy(x),)])
    for form in FORMS:
        assert getattr(measured["0.weight"], form) == pytest.approx(error_of(form, x), rel=1e-2)


@pytest.mark.parametrize("form", FORMS)
def test_tokens_of_zeros_give_the_bias(build: Build, run: Run, form: Form) -> None:
    x = normal(7, 64)
    x[2] = 0
    model = int8_products(build(PRODUCT, x.shape, w=WEIGHTS, bias=BIAS), of_all(form))
    np.testing.assert_array_equal(run(model, x)[2], BIAS)
    np.testing.assert_array_equal(run(model, 0 * x), np.broadcast_to(BIAS, (7, 48)))


def test_very_small_tokens_are_as_exact_as_others(build: Build, run: Run) -> None:
    x = normal(7, 64) * np.logspace(-20, 6, 7, dtype=np.float32)[:, None]
    model = int8_products(build("y = MatMul (x, w)", x.shape, w=WEIGHTS), of_all("token"))
    for ours, theirs in zip(run(model, x), multiply_by_token(x, WEIGHTS), strict=True):
        assert_same(ours, theirs)


# What is stored.


@pytest.mark.parametrize("form", FORMS)
def test_no_stored_weight_is_minus_128(build_shaped: Build, form: Form) -> None:
    """Products with -128 saturate on some CPUs. Each output has a weight of ±127: the largest, whatever its sign."""
    convolution, product = normal(64, 64, 3, 3), normal(64, 64)
    convolution[:, 0, 0, 0] = -10 * np.linspace(0.1, 1, 64)
    product[5] = -10 * np.linspace(0.1, 1, 64)
    body = "a = Conv <pads = [1, 1, 1, 1]> (x, v) b = Reshape (a, shape) c = MatMul (b, w) y = MatMul (c, u)"
    shape = numbers(1, -1, 64)
    model = build_shaped(body, (1, 64, 8, 8), v=convolution, w=product, u=normal(64, 64), shape=shape)
    model = channels_last(model, lambda _: True)
    model = store_int8(int8_products(model, lambda weights: None if weights == "u" else form))
    stored = {
        layout.name: layout.tensor().numpy() for _, layout in with_layouts(model) if layout.form.storage == "int8"
    }
    assert stored.keys() == {"u", "v", "w"}
    for weights in stored.values():
        assert weights.min() == -127
        assert (np.abs(weights.astype(int)).max(axis=0) == 127).all()


def test_a_convolution_is_stored_by_its_rows_columns_and_channels(build_shaped: Build) -> None:
    w = normal(64, 12, 3, 3)
    model = channels_last(build_shaped("y = Conv <pads = [1, 1, 1, 1]> (x, w)", (1, 12, 8, 8), w=w), lambda _: True)
    model = int8_products(model, lambda weights: "tensor" if weights == "w" else None)
    (stored,) = (layout.tensor() for _, layout in with_layouts(model) if layout.form.storage == "int8")
    expected = rounded_weights(w.reshape(64, -1).T)[0].T.reshape(64, 12, 3, 3)
    np.testing.assert_array_equal(stored.numpy().reshape(3, 3, 12, 64), expected.transpose(2, 3, 1, 0))
    assert sorted(layout.form.storage for _, layout in with_layouts(model)) == ["int8", "scale"]


def test_other_products_stay_as_they_are(build: Build, run: Run) -> None:
    """Those that have no form, and those of two activations."""
    x = normal(64, 64)
    original = build(
        "a = MatMul (x, w) b = MatMul (a, x) y = MatMul (b, v)", x.shape, w=normal(64, 64), v=normal(64, 48)
    )
    expected = run(original, x)
    model = int8_products(original, lambda _: None)
    assert operators(model) == ["MatMul"] * 3
    np.testing.assert_array_equal(run(model, x), expected)
    asked = []
    int8_products(model, lambda weights: asked.append(weights))
    assert asked == ["w", "v"]
