"""Winograd's forms of 3x3 convolutions: the same numbers at all sizes."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pocket_export.rewrite import store_float16, winograd
from pocket_export.rewrite.convolution_costs import Convolution, cheapest_tile

Build = Callable[..., ir.Model]
Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(24, 20, 3, 3)).astype(np.float32)
BIAS = RANDOM.normal(size=24).astype(np.float32)
CONV = "y = Conv <pads = [1, 1, 1, 1]> (x, w, b)"
SIZES = [(1, 1), (2, 3), (4, 4), (5, 8), (7, 13), (16, 6), (17, 17)]
TOLERANCE = {2: 2e-6, 4: 2e-5}  # the transforms multiply by up to 1 (m = 2) or 5 (m = 4), each of them twice


def picture(height: int, width: int, batch: int = 2) -> NDArray[np.float32]:
    return RANDOM.normal(size=(batch, 20, height, width)).astype(np.float32)


def directly(x: NDArray[np.float32], bias: NDArray[np.float32] | None = BIAS) -> NDArray[np.float64]:
    """In float64, so that the whole difference is ours."""
    weights, tensors = torch.from_numpy(WEIGHTS).double(), torch.from_numpy(x).double()
    y = functional.conv2d(tensors, weights, None if bias is None else torch.from_numpy(bias).double(), padding=1)
    return y.numpy()


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.fixture
def rewritten(build: Build) -> Callable[..., ir.Model]:
    def rewrite(
        tile: int, body: str = CONV, usual: tuple[int, int] = (16, 16), **weights: NDArray[np.float32]
    ) -> ir.Model:
        model = build(body, ("batch", 20, "height", "width"), **({"w": WEIGHTS, "b": BIAS} | weights))
        model.meta["usual_sizes"] = {"batch": 2, "height": usual[0], "width": usual[1]}
        return winograd(model, lambda _: tile)

    return rewrite


each_layout = pytest.mark.parametrize("usual", [(4, 4), (16, 16)], ids=["joined samples", "each sample alone"])


@each_layout
@pytest.mark.parametrize("tile", [2, 4])
def test_any_size_gives_what_the_direct_form_gives(
    rewritten: Callable[..., ir.Model], run: Run, tile: int, usual: tuple[int, int]
) -> None:
    model = rewritten(tile, usual=usual)
    assert operators(model).count("ConvTranspose") == 1
    assert operators(model).count("Transpose") == (2 if usual == (4, 4) else 0)
    for batch, (height, width) in enumerate(SIZES, start=1):
        x = picture(height, width, batch)
        expected = directly(x)
        assert np.linalg.norm(run(model, x) - expected) / np.linalg.norm(expected) < TOLERANCE[tile]


@each_layout
@pytest.mark.parametrize("tile", [2, 4])
def test_bands_join_without_a_seam(
    rewritten: Callable[..., ir.Model], run: Run, tile: int, usual: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there are more bands than rows of tiles, or these do not share out evenly."""
    monkeypatch.setitem(winograd.__globals__, "BAND_BYTES", 30e3 * usual[0] ** 2 / 16**2)
    model = rewritten(tile, usual=usual)
    assert operators(model).count("ConvTranspose") > 3
    for batch, (height, width) in enumerate(SIZES, start=1):
        x = picture(height, width, batch)
        expected = directly(x)
        assert np.abs(run(model, x) - expected).max() < 10 * TOLERANCE[tile] * np.abs(expected).max()


def test_large_pictures_go_through_in_bands(rewritten: Callable[..., ir.Model]) -> None:
    small, large = rewritten(4), rewritten(4, usual=(1024, 1024))
    assert operators(small).count("MatMul") == 1
    # 36/16 of 2 x 24 channels of 1024 x 1024 pixels of 4 bytes, in pieces of 64 MB
    assert operators(large).count("MatMul") == 8


def test_without_a_bias(rewritten: Callable[..., ir.Model], run: Run) -> None:
    model = rewritten(4, "y = Conv <pads = [1, 1, 1, 1]> (x, w)")
    x = picture(9, 10)
    np.testing.assert_allclose(run(model, x), directly(x, bias=None), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv <pads = [0, 0, 0, 0]> (x, w, b)",
        "y = Conv (x, w, b)",
        "y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)",
        "y = Conv <pads = [2, 2, 2, 2], dilations = [2, 2]> (x, w, b)",
    ],
)
def test_other_convolutions_are_left_alone(rewritten: Callable[..., ir.Model], body: str) -> None:
    assert operators(rewritten(4, body)) == ["Conv"]


def test_groups_and_other_kernels_are_left_alone(rewritten: Callable[..., ir.Model]) -> None:
    grouped, wide = WEIGHTS[:, :10], RANDOM.normal(size=(24, 20, 1, 1)).astype(np.float32)
    assert operators(rewritten(4, "y = Conv <pads = [1, 1, 1, 1], group = 2> (x, w, b)", w=grouped)) == ["Conv"]
    assert operators(rewritten(4, "y = Conv (x, w, b)", w=wide)) == ["Conv"]


def test_weights_are_stored_as_they_were(rewritten: Callable[..., ir.Model], run: Run) -> None:
    model = store_float16(rewritten(4))
    stored = model.graph.initializers["w.fp16"].const_value
    assert stored is not None
    np.testing.assert_array_equal(stored.numpy(), WEIGHTS.astype(np.float16))
    x = picture(12, 12)
    # Float16 weights are off by 2⁻¹² on average.
    assert np.linalg.norm(run(model, x) - directly(x)) / np.linalg.norm(directly(x)) < 5e-4


def test_constant_folding_leaves_the_transform_alone(rewritten: Callable[..., ir.Model]) -> None:
    """Transformed at load, the weights would take four times the memory: the transform's matrix can be overridden."""
    model = rewritten(4)
    assert [value.name for value in model.graph.inputs] == ["x", "winograd_4_g", "winograd_flat"]
    assert model.graph.initializers["winograd_4_g"] is model.graph.inputs[1]


def test_the_table_decides() -> None:
    """Large maps of many channels gain most; small maps and thin ones nothing."""
    assert cheapest_tile(Convolution(512, 512, 256 * 256)) == 4
    assert cheapest_tile(Convolution(320, 320, 2 * 64 * 64)) == 4
    assert cheapest_tile(Convolution(96, 96, 2 * 4 * 4)) is None
    assert cheapest_tile(Convolution(4, 320, 2 * 64 * 64)) is None


@pytest.mark.parametrize("tile", [2, 4])
def test_many_channels_are_made_a_part_at_a_time(
    rewritten: Callable[..., ir.Model], run: Run, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(winograd.__globals__, "PART_BYTES", 24 * 20 * 4 * (tile + 2) ** 2 / 4.5)
    model = rewritten(tile)
    assert operators(model).count("Gemm") == 5
    parts = {name: v.const_value.shape.numpy() for name, v in model.graph.initializers.items() if name.startswith("w.")}  # type: ignore[union-attr]
    assert list(parts.values()) == [(n, 20, 3, 3) for n in (4, 5, 5, 5, 5)]
    x = picture(9, 6)
    expected = directly(x)
    assert np.linalg.norm(run(model, x) - expected) / np.linalg.norm(expected) < TOLERANCE[tile]


@pytest.mark.parametrize("tile", [2, 4])
def test_transforms_filter_as_their_definition_does(tile: int) -> None:
    """Lavin and Gray 2016, equation 5, in one dimension: m outputs of a 3-tap filter from m + 2 inputs."""
    outputs, kernels, inputs = winograd.__globals__["transforms"](tile)
    signal, taps = RANDOM.normal(size=tile + 2), RANDOM.normal(size=3)
    np.testing.assert_allclose(
        outputs @ ((kernels @ taps) * (inputs @ signal)), np.correlate(signal, taps, "valid"), atol=1e-12
    )
