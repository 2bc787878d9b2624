"""Graphs for CUDA as a whole: the numbers of the original by their twins, and a structure that the kernels take."""

import json
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pocket_diffusion.graph import OPERATORS
from pocket_export.parts import PictureDecoder, PictureEncoder
from pocket_export.rewrite.compute_float16 import element_type
from pocket_export.rewrite.cuda import kernels, portable
from pocket_export.targets import RECIPES
from pocket_models import VAE, UNet, UNetConfig, VAEConfig
from tracing import USUAL, Inputs, run_as_written, traced_module

Shapes = dict[str, tuple[int | str, ...]]

RANDOM = np.random.default_rng(0)
TOLERANCE = 1e-5  # float32 sums of up to some thousand terms, in another order, through some layers
KERNELS: dict[str, list[str]] = json.loads((Path(__file__).parent / "cuda_kernels.json").read_text())["operators"]

# Stable Diffusion's structure and number of groups, with two channels a group where it has ten.
UNET = UNetConfig(
    block_out_channels=(64, 128),
    layers_per_block=1,
    attention_levels=(True, False),
    attention_heads=(4, 4),
    cross_attention_dim=48,
)
LINEAR_UNET = UNetConfig(
    block_out_channels=(64,),
    layers_per_block=1,
    attention_levels=(True,),
    attention_heads=(4,),
    cross_attention_dim=48,
    use_linear_projection=True,
)
ODD_UNET = UNetConfig(
    block_out_channels=(32,),
    layers_per_block=1,
    attention_levels=(True,),
    attention_heads=(4,),
    cross_attention_dim=48,
)
VAE_CONFIG = VAEConfig(block_out_channels=(64, 64), layers_per_block=1)
WIDTHS = (512, 1024)
"""Of the gated layers, for which ONNX Runtime has no kernel, but for Stable Diffusion's."""
UNET_INPUTS: Shapes = {
    "latents": ("batch", 4, "height", "width"),
    "timestep": ("batch",),
    "context": ("contexts", "tokens", 48),
}
MODULES: dict[str, tuple[Callable[[], nn.Module], Shapes]] = {
    "U-Net": (partial(UNet, UNET), UNET_INPUTS),
    "U-Net, linear": (partial(UNet, LINEAR_UNET), UNET_INPUTS),
    "encoder": (lambda: PictureEncoder(VAE(VAE_CONFIG)), {"picture": ("batch", 3, "height", "width")}),
    "decoder": (lambda: PictureDecoder(VAE(VAE_CONFIG)), {"latents": ("batch", 4, "height", "width")}),
}
SIZES = [(1, 8, 8), (2, 5, 7)]


@pytest.fixture(autouse=True)
def wide_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_SPLIT_GELU_WIDTHS", WIDTHS)


def pixels_per_size(name: str) -> int:
    return VAE_CONFIG.downscale if name == "encoder" else 1


@cache
def traced(name: str) -> ir.Model:
    torch.manual_seed(0)
    make, inputs = MODULES[name]
    return traced_module(name, make(), inputs, downscale=VAE_CONFIG.downscale, pixels_per_size=pixels_per_size(name))


@cache
def for_cuda(name: str) -> ir.Model:
    model = traced(name).clone()
    model.meta.update(traced(name).meta)
    for rewrite in RECIPES["cuda", "fp32"].rewrites:
        model = rewrite(model)
    return model


def example(name: str, batch: int, height: int, width: int) -> Inputs:
    factor = pixels_per_size(name)
    sizes = USUAL | {"batch": batch, "contexts": batch, "height": factor * height, "width": factor * width}
    shapes = {key: [sizes[n] if isinstance(n, str) else n for n in shape] for key, shape in MODULES[name][1].items()}
    inputs = {key: RANDOM.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    return inputs | ({"timestep": np.full(batch, 321, np.float32)} if "timestep" in inputs else {})


def assert_same(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) <= TOLERANCE * np.linalg.norm(theirs)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("name", MODULES)
def test_the_twin_gives_what_the_original_gives_at_any_size(name: str) -> None:
    twin = portable(for_cuda(name).clone())
    for sizes in SIZES:
        inputs = example(name, *sizes)
        assert_same(run_as_written(twin, inputs), run_as_written(traced(name), inputs))


def test_one_picture_is_shared_by_all_contexts() -> None:
    """Sums inside of fused norms do not broadcast, as they did outside."""
    inputs = example("U-Net", 2, 5, 7)
    shared = inputs | {name: inputs[name][:1] for name in ("latents", "timestep")}
    repeated = inputs | {name: np.repeat(shared[name], 2, axis=0) for name in ("latents", "timestep")}
    assert_same(run_as_written(portable(for_cuda("U-Net").clone()), shared), run_as_written(traced("U-Net"), repeated))


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_turned_between_the_first_convolution_and_the_last(name: str) -> None:
    found = operators(for_cuda(name))
    assert found["Transpose"] == 2
    assert not {"Conv", "InstanceNormalization", "Sigmoid"} & found.keys()


@pytest.mark.parametrize("name", MODULES)
def test_every_norm_and_every_convolution_is_there_once(name: str) -> None:
    before, after = operators(traced(name)), operators(for_cuda(name))
    assert after["GroupNorm"] + after["SkipGroupNorm"] == before["InstanceNormalization"]
    assert after["NhwcConv"] + after["MatMul"] == before["Conv"] + before["MatMul"]
    assert after["LayerNormalization"] + after["SkipLayerNormalization"] == before["LayerNormalization"]
    assert after["BiasSplitGelu"] == before["Gelu"]


def test_sums_are_part_of_the_norms() -> None:
    found = operators(for_cuda("U-Net"))
    assert found["SkipLayerNormalization"] == 2 * found["BiasSplitGelu"]
    assert found["SkipGroupNorm"] > found["GroupNorm"]


@pytest.mark.parametrize("name", MODULES)
def test_every_operator_has_a_cuda_kernel(name: str) -> None:
    types = {ir.DataType.FLOAT: "float16", ir.DataType.INT64: "int64"}
    for node in for_cuda(name).graph:
        operator = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        wanted = element_type(node.outputs[0])
        assert types[wanted] in KERNELS[operator], operator


def test_the_table_of_kernels_knows_what_a_bundle_may_have() -> None:
    assert {name for name in KERNELS if name.startswith("com.microsoft:")} - OPERATORS == {
        *("com.microsoft:BiasAdd", "com.microsoft:Gelu")
    }


def test_norms_see_four_axes_with_channels_last() -> None:
    norms = [node for name in MODULES for node in for_cuda(name).graph if node.op_type.endswith("GroupNorm")]
    assert {node.attributes["channels_last"].as_int() for node in norms} == {1}
    shapes = [[value.shape for value in node.inputs[:2] if value is not None] for node in norms]
    known = [(x, gamma) for x, gamma in shapes if x is not None and gamma is not None]  # rewrites leave out some
    assert known
    assert all([len(x), x[3]] == [4, *gamma] for x, gamma in known)


def test_odd_groups_stay_and_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "odd", (partial(UNet, ODD_UNET), UNET_INPUTS))
    model = for_cuda("odd")
    joined = 2  # what the way up joins has twice the channels
    assert operators(model)["GroupNorm"] == joined
    assert operators(model)["InstanceNormalization"] == operators(traced("odd"))["InstanceNormalization"] - joined
    inputs = example("odd", 2, 5, 7)
    assert_same(run_as_written(portable(model.clone()), inputs), run_as_written(traced("odd"), inputs))
