"""Large feature maps in bands: the same numbers, and nothing large but what passes between convolutions."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pocket_diffusion.bundle import TensorSpec
from pocket_diffusion.machine.cpu import products_are_right
from pocket_export.parts import Part
from pocket_export.rewrite import bands, channels_last, fuse_silu, int8_products
from pocket_export.rewrite.int8_products import Form
from pocket_export.trace import trace
from pocket_models.resnet import Downsample, ResnetBlock, Upsample

pytestmark = pytest.mark.skipif(not products_are_right(), reason="8-bit products are wrong on this CPU")

Run = Callable[[ir.Model, NDArray[np.float32]], NDArray[np.float32]]

CHANNELS = 16
PICTURE = ("batch", CHANNELS, "height", "width")
USUAL = {"batch": 2, "height": 64, "width": 64, "latent_height": 64, "latent_width": 64}


def blocks() -> nn.Module:
    """Norms, strides, an enlargement, a shortcut, and a convolution after which another is added."""
    return nn.Sequential(
        Downsample(CHANNELS), ResnetBlock(CHANNELS, 2 * CHANNELS, 4, 1e-5), Upsample(2 * CHANNELS)
    ).eval()


@pytest.fixture(scope="module")
def traced() -> ir.Model:
    torch.manual_seed(0)
    inputs, outputs = (
        (TensorSpec(name=name, dtype="float32", shape=shape),) for name, shape in (("x", PICTURE), ("y", ()))
    )
    return fuse_silu(trace(Part("blocks", blocks(), inputs, outputs, USUAL, 1)))


@pytest.fixture
def in_8_bits(traced: ir.Model, monkeypatch: pytest.MonkeyPatch) -> Callable[[Form], ir.Model]:
    """With all that `bands` may cut, whatever its size."""
    monkeypatch.setitem(channels_last.__globals__, "LARGE_BYTES", 0)

    def in_8_bits(form: Form) -> ir.Model:
        model = traced.clone()
        model.meta.update(traced.meta)
        return int8_products(channels_last(model, lambda _: True), lambda _: form)

    return in_8_bits


def counted(model: ir.Model) -> Counter[str]:
    """Operators, without those inside Scans."""
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("form", ["tensor", "two_terms"])
def test_bands_join_without_a_seam(in_8_bits: Callable[[Form], ir.Model], run: Run, form: Form) -> None:
    """Also where heights are odd, and where there is one row."""
    whole, banded = in_8_bits(form), bands(in_8_bits(form))
    for shape in ((1, CHANNELS, 64, 32), (2, CHANNELS, 24, 16), (3, CHANNELS, 7, 5), (1, CHANNELS, 1, 1)):
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        np.testing.assert_array_equal(run(banded, x), run(whole, x))


def test_windows_are_multiplied_inside_scans(in_8_bits: Callable[[Form], ir.Model]) -> None:
    before, after = counted(in_8_bits("tensor")), counted(bands(in_8_bits("tensor")))
    # The shortcut is a product of tokens as they are; the four convolutions of windows are not.
    assert (before["MatMulIntegerToFloat"], after["MatMulIntegerToFloat"]) == (5, 1)
    assert after["QuickGelu"] == 0
    assert after["Scan"] - before["Scan"] == 4 + 2 * 2  # and both norms of the block are rounded in two


def test_both_terms_go_through_one_scan(in_8_bits: Callable[[Form], ir.Model]) -> None:
    """What they read is needed twice, so it is not rounded in shares."""
    before, after = counted(in_8_bits("two_terms")), counted(bands(in_8_bits("two_terms")))
    assert (before["MatMulIntegerToFloat"], after["MatMulIntegerToFloat"]) == (10, 2)
    assert after["Scan"] - before["Scan"] == 4
    assert after["QuickGelu"] == before["QuickGelu"] == 2


def test_small_feature_maps_stay_whole(traced: ir.Model) -> None:
    model = traced.clone()
    model.meta.update(traced.meta)
    rounded = int8_products(channels_last(model, lambda _: True), lambda _: "tensor")
    assert counted(bands(rounded))["Scan"] == 0
