"""Feature maps with their channels last: the same numbers at all sizes, and nothing turned on the way."""

from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocket_export.parts import PictureDecoder, PictureEncoder
from pocket_export.rewrite import channels_last, fuse_silu
from pocket_models import VAE, UNet
from pocket_models.attention import SpatialTransformer
from pocket_models.resnet import Downsample, ResnetBlock, Upsample
from reference import UNET
from reference import VAE as VAE_CONFIG
from tracing import USUAL, Inputs, run_as_written, traced_module

Build = Callable[..., ir.Model]

RANDOM = np.random.default_rng(0)
CHANNELS, CONTEXT = 16, 24
TOLERANCE = 1e-5  # float32 sums of up to some hundred terms, in another order, through some layers


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


class ThereAndBack(nn.Module):
    """To half the size, and back to what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = Downsample(CHANNELS), Upsample(CHANNELS)

    def forward(self, picture: Tensor) -> Tensor:
        up: Tensor = self.up(self.down(picture), like=picture)
        return up


class Enlarged(nn.Module):
    """A feature map of 1x1 products, enlarged, in a block whose shortcut is a product too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(CHANNELS, CHANNELS, 1), Upsample(CHANNELS)
        self.last = ResnetBlock(CHANNELS, 2 * CHANNELS, 4, 1e-5)

    def forward(self, picture: Tensor) -> Tensor:
        out: Tensor = self.last(self.up(self.first(picture)))
        return out


Shapes = dict[str, tuple[int | str, ...]]

PICTURE: Shapes = {"picture": ("batch", CHANNELS, "height", "width")}
TOKENS: Shapes = {"context": ("contexts", "tokens", CONTEXT)}
UNET_INPUTS: Shapes = {
    "latents": ("batch", UNET.in_channels, "height", "width"),
    "timestep": ("batch",),
    "context": ("contexts", "tokens", UNET.cross_attention_dim),
}
# The U-Net has resnet blocks that are told the timestep, symmetric padding, sizes that are rounded up and cropped, and
# transformers with 1x1 convolutions; encoder and decoder have the rest.
MODULES: dict[str, tuple[Callable[[], nn.Module], Shapes]] = {
    "half the size": (partial(Downsample, CHANNELS, asymmetric=True), PICTURE),
    "half the size and back": (ThereAndBack, PICTURE),
    "twice the size": (Enlarged, PICTURE),
    "transformer": (partial(SpatialTransformer, CHANNELS, CONTEXT, 2, 4, linear=True), PICTURE | TOKENS),
    "U-Net": (partial(UNet, UNET), UNET_INPUTS),
    "encoder": (lambda: PictureEncoder(VAE(VAE_CONFIG)), {"picture": ("batch", 3, "height", "width")}),
    "decoder": (lambda: PictureDecoder(VAE(VAE_CONFIG)), {"latents": ("batch", 4, "height", "width")}),
}
SIZES = [(1, 8, 8), (2, 5, 7), (3, 9, 2)]


def pixels_per_size(name: str) -> int:
    return VAE_CONFIG.downscale if name == "encoder" else 1


@cache
def traced(name: str) -> ir.Model:
    torch.manual_seed(0)
    make, inputs = MODULES[name]
    return fuse_silu(
        traced_module(name, make(), inputs, downscale=VAE_CONFIG.downscale, pixels_per_size=pixels_per_size(name))
    )


def rewritten(name: str, converts: Callable[[str], bool]) -> ir.Model:
    model = traced(name).clone()
    model.meta.update(traced(name).meta)
    return channels_last(model, converts)


def example(name: str, batch: int, height: int, width: int) -> Inputs:
    factor = pixels_per_size(name)
    sizes = USUAL | {"batch": batch, "contexts": batch, "height": factor * height, "width": factor * width}
    shapes = {key: [sizes[n] if isinstance(n, str) else n for n in shape] for key, shape in MODULES[name][1].items()}
    inputs = {key: normal(*shape) for key, shape in shapes.items()}
    return inputs | ({"timestep": np.full(batch, 321, np.float32)} if name == "U-Net" else {})


def assert_same(ours: NDArray[np.float32], theirs: NDArray[np.float32], tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


CONVERTED: dict[str, Callable[[str], bool]] = {
    "all": lambda _: True,
    "none": lambda _: False,
    "some": lambda weights: sum(weights.encode()) % 2 == 0,
    "the others": lambda weights: sum(weights.encode()) % 2 == 1,
}


@pytest.mark.parametrize("converted", CONVERTED)
@pytest.mark.parametrize("name", MODULES)
def test_any_size_gives_what_the_original_gives(name: str, converted: str) -> None:
    model = rewritten(name, CONVERTED[converted])
    for sizes in SIZES:
        inputs = example(name, *sizes)
        assert_same(run_as_written(model, inputs), run_as_written(traced(name), inputs))


def test_a_single_pixel_is_enough() -> None:
    for name in ("half the size and back", "U-Net", "decoder"):
        inputs = example(name, 1, 1, 1)
        assert_same(run_as_written(rewritten(name, lambda _: True), inputs), run_as_written(traced(name), inputs))


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_turned_between_the_first_convolution_and_the_last(name: str) -> None:
    """Nor copied to enlarge it. One Transpose takes the picture in, another gives it back."""
    before, after = Counter(operators(traced(name))), Counter(operators(rewritten(name, lambda _: True)))
    assert after["Transpose"] == 2
    assert not {"Conv", "InstanceNormalization", "Resize"} & after.keys()
    assert after["MatMul"] == before["MatMul"] + before["Conv"]


@pytest.mark.parametrize("converted", CONVERTED)
@pytest.mark.parametrize("name", MODULES)
def test_everything_is_computed_once(name: str, converted: str) -> None:
    before, after = operators(traced(name)), operators(rewritten(name, CONVERTED[converted]))
    for kinds in (("Conv", "MatMul"), ("QuickGelu",), ("InstanceNormalization", "Sqrt")):
        assert sum(map(after.count, kinds)) == sum(map(before.count, kinds))


def test_where_nothing_is_converted_nothing_is_turned() -> None:
    assert operators(rewritten("half the size", lambda _: False)) == ["Conv"]


def test_a_flat_picture_is_normalised_to_the_bias() -> None:
    """Its variance is 0 but for rounding, which must not make it negative: its root would be no number."""
    inputs = example("transformer", 1, 7, 9)
    for level in (33.3, 100.7):
        inputs["picture"][:] = level
        assert_same(
            run_as_written(rewritten("transformer", lambda _: True), inputs),
            run_as_written(traced("transformer"), inputs),
            1e-3,
        )


@pytest.mark.parametrize("name", MODULES)
def test_large_feature_maps_in_shares_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(channels_last.__globals__, "LARGE_BYTES", 0)
    model = rewritten(name, lambda _: True)
    for sizes in (*SIZES, (1, 3, 3)):
        inputs = example(name, *sizes)
        assert_same(run_as_written(model, inputs), run_as_written(traced(name), inputs))


def numbers(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


NEAREST = 'Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
STRANGERS: dict[str, tuple[str, dict[str, NDArray[Any]]]] = {
    "a function of each number": ("b = Tanh (a)", {}),
    "a sum along rows": ("c = ReduceMean <keepdims = 1> (a, n) b = Add (a, c)", {"n": numbers(2)}),
    "a number for all": ("b = Mul (a, n)", {"n": np.array(0.5, np.float32)}),
    "a number for each pixel": ("b = Add (a, n)", {"n": normal(1, 1, 6, 5)}),
    "a kernel with gaps": ("b = Conv <pads = [2, 2, 2, 2], dilations = [2, 2]> (a, v)", {}),
    "groups": ("b = Conv <group = 2, pads = [1, 1, 1, 1]> (a, n)", {"n": normal(16, 8, 3, 3)}),
    "a kernel of five by five": ("b = Conv <pads = [2, 2, 2, 2]> (a, n)", {"n": normal(16, 16, 5, 5)}),
    "reflection": ('b = Pad <mode = "reflect"> (a, n)', {"n": numbers(0, 0, 1, 1, 0, 0, 1, 1)}),
    "a smooth enlargement": ('b = Resize <mode = "linear"> (a, , n)', {"n": np.array([1, 1, 2, 2], np.float32)}),
    "three times the size": (f"b = {NEAREST} (a, , n)", {"n": np.array([1, 1, 3, 3], np.float32)}),
    "channels in another order": (
        "c = Slice (a, l, n, m) d = Slice (a, n, o, m) b = Concat <axis = 1> (d, c)",
        {"l": numbers(0), "m": numbers(1), "n": numbers(8), "o": numbers(16)},
    ),
    "rows below rows": ("b = Concat <axis = 2> (a, a)", {}),
    "rows as columns": ("b = Transpose <perm = [0, 1, 3, 2]> (a)", {}),
    "pixels as another picture's": ("c = Reshape (a, n) b = Mul (c, c)", {"n": numbers(2, 16, 5, 6)}),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_is_not_known_stays_right(build_shaped: Build, stranger: str) -> None:
    """Between two convolutions, the first of which is looked at by a third."""
    between, constants = STRANGERS[stranger]
    body = f"""
        a = Conv <pads = [1, 1, 1, 1]> (x, u, bias)
        {between}
        left = Conv <pads = [1, 1, 1, 1]> (b, v)
        third = Conv (a, w)
        right = GlobalAveragePool (third)
        y = Add (left, right)
    """
    weights = {"u": normal(16, 8, 3, 3), "bias": normal(16), "v": normal(16, 16, 3, 3), "w": normal(16, 16, 1, 1)}
    model = build_shaped(body, (2, 8, 6, 5), **weights, **constants)
    inputs = {"x": normal(2, 8, 6, 5)}
    expected = run_as_written(model, inputs)
    assert_same(run_as_written(channels_last(model, lambda _: True), inputs), expected)
