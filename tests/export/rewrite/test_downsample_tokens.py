"""Self-attention at the finest level with fewer keys and values, where that is asked for."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocket_diffusion.bundle import TensorSpec
from pocket_export.parts import Part
from pocket_export.rewrite import downsample_tokens, int8_products
from pocket_export.trace import trace
from pocket_models.attention import Attention, SpatialTransformer
from pocket_models.resnet import Downsample

OPTION = "token_downsampling"
SIZES = {"batch": 2, "contexts": 2, "height": 6, "width": 10, "tokens": 7, "latent_height": 6, "latent_width": 10}


class Network(nn.Module):
    """One transformer at the latents' own size and one at half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = (SpatialTransformer(32, 16, 2, 8, linear=False) for _ in range(2))
        self.down = Downsample(32)

    def forward(self, latents: Tensor, context: Tensor) -> Tensor:
        x: Tensor = self.coarse(self.down(self.fine(latents, context)), context)
        return x


class Thinned(Attention):
    """The same attention, whose keys and values are every n-th of every n-th row."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        if x is context:
            rows = x.unflatten(1, (SIZES["height"], SIZES["width"]))
            context = rows[:, ::2, ::2].flatten(1, 2)
        return super().forward(x, context)


@pytest.fixture(scope="module")
def part() -> Part:
    torch.manual_seed(0)
    specs = [
        TensorSpec(name="latents", dtype="float32", shape=("batch", 32, "height", "width")),
        TensorSpec(name="context", dtype="float32", shape=("batch", "tokens", 16)),
    ]
    out = TensorSpec(name="noise", dtype="float32", shape=("batch", 32, "h", "w"))
    return Part("unet", Network().eval(), tuple(specs), (out,), SIZES, 8)


@pytest.fixture(scope="module")
def inputs(part: Part) -> dict[str, NDArray[np.float32]]:
    return {spec.name: x.numpy() for spec, x in zip(part.inputs, part.example(SIZES), strict=True)}


def run(model: ir.Model, feeds: dict[str, NDArray[np.float32]], every: int | None = None) -> NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    more = {} if every is None else {OPTION: np.array([every])}
    return np.asarray(session.run(None, {**feeds, **more})[0])


def test_nothing_changes_unless_it_is_asked_for(part: Part, inputs: dict[str, NDArray[np.float32]]) -> None:
    plain = run(trace(part), inputs)
    model = downsample_tokens(trace(part))
    assert np.array_equal(run(model, inputs), plain)
    assert np.array_equal(run(model, inputs, 1), plain)


def test_the_finest_level_alone_looks_at_every_second_token_of_every_second_row(
    part: Part, inputs: dict[str, NDArray[np.float32]]
) -> None:
    model = downsample_tokens(trace(part))
    theirs = Network().eval()
    theirs.load_state_dict(part.module.state_dict())
    theirs.fine.transformer_blocks[0].attn1.__class__ = Thinned
    with torch.inference_mode():
        wanted = theirs(*(torch.from_numpy(x) for x in inputs.values())).numpy()
    np.testing.assert_allclose(run(model, inputs, 2), wanted, rtol=1e-4, atol=1e-5)  # float32 sums in another order
    assert np.abs(run(model, inputs) - wanted).max() > 1e-3


def test_in_8_bits_tokens_are_rounded_once_and_then_taken(part: Part) -> None:
    model = int8_products(downsample_tokens(trace(part)), lambda _name: "tensor")
    gathers = [node for node in model.graph if node.op_type == "Gather" and node.inputs[0].dtype != ir.DataType.INT64]  # type: ignore[union-attr]
    (gather,) = [node for node in gathers if len(node.inputs[1].shape or ()) != 0 or node.inputs[1].producer()]  # type: ignore[union-attr]
    source = gather.inputs[0].producer()  # type: ignore[union-attr]
    assert source is not None and source.op_type == "DynamicQuantizeLinear"
    users = {use.node.op_type for use in source.outputs[0].uses()}
    assert users == {"Gather", "MatMulIntegerToFloat"}  # keys and values of fewer tokens, queries of all


def test_a_network_without_latents_is_left_alone() -> None:
    part = Part(
        "text_encoder", nn.Linear(4, 4).eval(),
        (TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
        (TensorSpec(name="y", dtype="float32", shape=("batch", 4)),), SIZES, 8,
    )  # fmt: skip
    model = downsample_tokens(trace(part))
    assert [value.name for value in model.graph.inputs] == ["x"]
